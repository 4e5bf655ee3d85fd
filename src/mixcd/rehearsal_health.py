"""Is rehearsal working? Live metrics, and the three failure signs as one-line warnings."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from mixcd.lift import LiftSums, sum_window
from mixcd.vocabulary import DamageCounts, Floats, Ids, Partition

WINDOW = 50
"""Steps in the windows that the damage rate is compared over."""
LEAST_OBSERVED = 500
"""Observations before the lift is judged."""
LEAST_LIFT = 1.1
LEAST_EFFECTIVE_BINS = 2.0
MOST_TOP_SHARE = 0.5
LEAST_DAMAGED = 10
"""Damaged samples a window needs before its rate is compared: fewer double by chance."""


@dataclass(frozen=True)
class DamageHistory:
    """What was observed and damaged in each bin, over all steps and over two windows.

    Args:
        step_count: The number of steps.
        total: All steps.
        recent: The steps of the current window, at most `WINDOW`.
        earlier: The whole window before it.
        closed_windows: What the lift is made of, over all whole windows but the current one.
    """

    step_count: int
    total: DamageCounts
    recent: DamageCounts
    earlier: DamageCounts
    closed_windows: LiftSums


@dataclass(frozen=True)
class Vitals:
    """How rehearsal is doing.

    Args:
        damage_rate: Estimated share of the whole prior data that is damaged, over the last 50 to 100 steps; too
            high when an estimator picks the damaged samples of a bin, as the drift estimator does.
        yield_rate: Share of the rehearsed samples found damaged, over the same steps.
        lift: Noise-corrected lift of the bins over all steps; NaN until damage was seen.
        lift_high: Its upper 95 % bound.
        effective_bins: Inverse Simpson index of the bins' shares of the coming draws.
        top_share: Share of the coming draws that the likeliest 1 % of the samples take.
    """

    damage_rate: float
    yield_rate: float
    lift: float
    lift_high: float
    effective_bins: float
    top_share: float

    def to_log(self) -> dict[str, float]:
        """Return the metrics for a tracker, without those that are not known yet."""
        metrics = {
            "mixcd/damage_rate": self.damage_rate,
            "mixcd/yield": self.yield_rate,
            "mixcd/lift": self.lift,
            "mixcd/effective_bins": self.effective_bins,
            "mixcd/top_1_percent_share": self.top_share,
        }
        return {name: value for name, value in metrics.items() if isfinite(value)}


def empty_history(bin_count: int) -> DamageHistory:
    """Return the history before the first step.

    Args:
        bin_count: The number of bins.

    Returns:
        Zero counts, shape (bins,).
    """
    zero = DamageCounts(np.zeros(bin_count), np.zeros(bin_count))
    return DamageHistory(0, zero, zero, zero, LiftSums())


def add_step(history: DamageHistory, counts: DamageCounts, bin_sizes: Ids) -> DamageHistory:
    """Add one step's counts.

    Args:
        history: The history so far. It is left as it was.
        counts: The step's counts, shape (bins,).
        bin_sizes: The number of prior samples in each bin, shape (bins,).

    Returns:
        The history with this step.
    """
    step_count, total = history.step_count + 1, history.total + counts
    if history.step_count > 0 and history.step_count % WINDOW == 0:
        closed_windows = history.closed_windows + sum_window(history.recent, bin_sizes)
        return DamageHistory(step_count, total, counts, history.recent, closed_windows)
    return DamageHistory(step_count, total, history.recent + counts, history.earlier, history.closed_windows)


def measure_vitals(history: DamageHistory, partition: Partition, candidate_ids: Ids, weights: Floats) -> Vitals:
    """Measure how rehearsal is doing.

    Args:
        history: What was observed so far.
        partition: The bins.
        candidate_ids: A uniform selection of prior samples, shape (candidates,).
        weights: Their drawing weights under the latest belief, shape (candidates,).

    Returns:
        The vitals; rates are NaN while nothing was observed.
    """
    window = history.recent + history.earlier
    lift = (history.closed_windows + sum_window(history.recent, partition.bin_sizes)).to_lift()
    top_count = max(1, weights.size // 100)
    return Vitals(
        damage_rate=_mean_rate(window, partition.bin_sizes),
        yield_rate=_ratio(window.damaged_count.sum(), window.observed_count.sum()),
        lift=lift.value,
        lift_high=lift.high,
        effective_bins=_effective_count(
            np.bincount(partition.bin_ids[candidate_ids].astype(np.int64) + 1, weights=weights)
        ),
        top_share=float(np.partition(weights, -top_count)[-top_count:].sum()),
    )


def find_failure_signs(
    history: DamageHistory, vitals: Vitals, bin_sizes: Ids, draws_by_bins: bool = True
) -> dict[str, str]:
    """Say what looks wrong: what was seen, and what to try.

    An estimator that draws by sample picks the damaged ones of a bin, so the rates of bins rise as it learns and
    say nothing of the bins: "no signal" and "unstable" are not told of it.

    Args:
        history: What was observed so far.
        vitals: The vitals after it.
        bin_sizes: The number of prior samples in each bin, shape (bins,).
        draws_by_bins: Whether draws are uniform inside a bin.

    Returns:
        One line for each sign that shows, by its name: "no signal", "too aggressive", "unstable".
    """
    signs = {}
    if bin_sizes.size > 1:
        observed = history.total.observed_count.sum()
        if draws_by_bins and observed >= LEAST_OBSERVED and vitals.lift_high < LEAST_LIFT:
            signs["no signal"] = (
                f"No signal: after {observed:.0f} observations the lift of the {bin_sizes.size} bins is at most "
                f"{vitals.lift_high:.2f}, so damage falls evenly on them. Try another `partition`, such as a column of "
                "the data; uniform rehearsal would do as well."
            )
        if vitals.effective_bins < min(LEAST_EFFECTIVE_BINS, _effective_count(bin_sizes) / 2):
            signs["too aggressive"] = (
                f"Too aggressive: the draws fall on {vitals.effective_bins:.1f} of {bin_sizes.size} bins. Try fewer "
                "bins, or a larger `mix_ratio`."
            )
        elif vitals.top_share > MOST_TOP_SHARE:
            signs["too aggressive"] = (
                f"Too aggressive: 1 % of the prior samples take {vitals.top_share:.0%} of the draws. Try fewer "
                "bins, or a larger `mix_ratio`."
            )
    earlier, recent = (_mean_rate(counts, bin_sizes) for counts in (history.earlier, history.recent))
    window_is_full = history.step_count % WINDOW == 0
    if (
        draws_by_bins
        and window_is_full
        and recent > 2 * earlier
        and history.recent.damaged_count.sum() >= LEAST_DAMAGED
    ):
        signs["unstable"] = (
            f"Unstable: the damage rate rose from {earlier:.1%} to {recent:.1%} within {2 * WINDOW} steps. Try a lower "
            "learning rate or a larger `mix_ratio`."
        )
    return signs


def _mean_rate(counts: DamageCounts, bin_sizes: Ids) -> float:
    seen = counts.observed_count > 0
    rates = counts.damaged_count[seen] / counts.observed_count[seen]  # α_k
    return _ratio(float(bin_sizes[seen] @ rates), bin_sizes[seen].sum())


def _effective_count(shares: Floats | Ids) -> float:
    return float(shares.sum() ** 2 / np.square(shares, dtype=np.float64).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
