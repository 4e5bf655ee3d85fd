"""The partitions of a comparison: by the base model's loss, and by columns of the data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mixcd.edge.compare.label_sets import name_label_sets
from mixcd.ideas.partition_strategy import ByPriorLoss
from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.correctness.right_span import SPAN_KEYS
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.column_bins import is_flat, is_nearly_unique, read_column
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Floats, Partition, PriorTable

_LOSS_BINS = 10


def choose_columns(
    samples: PriorDataset, wanted: Sequence[str] | None, label: str | None, set_names: Sequence[str] | None = None
) -> tuple[list[tuple[str, pa.ChunkedArray]], list[str]]:
    """Choose the columns by which damage is told apart.

    Args:
        wanted: The columns that are named; None for all that hold one value a sample, but for those in which nearly
            every value is its own.
        label: The column of labels, where it is named: `label`, the class numbers made of it, says the same.
        set_names: The names of the labels where a sample has a set of them, which then is a value; else None.

    Returns:
        Names and values, and a note on columns that were left out.

    Raises:
        DataError: If a column is not there, or holds lists.
    """
    if wanted is not None:
        return [(name, _read_named(samples, name, set_names)) for name in dict.fromkeys(wanted)], []
    hidden = {*SPAN_KEYS} if label in (None, *LABEL_KEYS) else {*SPAN_KEYS, *LABEL_KEYS}
    row = samples[0]
    plain = [name for name in samples.column_names if name not in hidden and not _is_nested(row.get(name))]
    read = ((name, samples.arrow_column(name)) for name in plain)
    flat = [(name, column) for name, column in read if is_flat(column)]
    if set_names is not None:
        flat += [(name, _read_sets(samples, name, set_names)) for name in LABEL_KEYS if name in samples.column_names]
    unique = [name for name, column in flat if is_nearly_unique(column)]
    note = f"Left out, because nearly every value is different: {shorten((f'`{name}`' for name in unique), 20)}."
    return [(name, column) for name, column in flat if name not in unique], [note] if unique else []


def bin_losses(loss: Floats) -> Partition:
    """Cut samples into ten bins of equal size by the base model's loss; fewer where there are fewer losses.

    Args:
        loss: Shape (samples,).
    """
    return ByPriorLoss(min(_LOSS_BINS, np.unique(loss).size)).assign(PriorTable(loss))


def _read_sets(samples: PriorDataset, name: str, set_names: Sequence[str]) -> pa.ChunkedArray:
    column = samples.arrow_column(name)
    lengths = column.combine_chunks().value_lengths().fill_null(0).to_numpy()
    other = np.flatnonzero(lengths != lengths[0])
    if other.size:
        raise DataError(
            f"`{samples.name}` has {lengths[0]} labels on sample 0, but another number in `{name}` on sample "
            f"{shorten(other)}. Every sample needs a 1.0 or 0.0 for each label."
        )
    return name_label_sets(column, set_names)


def _read_named(samples: PriorDataset, name: str, set_names: Sequence[str] | None) -> pa.ChunkedArray:
    if set_names is not None and name in LABEL_KEYS and name in samples.column_names:
        return _read_sets(samples, name, set_names)
    return read_column(samples, name)


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | tuple | Mapping) or getattr(value, "ndim", 0) > 0
