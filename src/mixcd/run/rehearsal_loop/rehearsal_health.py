"""Is rehearsal working? Live metrics, and the three failure signs as one-line warnings."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from mixcd.ideas.lift import DrawSums, LiftSums, sum_window
from mixcd.words.vocabulary import DamageCounts, Floats, Ids, Partition

WINDOW = 50
"""Steps in the windows that the damage rate is compared over."""
LEAST_OBSERVED = 500
"""Observations before the lift is judged."""
LEAST_LIFT = 1.1
LEAST_EFFECTIVE_BINS = 2.0
MOST_TOP_SHARE = 0.5
LEAST_DAMAGED = 10
"""Damaged samples a window needs before its rate is compared: fewer double by chance."""
SURE = 1.96
"""Standard errors by which a rate of weighted draws must have more than doubled: a few of them weigh much."""


@dataclass(frozen=True)
class Seen:
    """What some steps observed.

    Args:
        draws: The same draws, weighted by their chances.
        squares: Σ d² of each bin, d the damage of a sample, shape (bins,): the damaged count, unless damage is graded.
    """

    counts: DamageCounts
    draws: DrawSums
    squares: Floats

    def __add__(self, other: "Seen") -> "Seen":
        return Seen(self.counts + other.counts, self.draws + other.draws, self.squares + other.squares)


@dataclass(frozen=True)
class DamageHistory:
    """What was observed and damaged, over all steps and over two windows.

    Args:
        recent: The steps of the current window, at most `WINDOW`.
        earlier: The whole window before it.
        closed_windows: What the lift of the bins is made of, over all whole windows but the current one.
    """

    step_count: int
    total: Seen
    recent: Seen
    earlier: Seen
    closed_windows: LiftSums


@dataclass(frozen=True)
class Vitals:
    """How rehearsal is doing.

    Args:
        damage_rate: Estimated share of the whole prior data that is damaged, over the last 50 to 100 steps.
        yield_rate: Share of the rehearsed samples found damaged, over the same steps.
        lift: How much likelier a drawn sample is damaged than a uniform draw, over all steps; NaN until damage was
            seen. Where draws follow bins, it is the noise-corrected lift of the bins.
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

    def __str__(self) -> str:
        """Return the metrics in words, rounded; those that are not known yet are left out."""
        texts = {
            f"damage rate {self.damage_rate:.1%} of the prior data": self.damage_rate,
            f"yield {self.yield_rate:.1%} of the rehearsed samples, both over the last steps": self.yield_rate,
            f"lift {self.lift:.2f} over all steps": self.lift,
            f"effective bins {self.effective_bins:.1f}": self.effective_bins,
            f"the likeliest 1 % of the samples get {self.top_share:.1%} of the draws": self.top_share,
        }
        return "; ".join(text for text, value in texts.items() if isfinite(value))


def empty_history(bin_count: int) -> DamageHistory:
    """Return the history before the first step."""
    zero = Seen(DamageCounts(np.zeros(bin_count), np.zeros(bin_count)), DrawSums(), np.zeros(bin_count))
    return DamageHistory(0, zero, zero, zero, LiftSums())


def add_step(history: DamageHistory, seen: Seen, bin_sizes: Ids) -> DamageHistory:
    """Add one step."""
    step_count, total = history.step_count + 1, history.total + seen
    if history.step_count > 0 and history.step_count % WINDOW == 0:
        closed_windows = history.closed_windows + sum_window(history.recent.counts, bin_sizes, history.recent.squares)
        return DamageHistory(step_count, total, seen, history.recent, closed_windows)
    return DamageHistory(step_count, total, history.recent + seen, history.earlier, history.closed_windows)


def measure_vitals(
    history: DamageHistory, partition: Partition, candidate_ids: Ids, weights: Floats, draws_by_bins: bool = True
) -> Vitals:
    """Measure how rehearsal is doing.

    Where draws are uniform inside a bin, the rates of bins are those of their samples, and need no weights. An
    estimator that draws by sample picks the damaged ones of a bin: its draws are weighted by one over their chances.

    Args:
        candidate_ids: A uniform selection of prior samples, shape (candidates,).
        weights: Their drawing weights under the latest belief, shape (candidates,).

    Returns:
        The vitals; rates are NaN while nothing was observed.
    """
    window = history.recent + history.earlier
    if draws_by_bins:
        current = sum_window(history.recent.counts, partition.bin_sizes, history.recent.squares)
        lift = (history.closed_windows + current).to_lift()
    else:
        lift = history.total.draws.to_lift()
    top_count = max(1, weights.size // 100)
    return Vitals(
        damage_rate=_damage_rate(window, partition.bin_sizes, draws_by_bins),
        yield_rate=_ratio(window.draws.damaged, window.draws.observed),
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

    Returns:
        One line for each sign that shows, by its name: "no signal", "too aggressive", "unstable".
    """
    signs = {}
    observed = history.total.draws.observed
    if observed >= LEAST_OBSERVED and vitals.lift_high < LEAST_LIFT:
        if not draws_by_bins:
            signs["no signal"] = (
                f"No signal: after {observed:.0f} observations the drawn samples are damaged at most "
                f"{vitals.lift_high:.2f} times as often as uniform draws would be. Try the loss bins of "
                '`estimator="counts"`, or another `partition`; uniform rehearsal would do as well.'
            )
        elif bin_sizes.size > 1:
            signs["no signal"] = (
                f"No signal: after {observed:.0f} observations the lift of the {bin_sizes.size} bins is at most "
                f"{vitals.lift_high:.2f}, so damage falls evenly on them. Try another `partition`, such as a column of "
                "the data; uniform rehearsal would do as well."
            )
    if bin_sizes.size > 1:
        narrow = ""
        if vitals.effective_bins < min(LEAST_EFFECTIVE_BINS, _effective_count(bin_sizes) / 2):
            narrow = f"the draws fall on {vitals.effective_bins:.1f} of {bin_sizes.size} bins"
        elif vitals.top_share > MOST_TOP_SHARE:
            narrow = f"1 % of the prior samples take {vitals.top_share:.0%} of the draws"
        if narrow:
            signs["too aggressive"] = f"Too aggressive: {narrow}. Try fewer bins, or a larger `mix_ratio`."
    earlier, recent = (_damage_rate(seen, bin_sizes, draws_by_bins) for seen in (history.earlier, history.recent))
    if (
        history.step_count % WINDOW == 0
        and history.recent.draws.damaged >= LEAST_DAMAGED
        and recent > 2 * earlier + (0.0 if draws_by_bins else SURE * _doubling_error(history))
    ):
        signs["unstable"] = (
            f"Unstable: the damage rate rose from {earlier:.1%} to {recent:.1%} within {2 * WINDOW} steps. Try a lower "
            "learning rate or a larger `mix_ratio`."
        )
    return signs


def _doubling_error(history: DamageHistory) -> float:
    """Standard error of the recent damage rate less twice the earlier one, of weighted draws."""
    return float(np.hypot(2 * history.earlier.draws.damage_rate_error, history.recent.draws.damage_rate_error))


def _damage_rate(seen: Seen, bin_sizes: Ids, draws_by_bins: bool) -> float:
    if not draws_by_bins:
        return seen.draws.damage_rate
    observed = seen.counts.observed_count > 0
    rates = seen.counts.damaged_count[observed] / seen.counts.observed_count[observed]  # α_k
    return _ratio(float(bin_sizes[observed] @ rates), bin_sizes[observed].sum())


def _effective_count(shares: Floats | Ids) -> float:
    return float(shares.sum() ** 2 / np.square(shares, dtype=np.float64).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
