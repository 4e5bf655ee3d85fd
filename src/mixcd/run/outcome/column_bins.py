"""Bins by columns of any kind: few values or thousands, texts, numbers, missing ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError, end_sentence, nearest_name
from mixcd.words.vocabulary import Floats, Ids, Partition

MOST_VALUES = 50
"""The most frequent values of a column that have a bin of their own; the others share one."""
_QUANTILES = 10
_LOOKED_AT = 4096


def is_flat(column: pa.ChunkedArray) -> bool:
    """Whether a column holds one value a sample, and not a list or the like."""
    kind = column.type
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_nearly_unique(column: pa.ChunkedArray) -> bool:
    """Whether most values of a column occur once, as identifiers and texts do: its bins would say nothing.

    Example:
        >>> is_nearly_unique(pa.chunked_array([["a", "b", "c"]])), is_nearly_unique(pa.chunked_array([["a", "b", "a"]]))
        (True, False)
    """
    if pa.types.is_floating(column.type) or pa.types.is_null(column.type):
        return False  # cut into ranges; or in one bin
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)  # Arrow counts no distinct categories
    looked_at = column.slice(0, _LOOKED_AT)  # a text column need not be hashed as a whole
    return all(2 * compute.count_distinct(one).as_py() > len(one) + 1 for one in (looked_at, column))


def bin_column(name: str, column: pa.ChunkedArray, value_names: Mapping[Any, str] | None = None) -> Partition:
    """Give every sample the bin of its value.

    Fractions with more than `MOST_VALUES` values are cut into ten ranges of equal size; of all others the most frequent
    `MOST_VALUES` have a bin each, the rest share the bin "other". Missing values, NaN among them, have their own.

    Args:
        column: One value a sample, shape (samples,).
        value_names: What to call values, such as class numbers.

    Example:
        >>> bin_column("topic", pa.chunked_array([["b", "a", None, "b"]])).bin_names
        ('topic=b', 'topic=a', 'topic missing')
    """
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy().astype(np.float64)
        if np.unique(numbers[~np.isnan(numbers)]).size > MOST_VALUES:
            return _bin_ranges(name, numbers)
        column = pa.chunked_array([pa.array(numbers, from_pandas=True)])  # NaN becomes missing
    return _bin_values(name, column, value_names or {})


def bin_samples(
    samples: PriorDataset, name: str, column: pa.ChunkedArray, sample_ids: Ids, class_names: Mapping[int, str]
) -> Partition:
    """Give samples the bins of a column's values, under the names of classes where they are known.

    Args:
        column: Its values, shape (all samples,).
        sample_ids: The samples that are compared, ascending, shape (samples,).
        class_names: The model's names of classes by number; empty where predictions are no class.
    """
    if len(sample_ids) < len(samples):
        column = column.take(pa.array(sample_ids))
    listed = next((features[name] for _, features in samples.features() if name in features), None)
    value_names = dict(enumerate(getattr(listed, "names", None) or ()))
    return bin_column(name, column, class_names if name in LABEL_KEYS and class_names else value_names)


def read_column(samples: PriorDataset, name: str) -> pa.ChunkedArray:
    """Read a column that is named, shape (samples,).

    Raises:
        DataError: If it is not there, or holds lists.
    """
    if name not in samples.column_names:
        nearest = nearest_name(name, samples.column_names)
        raise DataError(end_sentence(f"`columns` names `{name}`, which `{samples.name}` does not have{nearest}"))
    column = samples.arrow_column(name)
    if not is_flat(column):
        raise DataError(
            f"`columns` names `{name}`, which holds lists or the like, but bins need one value a sample. Name another "
            "column."
        )
    return column


def _bin_values(name: str, column: pa.ChunkedArray, value_names: Mapping[Any, str]) -> Partition:
    codes, values = _encode(column)  # -1 where a value is missing
    sizes = np.bincount(codes[codes >= 0], minlength=len(values))
    texts = [value_names.get(value, str(value)) for value in values]
    order = sorted(range(len(values)), key=lambda code: (-sizes[code], texts[code]))
    names = [f"{name}={texts[code]}" for code in order[:MOST_VALUES]]
    bin_of = np.full(len(values) + 1, len(names), dtype=np.int32)  # the last is that of missing values
    bin_of[order[:MOST_VALUES]] = np.arange(len(names))
    if len(values) > MOST_VALUES:
        names.append(f"{name}: {len(values) - MOST_VALUES:,} other values")
    if (codes < 0).any():
        bin_of[-1] = len(names)
        names.append(f"{name} missing")
    return Partition(bin_of[codes], tuple(names))


def _encode(column: pa.ChunkedArray) -> tuple[Ids, list[Any]]:
    """Number the values of a column; a missing one is −1."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return np.full(len(column), -1, dtype=np.int64), []
    coded = pa.chunked_array(column.chunks, column.type).combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def _bin_ranges(name: str, numbers: Floats) -> Partition:
    present = numbers[~np.isnan(numbers)]
    cuts = np.unique(np.sort(present)[np.arange(1, _QUANTILES) * present.size // _QUANTILES])
    bins = np.searchsorted(cuts, numbers, side="right")
    bins[np.isnan(numbers)] = cuts.size + 1
    found, bin_ids = np.unique(bins, return_inverse=True)
    names = [
        f"{name} missing"
        if one > cuts.size
        else f"{name} {numbers[bins == one].min():.3g} to {numbers[bins == one].max():.3g}"
        for one in found
    ]
    return Partition(bin_ids.astype(np.int32), tuple(names))
