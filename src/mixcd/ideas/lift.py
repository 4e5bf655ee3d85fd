"""Lift: how much likelier drawn samples are damaged than a uniform draw, corrected for noise."""

from dataclasses import dataclass
from math import fsum
from operator import add

import numpy as np

from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import DamageCounts, Flags, Floats, Ids, Partition

_Z = 1.96


@dataclass(frozen=True)
class Lift:
    """An estimate of lift, NaN while too little damage was observed, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LiftSums:
    """What a lift is made of, summed over windows of steps; each term is weighted by its observations.

    Damage changes during training, and a bin that was drawn more while damage was high would look worse
    than it is. So rates are compared inside a window, and windows are added up.

    Args:
        observed_count: Observations.
        between: Variance of the damage rates between bins, less the expected sampling variance.
        mean_square: Square of the mean damage rate.
        error_square: Sampling variance of `between`.
    """

    observed_count: float = 0.0
    between: float = 0.0
    mean_square: float = 0.0
    error_square: float = 0.0

    def __add__(self, other: "LiftSums") -> "LiftSums":
        return LiftSums(*map(add, vars(self).values(), vars(other).values()))

    def to_lift(self) -> Lift:
        """Return the lift, at least 1; NaN with an infinite interval while too little damage was observed."""
        if self.mean_square <= 0:
            return Lift(np.nan, 1.0, np.inf)
        error = _Z * self.error_square**0.5
        variances = (self.between, self.between - error, self.between + error)
        return Lift(*(1 + max(variance, 0.0) / self.mean_square for variance in variances))


@dataclass(frozen=True)
class DrawSums:
    """Observed draws, counted and weighted, which tells what uniform draws would have shown.

    A sample that is drawn more often than others counts for less: its weight is one over its chance (Hájek's form of
    the Horvitz–Thompson estimate). This needs no bins, and holds for every estimator whose draws leave no sample out.

    Args:
        observed: Observations.
        damaged: Σ d, their damage: how many are damaged, where each is or is not.
        weight: Σ v, the observations' weights.
        damaged_weight: Σ v d.
        square: Σ v².
        damaged_square: Σ v² d.
        graded: Σ d²; here and below the same as with d, unless damage is graded.
        graded_weight: Σ v d².
        graded_square: Σ v² d².
    """

    observed: float = 0.0
    damaged: float = 0.0
    weight: float = 0.0
    damaged_weight: float = 0.0
    square: float = 0.0
    damaged_square: float = 0.0
    graded: float = 0.0
    graded_weight: float = 0.0
    graded_square: float = 0.0

    def __add__(self, other: "DrawSums") -> "DrawSums":
        return DrawSums(*map(add, vars(self).values(), vars(other).values()))

    @property
    def damage_rate(self) -> float:
        """Estimated mean damage of all samples; NaN while nothing was observed."""
        return self.damaged_weight / self.weight if self.weight > 0 else np.nan

    @property
    def damage_rate_error(self) -> float:
        """Its standard error; NaN while nothing was observed."""
        rate = self.damage_rate
        graded_less = self.graded_square - self.damaged_square  # 0 unless damage is graded
        variance = graded_less + self.damaged_square * (1 - 2 * rate) + rate**2 * self.square  # Σ v² (d − rate)²
        return float(max(variance, 0.0) ** 0.5 / self.weight) if self.weight > 0 else np.nan

    def to_lift(self) -> Lift:
        """Return the mean damage of the draws over that of all samples; NaN while no damage was observed."""
        if self.damaged_weight <= 0:
            return Lift(np.nan, 0.0, np.inf)
        lift = self.damaged / self.observed / self.damage_rate
        both = self.weight * self.damaged_weight
        variance = (  # delta method on its logarithm: the two shares come from the same draws
            self.graded_square / self.damaged_weight**2
            - (2 * self.graded_weight / self.damaged_weight - self.graded / self.damaged) / self.damaged
            - 2 * (self.damaged_square / both - self.damaged_weight / (self.damaged * self.weight))
            + self.square / self.weight**2
            - 1 / self.observed
        )
        factor = float(np.exp(_Z * max(variance, 0.0) ** 0.5))
        return Lift(lift, lift / factor, lift * factor)


def sum_draws(damage: Flags | Floats, chances: Floats) -> DrawSums:
    """Sum the draws of one step.

    Args:
        damage: d of each, in [0, 1], shape (draws,); or which of them were found damaged.
        chances: How often each is drawn against uniform draws, shape (draws,); one of chance 0 was drawn for want of
            others, and stands for no other sample.

    Example:
        >>> sums = sum_draws(np.array([True, False]), np.array([2.0, 0.5]))
        >>> sums.damage_rate
        0.2
    """
    weights = [1 / chance if chance > 0 else 0.0 for chance in chances.tolist()]  # v; few: no array is faster
    pairs = [(weight, float(d)) for weight, d in zip(weights, damage.tolist(), strict=True) if d]
    return DrawSums(
        observed=float(len(weights)),
        damaged=fsum(d for _, d in pairs),
        weight=fsum(weights),
        damaged_weight=fsum(weight * d for weight, d in pairs),
        square=fsum(weight**2 for weight in weights),
        damaged_square=fsum(weight**2 * d for weight, d in pairs),
        graded=fsum(d**2 for _, d in pairs),
        graded_weight=fsum(weight * d**2 for weight, d in pairs),
        graded_square=fsum(weight**2 * d**2 for weight, d in pairs),
    )


def sum_window(counts: DamageCounts, bin_sizes: Ids, squares: Floats | None = None) -> LiftSums:
    """Compare the damage rates of the bins inside one window.

    Lift is `Σ P_k α_k² / (Σ P_k α_k)² = 1 + CV²(α)`. Rates estimated from few samples vary by chance
    alone, so the expected sampling variance is subtracted from the variance between the bins: without
    this, pure noise shows a lift well above 1. Bins observed less than twice are left out.

    Args:
        counts: Observed and damaged counts of the window, shape (bins,).
        bin_sizes: The number of prior samples in each bin, shape (bins,).
        squares: Σ d² of each bin's observations, shape (bins,); None where each sample is damaged or not.
    """
    used = counts.observed_count >= 2
    if not used.any():
        return LiftSums()
    observed, damaged = counts.observed_count[used], counts.damaged_count[used]
    share = bin_sizes[used] / bin_sizes[used].sum()  # P_k
    rate = damaged / observed  # α_k
    spread = spread_of_damage(counts, squares)[used]
    noise = spread / (observed - 1)  # unbiased sampling variance of α_k
    mean = float(share @ rate)
    deviation = (rate - mean) ** 2
    between = float(share @ deviation - (share * (1 - share)) @ noise)
    error_square = float(share**2 @ (2 * noise**2 + 4 * noise * np.maximum(deviation - noise, 0)))
    weight = float(observed.sum())
    return LiftSums(weight, weight * between, weight * mean**2, weight**2 * error_square)


def spread_of_damage(counts: DamageCounts, squares: Floats | None = None) -> Floats:
    """Return the variance of the damage of each bin's observations, shape (bins,); NaN without any.

    Args:
        squares: Σ d² of each bin's observations; None where each sample is damaged or not.
    """
    observed, damaged = counts.observed_count, counts.damaged_count
    rate = np.divide(damaged, observed, out=np.full_like(damaged, np.nan), where=observed > 0)
    whole: Floats = rate * (1 - rate)
    if squares is None:
        return whole
    mean_square = np.divide(squares, observed, out=np.full_like(squares, np.nan), where=observed > 0)
    return np.where(squares == damaged, whole, np.maximum(mean_square - rate**2, 0.0))  # Σ d² = Σ d if each is 0 or 1


def estimate_lift(counts: DamageCounts, bin_sizes: Ids, squares: Floats | None = None) -> Lift:
    """Estimate what drawing in proportion to the damage rates of these bins gains over uniform draws.

    For counts of a model that did not change meanwhile, as in `sum_window`; in training, add that up over windows.
    NaN with an infinite interval while too little damage was observed.

    Args:
        squares: As in `sum_window`, where damage is graded.

    Example:
        >>> counts = DamageCounts(np.array([1000.0, 1000.0]), np.array([300.0, 100.0]))
        >>> round(estimate_lift(counts, np.array([50, 50])).value, 2)
        1.25
    """
    return sum_window(counts, bin_sizes, squares).to_lift()


def permute_bins(partition: Partition, seed: int) -> Partition:
    """Deal the bins out at random, in their sizes: the control under which corrected lift must fall to 1.

    Example:
        >>> permute_bins(Partition(np.array([0, 0, 1, 1]), ("a", "b")), seed=1).bin_sizes
        array([2, 2])
    """
    rng = keyed_generator(seed, 0, Stream.CONTROLS)
    return Partition(rng.permutation(partition.bin_ids), partition.bin_names)
