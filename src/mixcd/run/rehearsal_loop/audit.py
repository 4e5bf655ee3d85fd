"""The audit: how near the free damage rates come to those of extra inference, and how stable both are."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from mixcd.ideas.lift import spread_of_damage
from mixcd.run.rehearsal_loop.rehearsal_health import DamageHistory, Seen
from mixcd.words.vocabulary import DamageCounts, Floats, Ids


@dataclass(frozen=True)
class Audit:
    """The free damage rates beside the probe's, over all steps; shape (bins,), NaN where nothing was observed.

    Paper: the free estimate against the unbiased one from extra inference.

    Args:
        free: Damage rates from the training forward.
        probed: Damage rates from the probe.
        free_count: What the free rates rest on.
        probed_count: What the probe's rest on.
        error: Mean absolute difference, each bin weighing what it holds of the prior data.
        bias: Mean difference, free less probed, likewise: dropout raises it, recent rehearsal lowers it.
        noise: The mean absolute difference that chance alone would leave between two such samples.
        rank_correlation: Spearman's, over the bins that both observed; NaN with fewer than three.
        free_change: How much the free rates changed from one window of 50 observed steps to the next: mean absolute
            difference, weighted likewise; NaN before the second window.
        probed_change: The same for the probe.
    """

    free: Floats
    probed: Floats
    free_count: Floats
    probed_count: Floats
    error: float
    bias: float
    noise: float
    rank_correlation: float
    free_change: float
    probed_change: float

    def __str__(self) -> str:
        return (
            f"free against probed damage rates: error {self.error:.3f} (chance alone {self.noise:.3f}), bias "
            f"{self.bias:+.3f}, rank correlation {self.rank_correlation:.2f} over {self.free.size} bins; change from "
            f"window to window: free {self.free_change:.3f}, probed {self.probed_change:.3f}"
        )


def compare_rates(free: DamageHistory, probed: DamageHistory, bin_sizes: Ids) -> Audit:
    """Compare the free damage rates with the probe's."""
    free_rate, probed_rate = _rates(free.total.counts), _rates(probed.total.counts)
    both = np.isfinite(free_rate) & np.isfinite(probed_rate)
    return Audit(
        free=free_rate,
        probed=probed_rate,
        free_count=free.total.counts.observed_count,
        probed_count=probed.total.counts.observed_count,
        error=_mean(np.abs(free_rate - probed_rate), bin_sizes),
        bias=_mean(free_rate - probed_rate, bin_sizes),
        noise=_mean(_expected_difference(free.total, probed.total), bin_sizes),
        rank_correlation=_rank_correlation(free_rate[both], probed_rate[both]),
        free_change=_mean(np.abs(_rates(free.recent.counts) - _rates(free.earlier.counts)), bin_sizes),
        probed_change=_mean(np.abs(_rates(probed.recent.counts) - _rates(probed.earlier.counts)), bin_sizes),
    )


def _rates(counts: DamageCounts) -> Floats:
    observed, damaged = counts.observed_count, counts.damaged_count
    return np.divide(damaged, observed, out=np.full_like(damaged, np.nan), where=observed > 0)


def _mean(values: Floats, bin_sizes: Ids) -> float:
    """The mean over the bins that have a value, weighted by size; NaN without any."""
    known = np.isfinite(values)
    return float(np.average(values[known], weights=bin_sizes[known])) if known.any() else float("nan")


def _expected_difference(a: Seen, b: Seen) -> Floats:
    """E|p̂_a − p̂_b| of two samples of one rate: √(2/π) times the standard error of the difference."""
    both = a.counts + b.counts
    spread = spread_of_damage(both, a.squares + b.squares)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance: Floats = spread * (1 / a.counts.observed_count + 1 / b.counts.observed_count)
    return np.where(np.isfinite(variance), np.sqrt(2 / np.pi * variance), np.nan)


def _rank_correlation(free: Floats, probed: Floats) -> float:
    if free.size < 3 or np.ptp(free) == 0 or np.ptp(probed) == 0:
        return float("nan")
    return float(spearmanr(free, probed).statistic)
