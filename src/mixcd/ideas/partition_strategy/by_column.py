"""`ByColumn`: one bin a value of a column."""

from dataclasses import dataclass

import numpy as np

from mixcd.ideas.partition_strategy.combined import Combined
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Partition, PartitionStrategy, PriorTable


@dataclass(frozen=True)
class ByColumn(PartitionStrategy):
    """One bin for each value of a column: a label, a topic, a language, a source.

    Missing values (None, NaN) share a bin of their own, the last.

    Paper: partition by auxiliary information.

    Args:
        name: The column of the prior data.

    Example:
        >>> table = PriorTable(np.zeros(3), {"label": np.array([1, 0, 1])})
        >>> ByColumn("label").assign(table).bin_names
        ('label=0', 'label=1')
    """

    name: str

    def __mul__(self, other: PartitionStrategy) -> Combined:
        return Combined((self, other))

    @property
    def column_names(self) -> tuple[str, ...]:
        """The one column."""
        return (self.name,)

    def assign(self, table: PriorTable) -> Partition:
        """Give every row the bin of its value, one for each distinct value, in sorted order.

        Raises:
            DataError: If the table lacks the column.
        """
        if self.name not in table.columns:
            raise DataError(
                f"`ByColumn` asks for column `{self.name}`, but the prior data have "
                f"{shorten((f'`{name}`' for name in sorted(table.columns)), 20) or 'no columns'}. Name one of these."
            )
        values = np.asarray(table.columns[self.name])
        missing = np.array([value is None or value != value for value in values.tolist()])  # None or NaN
        distinct, present_bins = np.unique(np.array(values[~missing].tolist()), return_inverse=True)
        bin_ids = np.full(values.size, distinct.size, dtype=np.int32)
        bin_ids[~missing] = present_bins
        names = [f"{self.name}={value}" for value in distinct]
        return Partition(bin_ids, (*names, *([f"{self.name} missing"] if missing.any() else [])))
