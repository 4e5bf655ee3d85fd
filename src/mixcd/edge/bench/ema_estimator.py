"""`EmaEstimator`: a moving average of each sample's own observed damage, over the damage rate of its bin.

Tried as an estimator of the product, and no better than the bins alone: `docs/results.md`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import (
    UNCACHED_BIN,
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
    grade_damage,
)


@dataclass(frozen=True)
class Ema(EstimatorSettings):
    """Draw by a moving average of each sample's own damage: the settings of an `EmaEstimator`."""

    weight: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise SettingError(
                f"`weight` is {self.weight}, but it must lie in (0, 1]. Pass 0.3, say; 1 keeps the last observation."
            )

    def bind(self, partition: Partition, predictions: BasePredictions) -> "EmaEstimator":
        """Return the estimator."""
        return EmaEstimator(partition, predictions.base_correct, self.weight)


@dataclass(frozen=True)
class EmaState:
    """What was observed of the bins, and of the samples that were rehearsed so far.

    Args:
        counts: Observed and damaged counts of the bins.
        sample_ids: The samples that were observed, ascending, shape (seen,).
        kept: How much of its bin's rate is left in each one's average, shape (seen,).
        damage: The weighted sum of what was observed of each, shape (seen,).
    """

    counts: DamageCounts
    sample_ids: Floats
    kept: Floats
    damage: Floats


@dataclass(frozen=True)
class EmaEstimator(CollateralDamageEstimator[EmaState]):
    """Estimate each sample's damage by a moving average of its own, which starts at the rate of its bin.

    Belief and state grow with the number of samples that were ever rehearsed.

    Paper: in the place of α_k, a rate for each sample; ours.

    Args:
        partition: The bins of all prior samples.
        base_correct: Whether the base model got each prior sample right, shape (samples,).
        weight: How much of the average an observation makes, in (0, 1].

    Raises:
        SettingError: If `weight` lies outside (0, 1].

    Example:
        >>> estimator = EmaEstimator(Partition(np.array([0, 0, 0]), ("all",)), np.ones(3, dtype=bool), weight=0.5)
        >>> seen = Observation(np.array([0, 1]), np.array([True, False]), np.array([0.1, 2.0]))
        >>> belief = estimator.belief(estimator.update(estimator.init(), seen))
        >>> estimator.damage_probability(belief, np.arange(3)).tolist()
        [0.25, 0.75, 0.5]
    """

    partition: Partition
    base_correct: Flags
    weight: float = 0.3

    draws_by_bins: ClassVar[bool] = False

    def __post_init__(self) -> None:
        Ema(self.weight)

    def init(self) -> EmaState:
        """Return empty counts and averages."""
        nothing = np.zeros(self.partition.bin_count)
        return EmaState(DamageCounts(nothing, nothing), np.zeros(0), np.zeros(0), np.zeros(0))

    def update(self, state: EmaState, observation: Observation) -> EmaState:
        """Add one step's observation; a sample that is in it twice counts once, with the mean of what it showed."""
        counts = state.counts + count_damage(self.partition, self.base_correct, observation)
        seen, rows = np.unique(observation.sample_ids, return_inverse=True)
        damaged = grade_damage(self.base_correct, observation)
        shown = np.bincount(rows, damaged) / np.bincount(rows)
        ids = np.union1d(state.sample_ids, seen)
        kept, damage = np.ones(ids.size), np.zeros(ids.size)
        before, now = np.searchsorted(ids, state.sample_ids), np.searchsorted(ids, seen)
        kept[before], damage[before] = state.kept, state.damage
        kept[now] *= 1 - self.weight
        damage[now] = (1 - self.weight) * damage[now] + self.weight * shown  # m ← (1 − w) m + w d
        return EmaState(counts, ids.astype(np.float64), kept, damage)

    def belief(self, state: EmaState) -> Belief:
        """Return the damage rates of the bins, and ids and averages of the samples that were observed."""
        rates = (state.counts.damaged_count + 0.5) / (state.counts.observed_count + 1.0)
        return rates, state.sample_ids, state.kept, state.damage

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return each sample's moving average, shape (samples,); without a prediction, the mean rate of the bins."""
        rates, seen, kept, damage = belief
        sizes = self.partition.bin_sizes
        bins = self.partition.bin_ids[sample_ids]
        average: Floats = np.append(rates, float(sizes @ rates / sizes.sum()))[bins]  # bin −1 is the appended one
        if seen.size:
            places = np.minimum(np.searchsorted(seen, sample_ids), seen.size - 1)
            own = (seen[places] == sample_ids) & (bins != UNCACHED_BIN)
            average[own] = kept[places[own]] * average[own] + damage[places[own]]
        return average
