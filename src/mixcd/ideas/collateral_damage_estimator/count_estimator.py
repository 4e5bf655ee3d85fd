"""`CountEstimator`: one damage rate a bin, from counts. The paper's estimator."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from scipy.special import betaincinv

from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import (
    BasePredictions,
    Belief,
    CollateralDamageEstimator,
    DamageCounts,
    EstimatorSettings,
    Flags,
    Floats,
    Ids,
    Observation,
    Partition,
    count_damage,
)

Smoothing = Literal["beta", "shrunk", "raw"]

_MOST_STRENGTH = 1e6
"""The weight, in observations, of a prior that bins show no departure from."""


@dataclass(frozen=True)
class Counts(EstimatorSettings):
    """Draw by the damage rates of bins: the settings of a `CountEstimator`, under the same names.

    Raises:
        SettingError: If `discount` lies outside [0, 1] or `smoothing` is unknown.
    """

    discount: float = 1.0
    smoothing: Smoothing = "beta"

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise SettingError(
                f"`discount` is {self.discount}, but it must lie between 0 and 1. Pass 1 to count all steps alike, "
                "0 to count only the last, or a value such as 0.98 between them."
            )
        if self.smoothing not in get_args(Smoothing):
            raise SettingError(
                f'`smoothing` is {self.smoothing!r}, but only "beta", "shrunk" and "raw" exist. Pass one of them.'
            )

    def bind(self, partition: Partition, predictions: BasePredictions) -> "CountEstimator":
        """Return the estimator."""
        return CountEstimator(partition, predictions.base_correct, self.discount, self.smoothing)


@dataclass(frozen=True)
class Paper(EstimatorSettings):
    """Draw by the paper's raw u_k / n_k, without a floor."""

    floor: ClassVar[float | None] = 0.0

    def bind(self, partition: Partition, predictions: BasePredictions) -> "CountEstimator":
        """Return the estimator."""
        return CountEstimator(partition, predictions.base_correct, smoothing="raw")


@dataclass(frozen=True)
class Uniform(EstimatorSettings):
    """Draw all prior samples alike: plain rehearsal."""

    def bind(self, partition: Partition, predictions: BasePredictions) -> "CountEstimator":
        """Return the estimator, which counts damage in one bin."""
        return CountEstimator(self.choose_bins(partition), predictions.base_correct)

    def choose_bins(self, partition: Partition) -> Partition:
        """Return one bin of all samples."""
        return Partition(np.minimum(partition.bin_ids, 0), ("all",))


