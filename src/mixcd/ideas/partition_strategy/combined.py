"""`Combined`: the joint table of several partitions."""

from dataclasses import dataclass
from functools import reduce

import numpy as np

from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Partition, PartitionStrategy, PriorTable


@dataclass(frozen=True)
class Combined(PartitionStrategy):
    """Cross several partitions; only cells that hold samples become bins.

    Also written `a * b`. The damage rate of every cell is estimated on its own (the joint table), so
    no independence between the parts is assumed.

    Paper: combined partitions; see `docs/paper-map.md` for the factored form.

    Args:
        parts: The strategies to cross, at least one.

    Raises:
        SettingError: If there are no parts.

    Example:
        >>> table = PriorTable(np.array([0.1, 0.2, 3.0, 4.0]), {"label": np.array([0, 1, 1, 1])})
        >>> from mixcd.ideas.partition_strategy import ByColumn, ByPriorLoss
        >>> (ByPriorLoss(2) * ByColumn("label")).assign(table).bin_ids
        array([0, 1, 2, 2], dtype=int32)
    """

    parts: tuple[PartitionStrategy, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise SettingError(
                "`Combined` was given no partitions. It crosses at least one. Pass strategies, as in "
                '`ByPriorLoss(10) * ByColumn("label")`.'
            )

    def __mul__(self, other: PartitionStrategy) -> "Combined":
        return Combined((*self.parts, other))

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns that any part reads."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.column_names))

    @property
    def reads_features(self) -> bool:
        """Whether any part reads the base model's features."""
        return any(part.reads_features for part in self.parts)

    def assign(self, table: PriorTable) -> Partition:
        """Give every row the cell in which its bins of all parts meet; the parts are the partition's factors.

        Cells that hold no row are left out, and the others ordered by the first part's bins, then the second's.
        """
        factors = tuple(part.assign(table) for part in self.parts)
        joint = reduce(_cross, factors)
        return Partition(joint.bin_ids, joint.bin_names, factors)


def _cross(a: Partition, b: Partition) -> Partition:
    cells, bin_ids = np.unique(a.bin_ids.astype(np.int64) * b.bin_count + b.bin_ids, return_inverse=True)
    names = (f"{a.bin_names[cell // b.bin_count]} × {b.bin_names[cell % b.bin_count]}" for cell in cells)
    return Partition(bin_ids.astype(np.int32), tuple(names))
