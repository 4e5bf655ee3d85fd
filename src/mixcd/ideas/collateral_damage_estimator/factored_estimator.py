"""`FactoredEstimator`: combined partitions as conditionally independent factors, one count table each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from mixcd.words.errors import DataError, SettingError
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
)


@dataclass(frozen=True)
class Factored(EstimatorSettings):
    """Draw by one count table a part of a combined partition: the settings of a `FactoredEstimator`."""

    discount: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.discount <= 1:
            raise SettingError(
                f"`discount` is {self.discount}, but it must lie between 0 and 1. Pass 1 to count all steps alike."
            )

    def bind(self, partition: Partition, predictions: BasePredictions) -> "FactoredEstimator":
        """Return the estimator."""
        return FactoredEstimator(partition.factors or (partition,), predictions.base_correct, self.discount)


@dataclass(frozen=True)
class FactoredEstimator(CollateralDamageEstimator[DamageCounts]):
    """Estimate the damage rate of a cell from the rates of the bins that meet in it.

    Where the joint table counts every cell on its own, this counts each partition on its own, and so needs far
    fewer observations: logit α_ab = logit α_a + logit α_b − logit α, which holds when the partitions are
    independent both among damaged and among undamaged samples. Rates stay inside (0, 1).

    Paper: several partitions combined under conditional independence; see `docs/decisions/factors.md`.

    Args:
        partitions: The factors, each over all prior samples.
        base_correct: Whether the base model got each prior sample right, shape (samples,).
        discount: γ in [0, 1], as in `CountEstimator`.

    Raises:
        SettingError: If there are no factors, or `discount` lies outside [0, 1].
        DataError: If the factors cover different samples.

    Example:
        >>> by_loss = Partition(np.array([0, 0, 1, 1]), ("easy", "hard"))
        >>> by_label = Partition(np.array([0, 1, 0, 1]), ("no", "yes"))
        >>> estimator = FactoredEstimator((by_loss, by_label), np.ones(4, dtype=bool))
        >>> seen = Observation(np.array([0, 3]), np.array([True, False]), np.array([0.1, 2.0]))
        >>> belief = estimator.belief(estimator.update(estimator.init(), seen))
        >>> estimator.damage_probability(belief, np.arange(4)).round(2).tolist()
        [0.1, 0.5, 0.5, 0.9]
    """

    partitions: tuple[Partition, ...]
    base_correct: Flags
    discount: float = 1.0

    def __post_init__(self) -> None:
        if not self.partitions:
            raise SettingError(
                "`FactoredEstimator` was given no partitions. It combines at least one. Pass those that "
                '`ByPriorLoss(10) * ByColumn("label")` is made of.'
            )
        Factored(self.discount)
        sizes = {len(partition.bin_ids) for partition in self.partitions}
        if len(sizes) > 1:
            raise DataError(
                f"The factors cover {' and '.join(map(str, sorted(sizes)))} samples, but all must cover the same prior "
                "data. Assign all partitions on one table."
            )

    def init(self) -> DamageCounts:
        """Return empty counts: the bins of all factors one after the other, then all samples together."""
        count = sum(partition.bin_count for partition in self.partitions) + 1
        return DamageCounts(np.zeros(count), np.zeros(count))

    def update(self, state: DamageCounts, observation: Observation) -> DamageCounts:
        """Add one step's observation to the counts of every factor; the state given is left as it was.

        Raises:
            UnknownSampleError: If an observed sample lies outside the partitions.
        """
        steps = [count_damage(partition, self.base_correct, observation) for partition in self.partitions]
        observed = np.concatenate([*(step.observed_count for step in steps), [steps[0].observed_count.sum()]])
        damaged = np.concatenate([*(step.damaged_count for step in steps), [steps[0].damaged_count.sum()]])
        kept = np.where(observed > 0, self.discount, 1.0)  # γ, only where new evidence replaces old
        return DamageCounts(kept * state.observed_count + observed, kept * state.damaged_count + damaged)

    def belief(self, state: DamageCounts) -> Belief:
        """Return the smoothed rates of all bins of all factors, then the overall one, as the only array."""
        return ((state.damaged_count + 0.5) / (state.observed_count + 1.0),)

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the damage rate of each sample's cell, shape (samples,).

        A sample without a cached base prediction gets the mean rate of the cached ones, as in `CountEstimator`.
        """
        (rates,) = belief
        bins = [partition.bin_ids[sample_ids] for partition in self.partitions]
        damage_rate = self._combine(rates, bins)
        uncached = bins[0] == UNCACHED_BIN
        if uncached.any():
            cells, sizes = self._cells
            damage_rate[uncached] = np.average(self._combine(rates, cells), weights=sizes)
        return damage_rate

    def _combine(self, rates: Floats, bins: Sequence[NDArray[np.integer[Any]]]) -> Floats:
        log_odds = logit(rates)
        total = (1 - len(self.partitions)) * log_odds[-1]  # − (F − 1) · logit α
        start = 0
        for partition, own_bins in zip(self.partitions, bins, strict=True):
            total = total + log_odds[start + own_bins]  # + logit α_f
            start += partition.bin_count
        damage_rate: Floats = expit(total)
        return damage_rate

    @cached_property
    def _cells(self) -> tuple[tuple[Ids, ...], Ids]:
        """The cells that hold cached samples, as their bins of every factor, and how many samples each holds."""
        shape = tuple(partition.bin_count for partition in self.partitions)
        cached = self.partitions[0].bin_ids != UNCACHED_BIN
        crossed = np.ravel_multi_index([partition.bin_ids[cached] for partition in self.partitions], shape)
        cells, sizes = np.unique(crossed, return_counts=True)
        return np.unravel_index(cells, shape), sizes
