"""`ByFeatures`: bins of samples that look alike to the base model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from mixcd.ideas.partition_strategy.combined import Combined
from mixcd.words.errors import DataError, SettingError
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Floats, Partition, PartitionStrategy, PriorTable

FITTED_ROWS = 4096
_CHUNK = 1 << 14


@dataclass(frozen=True)
class ByFeatures(PartitionStrategy):
    """Cut by k-means of the base model's head features; the clusters are fitted on up to 4,096 samples.

    Paper: partitions by auxiliary information; here it is what the base model itself sees.

    Args:
        bins: How many clusters; fewer when there are fewer distinct samples.
        seed: Chooses the samples and the first centres.

    Raises:
        SettingError: If there are no bins.

    Example:
        >>> features = np.array([[0.0], [0.1], [5.0], [5.1]])
        >>> ids = ByFeatures(2).assign(PriorTable(np.zeros(4), features=features)).bin_ids
        >>> bool(ids[0] == ids[1]), bool(ids[2] == ids[3]), bool(ids[0] == ids[2])
        (True, True, False)
    """

    bins: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise SettingError(f"`bins` is {self.bins}, but at least 1 bin is needed. Pass a number such as 10.")

    def __mul__(self, other: PartitionStrategy) -> Combined:
        return Combined((self, other))

    @property
    def reads_features(self) -> bool:
        """It does."""
        return True

    def assign(self, table: PriorTable) -> Partition:
        """Give every sample the cluster whose centre is nearest; clusters that nobody is in are left out.

        Raises:
            DataError: If the table has no features.
        """
        if table.features is None:
            raise DataError(
                "`ByFeatures` needs the base model's features, but none are cached. `attach` caches them for a "
                "partition that reads them. Choose a new folder for the cache, to predict again."
            )
        nearest = self._find_nearest(table.features, self._fit(table.features))
        found, bin_ids = np.unique(nearest, return_inverse=True)
        return Partition(bin_ids.astype(np.int32), tuple(f"cluster {number}" for number in range(found.size)))

    def _fit(self, features: NDArray[np.floating]) -> Floats:
        rng = keyed_generator(self.seed, 0, Stream.FEATURES)
        rows = np.sort(rng.choice(len(features), min(len(features), FITTED_ROWS), replace=False))
        fitted = np.asarray(features[rows], dtype=np.float64)
        distinct = np.unique(fitted, axis=0)
        if len(distinct) <= self.bins:
            return distinct
        centres, _ = kmeans2(fitted, self.bins, minit="++", rng=rng, iter=25)
        return np.asarray(centres, dtype=np.float64)

    @staticmethod
    def _find_nearest(features: NDArray[np.floating], centres: Floats) -> NDArray[np.int32]:
        nearest = np.empty(len(features), dtype=np.int32)
        lengths = np.square(centres).sum(axis=1)
        for start in range(0, len(features), _CHUNK):  # features may be memory-mapped, and huge
            chunk = np.asarray(features[start : start + _CHUNK], dtype=np.float64)
            nearest[start : start + _CHUNK] = (lengths - 2 * chunk @ centres.T).argmin(axis=1)
        return nearest
