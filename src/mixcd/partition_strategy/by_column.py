"""`ByColumn`: one bin a value of a column."""

from dataclasses import dataclass

import numpy as np

from mixcd.errors import DataError, shorten
from mixcd.partition_strategy.combined import Combined
from mixcd.vocabulary import Partition, PartitionStrategy, PriorTable


@dataclass(frozen=True)
class ByColumn:
    """One bin for each value of a column: a label, a topic, a language, a source.

    Missing values (None) share a bin of their own.

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
        """Give every row the bin of its value.

        Args:
            table: One row a prior sample, with this column.

        Returns:
            One bin a distinct value, in sorted order.

        Raises:
            DataError: If the table lacks the column.
        """
        if self.name not in table.columns:
            raise DataError(
                f"`ByColumn` asks for column `{self.name}`, but the prior data have "
                f"{shorten((f'`{name}`' for name in sorted(table.columns)), 20) or 'no columns'}. Name one of these."
            )
        values = np.asarray(table.columns[self.name])
        if values.dtype == object:
            values = np.array([str(value) for value in values])
        distinct, bin_ids = np.unique(values, return_inverse=True)
        return Partition(bin_ids.astype(np.int32), tuple(f"{self.name}={value}" for value in distinct))
