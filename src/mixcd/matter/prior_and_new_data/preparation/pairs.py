"""Preparing rows for sequence to sequence: source and target texts become tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from mixcd.matter.prior_and_new_data.preparation.preparation import (
    find_column,
    identify_tokens,
    require_tokenizable,
    write_rows,
)


@dataclass(frozen=True)
class PairColumns:
    """Which of the data's columns are what.

    Args:
        source: The column of source texts; `source` by default, unless the rows are tokenised already.
        target: The column of target texts; `target` by default.
    """

    source: str | None = None
    target: str | None = None


def prepare_pairs(data: Dataset, *, name: str, columns: PairColumns, tokenizer: Any, max_length: int | None) -> Dataset:
    """Return the rows as a model takes them, in the same order, with all other columns kept.

    Sources and targets lose what is longer than `max_length`, by default the tokenizer's own limit. Rows that have
    `input_ids`, when no column is named, are returned as they are.

    Returns:
        Rows with `input_ids` and whatever else the tokenizer gives, `labels`, and the others.

    Raises:
        DataError: If a column is missing or in the way, a text is missing, or there is no tokenizer.
    """
    if columns == PairColumns() and "input_ids" in data.column_names:
        find_column(data, "labels", "target token", name)
        return data
    source = find_column(data, columns.source or "source", "source", name)
    target = find_column(data, columns.target or "target", "target", name)
    require_tokenizable(data, (source, target), tokenizer, name)

    def prepare(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        return dict(tokenizer(batch[source], text_target=batch[target], truncation=True, max_length=max_length))

    return write_rows(data, prepare, ("pairs", identify_tokens(tokenizer, max_length), source, target))