@dataclass(frozen=True)
class CountEstimator(CollateralDamageEstimator[DamageCounts]):
    """Estimate each bin's damage rate from how many of its rehearsed samples were damaged.

    Paper: α_k = u_k / n_k, 0.5 at the start. `docs/decisions/` says how we read what the paper leaves
    open: smoothing, denominator and window.

    Args:
        partition: The bins of all prior samples.
        base_correct: Whether the base model got each prior sample right, shape (samples,).
        discount: γ in [0, 1], applied to a bin's earlier counts whenever the bin is observed again:
            1 counts everything (cumulative), 0 keeps only the last step that observed the bin.
        smoothing: "beta" for the posterior mean under Beta(½, ½), which never reaches 0; "shrunk" for the one
            under a Beta prior fitted to all bins (empirical Bayes), which pulls thin bins to the overall rate;
            "raw" for the paper's u_k / n_k, under which a bin whose first draws come out clean is
            never drawn again unless the scheduler's floor draws it.

    Raises:
        SettingError: If `discount` lies outside [0, 1] or `smoothing` is unknown.

    Example:
        >>> partition = Partition(np.array([0, 0, 1]), ("easy", "hard"))
        >>> estimator = CountEstimator(partition, np.array([True, True, True]))
        >>> seen = Observation(np.array([0, 2]), np.array([True, False]), np.array([0.1, 2.0]))
        >>> estimator.belief(estimator.update(estimator.init(), seen))
        (array([0.25, 0.75]),)
    """

    partition: Partition
    base_correct: Flags
    discount: float = 1.0
    smoothing: Smoothing = "beta"

    def __post_init__(self) -> None:
        Counts(self.discount, self.smoothing)

    def init(self) -> DamageCounts:
        """Return empty counts, shape (bins,)."""
        return DamageCounts(np.zeros(self.partition.bin_count), np.zeros(self.partition.bin_count))

    def update(self, state: DamageCounts, observation: Observation) -> DamageCounts:
        """Add one step's observation to the counts.

        No inference happens here: the observation is a by-product of the forward pass that trained on
        these samples anyway.

        Paper: u_k and n_k of bin k; see `docs/paper-map.md`.

        Args:
            state: The counts so far. They are left as they were.
            observation: The prior samples of one step, and which of them the fine-tuned model got right.

        Raises:
            UnknownSampleError: If an observed sample lies outside the partition.
        """
        step = count_damage(self.partition, self.base_correct, observation)
        kept = np.where(step.observed_count > 0, self.discount, 1.0)  # γ, only where new evidence replaces old
        return DamageCounts(kept * state.observed_count, kept * state.damaged_count) + step

    def belief(self, state: DamageCounts) -> Belief:
        """Return the damage rates, shape (bins,), as the only array.

        Paper: α_k = u_k / n_k, 0.5 where nothing was observed.
        """
        observed, damaged = state.observed_count, state.damaged_count
        if self.smoothing == "beta":
            return ((damaged + 0.5) / (observed + 1.0),)  # (u_k + ½) / (n_k + 1)
        if self.smoothing == "shrunk":
            mean, strength = _fit_prior(state)
            return ((damaged + strength * mean) / (observed + strength),)
        return (np.divide(damaged, observed, out=np.full_like(damaged, 0.5), where=observed > 0),)  # u_k / n_k

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the damage rate of each sample's bin, shape (samples,).

        A sample without a cached base prediction gets the mean rate of the cached ones, so that such
        samples are drawn in proportion to their share of the prior data.
        """
        (damage_rate,) = belief
        sizes = self.partition.bin_sizes
        mean_rate = float(sizes @ damage_rate / sizes.sum())
        rates: Floats = np.append(damage_rate, mean_rate)  # bin −1 is the appended one
        return np.take(rates, self.partition.bin_ids[sample_ids])


def damage_intervals(counts: DamageCounts, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return lower and upper bounds of each bin's damage rate: those of the Beta(½, ½) posterior, with equal tails.

    Args:
        counts: Observed and damaged counts, shape (bins,).
        level: The interval's probability, between 0 and 1; a `SettingError` otherwise.

    Example:
        >>> low, high = damage_intervals(DamageCounts(np.array([0.0, 100.0]), np.array([0.0, 10.0])))
        >>> low.round(2).tolist(), high.round(2).tolist()
        ([0.0, 0.05], [1.0, 0.17])
    """
    if not 0 < level < 1:
        raise SettingError(f"`level` is {level}, but it must lie between 0 and 1. Pass a value such as 0.95.")
    a, b = counts.damaged_count + 0.5, counts.observed_count - counts.damaged_count + 0.5
    return betaincinv(a, b, (1 - level) / 2), betaincinv(a, b, (1 + level) / 2)


def _fit_prior(counts: DamageCounts) -> tuple[float, float]:
    """Mean and weight of a Beta prior over bins, by moments: what the bins' rates vary beyond chance."""
    observed, damaged = counts.observed_count, counts.damaged_count
    total = observed.sum()
    mean = float((damaged.sum() + 0.5) / (total + 1.0))
    chance = mean * (1 - mean)
    seen = observed > 0
    rate = np.divide(damaged, observed, out=np.zeros_like(damaged), where=seen)
    weighted = float((observed * (rate - mean) ** 2)[seen].sum())
    width = float(total - (observed**2).sum() / total) if total else 0.0
    beyond_chance = (weighted - (seen.sum() - 1) * chance) / width if width > 0 else 0.0  # τ²
    strength = chance / beyond_chance - 1 if beyond_chance > 0 else _MOST_STRENGTH
    return mean, float(np.clip(strength, 1.0, _MOST_STRENGTH))
