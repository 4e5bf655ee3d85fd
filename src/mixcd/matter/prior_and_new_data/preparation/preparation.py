"""Preparing opened data, as all tasks share it: columns found, texts required, rows written, some held out."""

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, Value
from pyarrow import compute

from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.prior_and_new_data.fingerprint import fingerprint_rows, fingerprint_tokenizer
from mixcd.words.errors import DataError, SettingError, shorten
from mixcd.words.files import naming_file
from mixcd.words.keyed_random import Stream, keyed_generator

ROWS_AT_ONCE = 1000
_NO_LIMIT = 2**31 - 1


def find_column(data: Dataset, column: str, what: str, name: str) -> str:
    """Return a column's name, or say by a `DataError` which name comes nearest; `what` is what the column holds."""
    if column in data.column_names:
        return column
    near = difflib.get_close_matches(column, data.column_names, n=1)
    raise DataError(
        f"`{name}` has no column `{column}`{f'; did you mean `{near[0]}`?' if near else '.'} A {what} column is "
        f"needed, and its columns are {shorten((f'`{known}`' for known in data.column_names), 20)}. Name one of these."
    )


def require_tokenizable(
    data: Dataset, texts: Sequence[str], tokenizer: Any, name: str, written: Sequence[str] = (), own: str | None = None
) -> None:
    """Refuse texts that cannot become tokens, and columns whose names are kept for what is written.

    Args:
        texts: Their columns; none in rows of tokens.
        written: The names of what is written besides the tokenizer's output.
        own: The column of labels, which may bear a label's name.

    Raises:
        DataError: If there is no tokenizer, a text is missing, or a column in the way.
    """
    if texts:
        require_tokenizer(tokenizer, texts[0], name)
        written = (*tokenizer.model_input_names, *written)
    clashes = [column for column in data.column_names if column in {*written, *LABEL_KEYS} - {own}]
    if clashes or own in written:
        raise DataError(
            f"`{name}` has a column {shorten((f'`{column}`' for column in clashes or [own]), 20)}, but that name is "
            "kept for what the model is given. Rename the column."
        )
    for column in texts:
        require_texts(data, column, name)


def require_tokenizer(tokenizer: Any | None, column: str, name: str) -> None:
    """Refuse texts that there is no tokenizer for."""
    if tokenizer is None:
        raise DataError(
            f"`{name}` has texts in `{column}`, but the model folder has no tokenizer. Save one "
            "there, name one in a config as `model.tokenizer`, or give rows with `input_ids`."
        )


def read_batches(data: Dataset, column: str) -> Iterator[tuple[int, pa.ChunkedArray]]:
    """Read a column some rows at a time: yield the number of the first row, and the values from it on."""
    batches = data.select_columns([column]).with_format("arrow").iter(ROWS_AT_ONCE)
    for number, batch in enumerate(batches):
        yield number * ROWS_AT_ONCE, batch[column]


