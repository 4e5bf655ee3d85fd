"""The prior data: samples with a stable id, from a dataset, several of them, or any map-style dataset."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset

from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Ids

SOURCE_COLUMN = "prior_set"
"""The column that names the data set a sample came from, when prior data are given as a dict."""


class PriorDataset(Dataset[Any]):
    """The prior data as one map-style dataset; the sample id is the row number as handed over.

    Nothing is copied: rows are fetched from the data when they are asked for.

    Paper: prior dataset Z_p.

    Args:
        data: A `datasets.Dataset`, a map-style dataset (`__len__` and `__getitem__`), or a dict of them;
            the dict's keys become the column `prior_set`.
        name: What messages call the data.

    Raises:
        DataError: If the data are empty, cannot be indexed, or the sets of a dict have different columns.

    Example:
        >>> prior = PriorDataset({"en": [{"x": 1}], "de": [{"x": 2}, {"x": 3}]})
        >>> len(prior), prior[2]
        (3, {'x': 3})
        >>> prior.column("prior_set")
        array(['en', 'de', 'de'], dtype='<U2')
    """

    def __init__(self, data: Any, name: str = "prior_data") -> None:
        self.name = name
        named = dict(data) if isinstance(data, Mapping) else {"": data}
        for key, part in named.items():
            _require_map_style(part, f"{name}[{key!r}]" if key else name)
        self.set_names = tuple(named) if isinstance(data, Mapping) else ()
        self._parts = list(named.values())
        self._starts = [0, *accumulate(len(part) for part in self._parts)]
        _require_same_columns(named)
        if self.set_names and SOURCE_COLUMN in column_names_of(self._parts[0]):
            raise DataError(
                f"`prior_data` has a column `{SOURCE_COLUMN}`, but that name is kept for the keys of the dict. Rename "
                "the column."
            )

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, sample_id: int) -> Any:
        return self.rows([sample_id])[0]

    def rows(self, sample_ids: Sequence[int]) -> list[Any]:
        """Return the rows of some samples, in the order asked for."""
        found: list[Any] = [None] * len(sample_ids)
        by_part: dict[int, list[int]] = {}
        for position, sample_id in enumerate(sample_ids):
            by_part.setdefault(bisect_right(self._starts, sample_id) - 1, []).append(position)
        for part, positions in by_part.items():
            ids = [int(sample_ids[position]) - self._starts[part] for position in positions]
            for position, row in zip(positions, fetch_rows(self._parts[part], ids), strict=True):
                found[position] = row
        return found

    __getitems__ = rows

    def without_transforms(self) -> tuple["PriorDataset", list[str]]:
        """Return the data without transforms that a `datasets.Dataset` applies when it is read, and their names."""
        formats = [getattr(part, "format", None) if hasattr(part, "with_format") else None for part in self._parts]
        transforms = [(one or {}).get("format_kwargs", {}).get("transform") for one in formats]
        plain = [
            part if transform is None else part.with_format(None)
            for part, transform in zip(self._parts, transforms, strict=True)
        ]
        data = dict(zip(self.set_names, plain, strict=True)) if self.set_names else plain[0]
        return PriorDataset(data, self.name), [_name_of(one) for one in transforms if one is not None]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns a partition may name."""
        names = column_names_of(self._parts[0])
        return (*names, SOURCE_COLUMN) if self.set_names else names

    @property
    def is_ready(self) -> bool:
        """Whether rows lie ready in tables or lists, and are not made when they are read."""
        return all(
            part.format["type"] != "custom" if hasattr(part, "with_format") else isinstance(part, list)
            for part in self._parts
        )

    def features(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the features of each `datasets.Dataset` among the data, with the name that messages call it by."""
        names = [f"{self.name}[{key!r}]" for key in self.set_names] or [self.name]
        found = ((name, getattr(part, "features", None)) for name, part in zip(names, self._parts, strict=True))
        return [(name, features) for name, features in found if isinstance(features, Mapping)]

    def column(self, name: str) -> NDArray[Any]:
        """Return a column in the order of sample ids, shape (samples,); a `DataError` if there is none of this name."""
        self.require_column(name)
        if name == SOURCE_COLUMN and self.set_names:
            return np.repeat(self.set_names, np.diff(self._starts))
        return np.concatenate([_column_of(part, name) for part in self._parts])

    def arrow_column(self, name: str) -> pa.ChunkedArray:
        """Return a whole column as Arrow holds it: texts stay on disk where the data are memory-mapped.

        Values are in the order of sample ids, and texts where they are of several kinds.
        """
        self.require_column(name)
        if name == SOURCE_COLUMN and self.set_names:
            return pa.chunked_array([pa.array(np.repeat(self.set_names, np.diff(self._starts)))])
        columns = [_arrow_of(part, name) for part in self._parts]
        kinds = {column.type for column in columns}
        if len(kinds) > 1:
            columns = [pa.chunked_array([pa.array(_as_texts(column.to_pylist()))]) for column in columns]
        return pa.chunked_array([chunk for column in columns for chunk in column.chunks])

    def read_column(self, name: str, sample_ids: Ids, rows: Sequence[Any]) -> NDArray[Any]:
        """Read a column off rows that were fetched already, shape (rows,)."""
        if name == SOURCE_COLUMN and self.set_names:
            return np.asarray(self.set_names)[np.searchsorted(self._starts, sample_ids, side="right") - 1]
        return np.asarray([row.get(name) for row in rows])

    def require_plain_column(self, name: str) -> None:
        """Refuse a column that is not there, or holds more than one value a sample: no bin follows from that."""
        self.require_column(name)
        if name == SOURCE_COLUMN and self.set_names:
            return
        first = self._parts[0]
        value = (first.with_format(None) if hasattr(first, "select_columns") else first)[0][name]
        if isinstance(value, Mapping | list | tuple) or np.ndim(value) > 0:
            raise DataError(
                f"The column `{name}` of `{self.name}` holds a {type(value).__name__} a sample, but a partition needs "
                "a single value: a text, a number or a truth value. Add a column of such values, and name that one."
            )

    def require_column(self, name: str) -> None:
        """Refuse a column that is not there."""
        if name not in self.column_names:
            raise DataError(
                f"`{self.name}` has no column `{name}`. A partition needs a column that is there: "
                f"{shorten((f'`{known}`' for known in self.column_names), 20) or 'none is named'}. Name one of these."
            )


def fetch_rows(data: Any, row_numbers: Sequence[int]) -> list[Any]:
    """Fetch several rows of a map-style dataset, in one call where it offers one."""
    if hasattr(data, "__getitems__"):
        return list(data.__getitems__(list(row_numbers)))
    return [data[number] for number in row_numbers]


def column_names_of(data: Any) -> tuple[str, ...]:
    """Return the names of a map-style dataset's columns; none when its rows are not mappings."""
    names = getattr(data, "column_names", None)
    if names is None:
        rows = data if isinstance(data, list) else [data[0]]  # a dataset of one's own may read rows from disk
        names = dict.fromkeys(name for row in rows if isinstance(row, Mapping) for name in row)
    return tuple(names)


def _name_of(function: Any) -> str:
    plain = function.func if isinstance(function, partial) else function
    named = plain if hasattr(plain, "__qualname__") else type(plain)
    return f"{named.__module__}.{named.__qualname__}"


def _column_of(data: Any, name: str) -> NDArray[Any]:
    if hasattr(data, "select_columns"):
        return np.asarray(data.with_format(None)[name][:])
    return np.asarray([data[row].get(name) for row in range(len(data))])


def _arrow_of(data: Any, name: str) -> pa.ChunkedArray:
    if hasattr(data, "select_columns"):
        return data.select_columns([name]).with_format("arrow")[:].column(name)
    values = [data[row].get(name) for row in range(len(data))]
    values = [value.tolist() if hasattr(value, "tolist") else value for value in values]  # of numpy and torch
    try:
        return pa.chunked_array([pa.array(values)])
    except (pa.ArrowException, TypeError):
        return pa.chunked_array([pa.array(_as_texts(values))])


def _as_texts(values: Sequence[Any]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def _require_map_style(data: Any, name: str) -> None:
    indexable = hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, str | bytes)
    if not indexable or isinstance(data, IterableDataset):
        raise DataError(
            f"`{name}` is a {type(data).__name__}, which has no length or cannot be indexed. Rehearsal draws samples "
            "by number. Pass a map-style dataset: a `datasets.Dataset` (not an iterable one), a torch "
            "`Dataset` with `__len__` and `__getitem__`, or a list of dicts."
        )
    if not len(data):
        raise DataError(f"`{name}` is empty, but at least one sample is needed. Pass data with rows.")


def _require_same_columns(named: Mapping[str, Any]) -> None:
    columns = {name: set(column_names_of(part)) for name, part in named.items()}
    first = next(iter(columns))
    for name, found in columns.items():
        if found != columns[first]:
            raise DataError(
                f"The prior data sets `{first}` and `{name}` have different columns: "
                f"{shorten((f'`{column}`' for column in sorted(found ^ columns[first])), 20)} is in one only. Give all "
                "prior data sets the same columns."
            )
