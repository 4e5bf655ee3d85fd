"""`ByPriorLoss`: bins of equal size by the base model's loss."""

import logging
from dataclasses import dataclass

import numpy as np

from mixcd.ideas.partition_strategy.combined import Combined
from mixcd.words.errors import DataError, SettingError
from mixcd.words.vocabulary import Partition, PartitionStrategy, PriorTable, require_finite_losses

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ByPriorLoss(PartitionStrategy):
    """Sort the prior samples by the base model's loss and cut them into bins of equal size.

    Equal losses never straddle a cut: bins that ties leave empty are merged into their neighbour, and
    the log says so.

    Paper: partition by prior loss.

    Args:
        bins: How many bins, K ≥ 1.

    Raises:
        SettingError: If `bins` is less than 1.

    Example:
        >>> ByPriorLoss(2).assign(PriorTable(np.array([0.1, 2.0, 0.2, 3.0]))).bin_ids
        array([0, 1, 0, 1], dtype=int32)
    """

    bins: int = 10

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise SettingError(
                f"`bins` is {self.bins}, but a partition needs at least 1 bin. Pass a whole number such as 10."
            )

    def __mul__(self, other: PartitionStrategy) -> Combined:
        return Combined((self, other))

    def assign(self, table: PriorTable) -> Partition:
        """Cut the rows at the quantiles of their losses into at most `bins` bins, ordered from low to high loss.

        Raises:
            DataError: If the table is empty, or a loss is NaN or infinite.
        """
        if not table.loss.size:
            raise DataError(
                "The prior table has no rows. A partition needs at least one. Pass prior data with samples."
            )
        require_finite_losses(np.arange(table.loss.size), table.loss)
        distinct, bin_ids = np.unique(table.loss, return_inverse=True)
        if distinct.size > self.bins:
            cuts = np.sort(table.loss)[np.arange(1, self.bins) * table.loss.size // self.bins]
            _, bin_ids = np.unique(np.searchsorted(cuts, table.loss, side="right"), return_inverse=True)
        found = int(bin_ids.max()) + 1
        if found < self.bins:
            logger.warning(
                "`ByPriorLoss(%d)` found only %d bins: equal losses share a bin, so some were merged.", self.bins, found
            )
        return Partition(bin_ids.astype(np.int32), _name_bins(table.loss, bin_ids, found))


def _name_bins(loss: np.ndarray, bin_ids: np.ndarray, bin_count: int) -> tuple[str, ...]:
    low, high = np.full(bin_count, np.inf), np.full(bin_count, -np.inf)
    np.minimum.at(low, bin_ids, loss)
    np.maximum.at(high, bin_ids, loss)
    return tuple(f"loss {a:.3g} to {b:.3g}" for a, b in zip(low, high, strict=True))
