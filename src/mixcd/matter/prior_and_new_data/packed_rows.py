"""Packed rows: several samples, one after the other in one row, which says where each of them starts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixcd.words.vocabulary import Ids

SEQ_LENGTHS, POSITIONS = "seq_lengths", "position_ids"
"""Where a packed row says how long its samples are, or their tokens' positions: each sample's count from 0."""
_ROWS_AT_ONCE = 4096


def split_lengths(row: Any) -> list[int] | None:
    """Return the tokens of each sample of a row; None where the row does not say.

    Example:
        >>> split_lengths({"position_ids": [0, 1, 0, 1, 2]}), split_lengths({"seq_lengths": [2, 3]})
        ([2, 3], [2, 3])
    """
    if not isinstance(row, Mapping):
        return None
    if SEQ_LENGTHS in row:
        return [int(length) for length in row[SEQ_LENGTHS]]
    positions = np.asarray(row.get(POSITIONS, []))
    if positions.ndim != 1 or not positions.size or not np.all(row.get("attention_mask", 1)):
        return None
    starts = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
    return None if positions[starts].any() else np.diff(starts, append=positions.size).tolist()


def count_samples(row: Any) -> int:
    """Return how many samples a row holds, as far as it says."""
    return len(split_lengths(row) or [0])


def join_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join samples in one row that looks as if a trainer had packed it.

    Returns:
        All values of tokens one after the other, and `seq_lengths`; other columns are left out.

    Example:
        >>> join_rows([{"input_ids": [7, 8], "labels": [7, 8]}, {"input_ids": [9], "labels": [-100]}])
        {'input_ids': [7, 8, 9], 'labels': [7, 8, -100], 'seq_lengths': [2, 1]}
    """
    lengths = [len(row["input_ids"]) for row in rows]
    joined: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name != SEQ_LENGTHS and all(_is_of_tokens(*pair) for pair in zip(values, lengths, strict=True)):
            joined[name] = [value for row in values for value in (row.tolist() if hasattr(row, "tolist") else row)]
    return {**joined, SEQ_LENGTHS: lengths}


def count_tokens(data: Any) -> Ids:
    """Count the tokens of each row that are no padding, shape (rows,); 1 where there are none.

    Of a `datasets.Dataset` the lengths are read off its columns, some thousand rows at a time; rows of other data are
    read once.
    """
    columns = getattr(data, "column_names", ())
    name = "attention_mask" if "attention_mask" in columns else "input_ids"
    if not hasattr(data, "select_columns") or name not in columns:
        return np.array([_count_row(data[row]) for row in range(len(data))], dtype=np.int64).clip(1)
    return _measure(data, name, lambda column: _count_column(column, name)).clip(1)


def measure_samples(data: Any) -> tuple[Ids, Ids]:
    """Return how many samples each packed row holds, and the tokens of its longest one, each of shape (rows,)."""
    if hasattr(data, "select_columns") and SEQ_LENGTHS in data.column_names:
        counts = _measure(data, SEQ_LENGTHS, lambda column: pc.list_value_length(column).to_numpy())
        longest = _measure(data, SEQ_LENGTHS, lambda column: np.array([max(value) for value in column.to_pylist()]))
        return counts.astype(np.int64), longest.astype(np.int64)
    lengths = [split_lengths(data[row]) or [_count_row(data[row])] for row in range(len(data))]
    return np.array([len(one) for one in lengths]), np.array([max(one) for one in lengths])


def unpack_rows(data: Any) -> list[dict[str, Any]]:
    """Return the samples of packed rows, each in a row of its own."""
    rows = []
    for number in range(len(data)):
        row, start = data[number], 0
        for length in row[SEQ_LENGTHS]:
            rows.append({name: row[name][start : start + length] for name in row if name != SEQ_LENGTHS})
            start += length
    return rows


def _measure(data: Any, name: str, measure: Callable[[pa.ChunkedArray], Any]) -> Ids:
    tables = data.select_columns([name]).with_format("arrow").iter(_ROWS_AT_ONCE)
    return np.concatenate([measure(table[name]) for table in tables])


def _count_column(column: pa.ChunkedArray, name: str) -> Ids:
    if pa.types.is_nested(column.type.value_type):  # one list a choice
        return np.array([_count_row({name: value}) for value in column.to_pylist()], dtype=np.int64)
    lengths = np.asarray(pc.list_value_length(column).to_numpy(), dtype=np.int64)
    if name == "input_ids":
        return lengths
    seen = np.concatenate([[0], np.cumsum(pc.list_flatten(column).to_numpy() != 0)])
    ends = np.cumsum(lengths)
    return np.asarray(seen[ends] - seen[ends - lengths], dtype=np.int64)


def _count_row(row: Any) -> int:
    if not isinstance(row, Mapping):
        return 1
    if "attention_mask" in row:
        return int(sum(np.count_nonzero(part) for part in _parts(row["attention_mask"])))
    return sum(len(part) for part in _parts(row["input_ids"])) if "input_ids" in row else 1


def _parts(value: Any) -> list[Any]:
    return list(value) if len(value) and np.ndim(value[0]) else [value]


def _is_of_tokens(value: Any, length: int) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str) and len(value) == length
