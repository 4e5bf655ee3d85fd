"""Lift: how much likelier drawn samples are damaged than a uniform draw, corrected for noise."""

from dataclasses import dataclass

import numpy as np

from mixcd.vocabulary import DamageCounts, Floats, Ids, Partition

_Z = 1.96


@dataclass(frozen=True)
class Lift:
    """An estimate of lift with its 95 % interval.

    Args:
        value: The estimate, at least 1 (NaN while nothing damaged was observed).
        low: Lower bound, at least 1.
        high: Upper bound.
    """

    value: float
    low: float
    high: float


def estimate_lift(counts: DamageCounts, bin_sizes: Ids) -> Lift:
    """Estimate what drawing in proportion to the damage rates of these bins gains over uniform draws.

    Lift is `Σ P_k α_k² / (Σ P_k α_k)² = 1 + CV²(α)`. Rates estimated from few samples vary by chance
    alone, so the expected sampling variance is subtracted from the variance between the bins, floored at
    0: without this, pure noise shows a lift of 1.3 to 1.5. Bins observed less than twice are left out.

    Args:
        counts: Observed and damaged counts, shape (bins,).
        bin_sizes: The number of prior samples in each bin, shape (bins,).

    Returns:
        The estimate; NaN with an infinite interval when nothing damaged was observed.

    Example:
        >>> counts = DamageCounts(np.array([1000.0, 1000.0]), np.array([300.0, 100.0]))
        >>> round(estimate_lift(counts, np.array([50, 50])).value, 2)
        1.25
    """
    used = counts.observed_count >= 2
    observed, damaged = counts.observed_count[used], counts.damaged_count[used]
    if damaged.sum() <= 0:
        return Lift(np.nan, 1.0, np.inf)
    share = bin_sizes[used] / bin_sizes[used].sum()  # P_k
    rate = damaged / observed  # α_k
    noise = rate * (1 - rate) / (observed - 1)  # unbiased variance of α_k
    mean = float(share @ rate)
    mean_square = max(mean**2 - float(share**2 @ noise), mean**2 / 2)
    deviation = (rate - mean) ** 2
    between = float(share @ deviation - (share * (1 - share)) @ noise)
    error = _Z * _error_of_variance(share, np.maximum(deviation - noise, 0), noise)
    return Lift(*(1 + max(variance, 0.0) / mean_square for variance in (between, between - error, between + error)))


def _error_of_variance(share: Floats, deviation: Floats, noise: Floats) -> float:
    return float(np.sqrt(np.sum(share**2 * (2 * noise**2 + 4 * noise * deviation))))


def permute_bins(partition: Partition, seed: int) -> Partition:
    """Deal the bins out at random: the control under which corrected lift must fall to 1.

    Args:
        partition: The partition to destroy.
        seed: Which permutation.

    Returns:
        A partition with the same bin sizes in which no bin means anything.

    Example:
        >>> permute_bins(Partition(np.array([0, 0, 1, 1]), ("a", "b")), seed=1).bin_sizes
        array([2, 2])
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
    return Partition(rng.permutation(partition.bin_ids), partition.bin_names)