def is_text(feature: Any) -> bool:
    """Whether a column holds texts."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def require_texts(data: Dataset, column: str, name: str) -> None:
    """Refuse a column that holds no texts, or blank ones, by a `DataError` that names the samples."""
    feature = data.features[column]
    if not is_text(feature):
        raise DataError(
            f"`{name}` has {describe_kind(feature)} in its column `{column}`, but texts are needed there. Name the "
            "column of texts."
        )
    rows: list[int] = []
    for start, texts in read_batches(data, column):
        blank = compute.equal(compute.utf8_trim_whitespace(texts), "")
        rows += (start + np.flatnonzero(compute.fill_null(blank, True))).tolist()
    if rows:
        raise DataError(
            f"`{name}` has no text in its column `{column}` on sample {shorten(rows)} (counted from 0), but every "
            "sample needs one. Fill in the texts, or leave these rows out."
        )


def describe_kind(feature: Any) -> str:
    """Say what a column holds."""
    return f"{feature.dtype if isinstance(feature, Value) else type(feature).__name__} values"


def write_rows(
    data: Dataset,
    prepare: Callable[[Mapping[str, list[Any]]], dict[str, Any]],
    identity: tuple[str, ...],
    *,
    dropped: str | None = None,
    features: Any = None,
) -> Dataset:
    """Write prepared rows to a file in the cache of `datasets`, from which the next call with the same data reads them.

    Args:
        prepare: Returns the new columns of some rows, given by column.
        identity: All else that the new columns depend on.
        dropped: A column to leave out.
        features: The kinds of all columns; as they are found by default.
    """
    written = hashlib.sha256(repr((data._fingerprint, *identity)).encode()).hexdigest()
    folder = Path(datasets.config.HF_DATASETS_CACHE, "mixcd-prepared")
    folder.mkdir(parents=True, exist_ok=True)
    with naming_file(folder):
        return data.with_format(None).map(
            prepare,
            batched=True,
            batch_size=ROWS_AT_ONCE,
            remove_columns=None if dropped is None else [dropped],
            features=features,
            cache_file_name=str(folder / f"{written}.arrow"),
            new_fingerprint=written,
            desc="Preparing rows",
        )


def identify_tokens(tokenizer: Any, max_length: int | None) -> str:
    """Return a text that differs when a tokenizer makes other tokens."""
    inputs = (tokenizer.model_max_length, tokenizer.model_input_names)
    return repr((fingerprint_tokenizer(tokenizer), max_length, inputs))


def require_inputs(data: Dataset, *, name: str, token_count: int | None, longest: int | None) -> None:
    """Refuse tokens that a model cannot take, which PyTorch would only find in the forward pass.

    Args:
        token_count: The number of the model's tokens; None when it is not known.
        longest: The most tokens of a sample; None when there is no limit.

    Raises:
        DataError: If `input_ids` are no token numbers, or missing, too large or too many.
    """
    kind = data.features["input_ids"]
    inner = getattr(kind, "feature", None)
    if not isinstance(inner, Value) or "int" not in inner.dtype:
        raise DataError(
            f"`{name}` has {describe_kind(kind)} in its column `input_ids`, but a list of token numbers is needed "
            "there. Rename the column, and name that of the texts as `columns.text`."
        )
    for start, batch in read_batches(data, "input_ids"):
        rows = batch.combine_chunks()
        tokens, lengths = compute.list_flatten(rows), compute.list_value_length(rows)
        unknown = compute.or_(compute.less(tokens, 0), compute.greater_equal(tokens, token_count or _NO_LIMIT))
        with_unknown = compute.list_parent_indices(rows).filter(compute.fill_null(unknown, True))
        for found, fault in (
            (compute.indices_nonzero(rows.is_null()), "no tokens"),
            (
                compute.indices_nonzero(compute.greater(lengths, longest or _NO_LIMIT)),
                f"more than the {longest} tokens that the model takes",
            ),
            (compute.unique(with_unknown), f"a token that is none of the model's {token_count}"),
        ):
            if len(found):
                samples = shorten(start + found.to_numpy().astype(np.int64))
                raise DataError(
                    f"`{name}` has {fault} on sample {samples} (counted from 0). Use the tokenizer that the model was "
                    "trained with, and a `max_length` that the model takes."
                )


def split_held_out(data: Dataset, share: float, *, seed: int, name: str) -> tuple[Dataset, Dataset | None]:
    """Hold some rows out at random; both parts keep the order of the data.

    Equal data and seed hold out the same rows, wherever the data are used: what was held out of the new data of one
    stage is so of the prior data of the next.

    Args:
        share: Which share of them to hold out, rounded to whole rows, but at least one; 0 for none.

    Returns:
        The rows that stay, and those held out; None when the share is 0.

    Raises:
        SettingError: If the share is no share.
        DataError: If no row would stay.

    Example:
        >>> rows = Dataset.from_dict({"x": [0, 1, 2, 3, 4]})
        >>> kept, held_out = split_held_out(rows, 0.4, seed=0, name="new")
        >>> kept["x"][:], held_out["x"][:]
        ([0, 1, 4], [2, 3])
    """
    if not 0 <= share <= 1:
        raise SettingError(
            f"The share of `{name}` to hold out is {share}, but a share is from 0 to 1. Pass one in that range."
        )
    if share == 0:
        return data, None
    count = max(1, round(share * len(data)))
    if count >= len(data):
        raise DataError(
            f"`{name}` has {len(data)} row(s), and holding out a share of {share} leaves none of them. Hold out less, "
            "or give more rows."
        )
    number = int(fingerprint_rows(data)[:8], 16)
    held_out = np.zeros(len(data), dtype=bool)
    held_out[keyed_generator(seed, number, Stream.HELD_OUT).permutation(len(data))[:count]] = True
    return data.select(np.flatnonzero(~held_out)), data.select(np.flatnonzero(held_out))
