"""Preparing opened data: texts become tokens, labels become class numbers, and some rows are held out."""

import difflib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Value
from pyarrow import compute

from mixcd.correctness_rule.right_class import LABEL_KEYS
from mixcd.errors import DataError, SettingError, shorten
from mixcd.fingerprint import fingerprint_tokenizer
from mixcd.keyed_random import Stream, keyed_generator
from mixcd.replace_file import naming_file

LABEL = "label"
"""The column of class numbers in prepared rows."""
ROWS_AT_ONCE = 1000
_NO_LIMIT = 2**31 - 1
_GIVEN_LABEL = "mixcd_given_label"
_ClassOf = Callable[[Any], int | None]


@dataclass(frozen=True)
class ColumnNames:
    """Which of the data's columns are what.

    Args:
        text: The column of texts; `text` by default, unless the rows are tokenised already.
        text_pair: The column of second texts, when a sample is a pair.
        label: The column of labels; `label` or `labels` by default.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


def prepare_rows(
    data: Dataset,
    *,
    name: str,
    columns: ColumnNames,
    label_ids: Mapping[str, int],
    tokenizer: Any | None,
    max_length: int | None,
) -> Dataset:
    """Return the rows as a model takes them, in the same order, with all other columns kept.

    Rows that have `input_ids`, when no text column is named, are tokenised already: no tokenizer is needed, and
    where their `label` is a class number, the data are returned as they are. Otherwise the rows are
    written to a file in the cache of `datasets`, from which the next call with the same arguments reads them.

    A label given as text is looked up in `label_ids`; so is one of a `ClassLabel` column, or `True` and `False`, when
    all names of that column are there. Otherwise, and for whole numbers, the label is the class number itself.

    Args:
        data: The data, as opened.
        name: What messages call them.
        columns: Which columns are what.
        label_ids: The model's class numbers by name.
        tokenizer: The model's tokenizer, or None when it has none.
        max_length: The most tokens of a sample; the tokenizer's own limit by default.

    Returns:
        Rows with `input_ids` and whatever else the tokenizer gives, an integer column `label`, and the others.

    Raises:
        DataError: If a column is missing or in the way, a text or label is missing, a label is unknown or could
            mean two classes, or texts have no tokenizer.
    """
    texts = _text_columns(data, columns, name)
    label = _find_column(data, columns.label or ("labels" if _has_only_labels(data) else LABEL), "label", name)
    if texts and tokenizer is None:
        raise DataError(
            f"`{name}` has texts in `{texts[0]}`, but the model folder has no tokenizer. Name one in the "
            "config as `model.tokenizer`, or give rows with `input_ids`."
        )
    _refuse_clashes(data, label, tuple(tokenizer.model_input_names) if tokenizer is not None and texts else (), name)
    for text in texts:
        _require_texts(data, text, name)
    class_names = _class_names(data.features[label], label, label_ids, name)
    class_of = _read_number if class_names is None else class_names.get
    _require_labels(data, label, class_of, label_ids, name)
    if not texts and label == LABEL and _holds_classes(data.features[label], class_names):
        return data
    choices = repr((columns, sorted(label_ids.items())))
    return _write_rows(data, texts, label, class_of, tokenizer if texts else None, max_length, choices)


def require_inputs(data: Dataset, *, name: str, token_count: int | None, longest: int | None) -> None:
    """Refuse tokens that a model cannot take, which PyTorch would only find in the forward pass.

    Args:
        data: Prepared rows.
        name: What messages call them.
        token_count: The number of the model's tokens; None when it is not known.
        longest: The most tokens of a sample; None when there is no limit.

    Raises:
        DataError: If `input_ids` are no token numbers, or missing, too large or too many.
    """
    kind = data.features["input_ids"]
    inner = getattr(kind, "feature", None)
    if not isinstance(inner, Value) or "int" not in inner.dtype:
        raise DataError(
            f"`{name}` has {_kind_of(kind)} in its column `input_ids`, but a list of token numbers is needed there. "
            "Rename the column, and name that of the texts as `columns.text`."
        )
    for start, batch in _batches(data, "input_ids"):
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
                    "trained with, and a `model.max_length` that the model takes."
                )


def split_held_out(data: Dataset, share: float, *, seed: int, number: int, name: str) -> tuple[Dataset, Dataset | None]:
    """Hold some rows out at random; both parts keep the order of the data.

    Args:
        data: The rows.
        share: Which share of them to hold out, rounded to whole rows, but at least one; 0 for none.
        seed: The run's seed.
        number: The number of the data set, so that sets of equal length are split differently.
        name: What messages call the rows.

    Returns:
        The rows that stay, and those held out; None when the share is 0.

    Raises:
        SettingError: If the share is no share.
        DataError: If no row would stay.

    Example:
        >>> rows = Dataset.from_dict({"x": [0, 1, 2, 3, 4]})
        >>> kept, held_out = split_held_out(rows, 0.4, seed=0, number=1, name="new")
        >>> kept["x"][:], held_out["x"][:]
        ([0, 2, 3], [1, 4])
    """
    if not 0 <= share <= 1:
        raise SettingError(
            f"The share of `{name}` to hold out is {share}, but a share is from 0 to 1. Give such a one."
        )
    if share == 0:
        return data, None
    count = max(1, round(share * len(data)))
    if count >= len(data):
        raise DataError(
            f"`{name}` has {len(data)} row(s), and holding out a share of {share} leaves none of them. Hold out less, "
            "or give more rows."
        )
    held_out = np.zeros(len(data), dtype=bool)
    held_out[keyed_generator(seed, number, Stream.HELD_OUT).permutation(len(data))[:count]] = True
    return data.select(np.flatnonzero(~held_out)), data.select(np.flatnonzero(held_out))


def _text_columns(data: Dataset, columns: ColumnNames, name: str) -> tuple[str, ...]:
    if columns.text is None and columns.text_pair is None and "input_ids" in data.column_names:
        return ()
    wanted = [columns.text or "text"] + ([columns.text_pair] if columns.text_pair else [])
    return tuple(_find_column(data, column, "text", name) for column in wanted)


def _has_only_labels(data: Dataset) -> bool:
    return LABEL not in data.column_names and "labels" in data.column_names


def _find_column(data: Dataset, column: str, what: str, name: str) -> str:
    if column in data.column_names:
        return column
    near = difflib.get_close_matches(column, data.column_names, n=1)
    raise DataError(
        f"`{name}` has no column `{column}`{f'; did you mean `{near[0]}`?' if near else '.'} A {what} column is "
        f"needed, and its columns are {shorten((f'`{known}`' for known in data.column_names), 20)}. Name one of these."
    )


def _refuse_clashes(data: Dataset, label: str, written: tuple[str, ...], name: str) -> None:
    clashes = [column for column in data.column_names if column in {*written, *LABEL_KEYS} - {label}]
    if clashes or label in written:
        raise DataError(
            f"`{name}` has a column {shorten((f'`{column}`' for column in clashes or [label]), 20)}, but that name is "
            "kept for what the model is given. Rename the column."
        )


def _batches(data: Dataset, column: str) -> Iterator[tuple[int, pa.ChunkedArray]]:
    batches = data.select_columns([column]).with_format("arrow").iter(ROWS_AT_ONCE)
    for number, batch in enumerate(batches):
        yield number * ROWS_AT_ONCE, batch[column]


def _require_texts(data: Dataset, column: str, name: str) -> None:
    feature = data.features[column]
    if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
        raise DataError(
            f"`{name}` has {_kind_of(feature)} in its column `{column}`, but texts are needed there. Name the "
            "column of texts."
        )
    rows: list[int] = []
    for start, texts in _batches(data, column):
        blank = compute.equal(compute.utf8_trim_whitespace(texts), "")
        rows += (start + np.flatnonzero(compute.fill_null(blank, True))).tolist()
    if rows:
        raise DataError(
            f"`{name}` has no text in its column `{column}` on sample {shorten(rows)} (counted from 0), but every "
            "sample needs one. Fill in the texts, or leave these rows out."
        )


def _class_names(feature: Any, column: str, label_ids: Mapping[str, int], name: str) -> Mapping[Any, int] | None:
    """Return the class of each stored label; None where the stored number is the class."""
    if isinstance(feature, ClassLabel):
        return {n: label_ids[one] for n, one in enumerate(feature.names)} if {*feature.names} <= {*label_ids} else None
    dtype = feature.dtype if isinstance(feature, Value) else ""
    if dtype in ("string", "large_string"):
        return label_ids
    if dtype == "bool":
        lower = {one.lower(): number for one, number in label_ids.items()}
        return {False: lower["false"], True: lower["true"]} if {"false", "true"} <= {*lower} else {False: 0, True: 1}
    if "int" in dtype or _is_float(feature):
        return None
    raise DataError(
        f"`{name}` has {_kind_of(feature)} in its column `{column}`, but one label a sample is needed there: a name or "
        "a class number. Write the labels so, or name another column."
    )


def _holds_classes(feature: Any, class_names: Mapping[Any, int] | None) -> bool:
    whole = isinstance(feature, ClassLabel) or "int" in feature.dtype
    return whole and all(stored == number for stored, number in (class_names or {}).items())


def _is_float(feature: Any) -> bool:
    return isinstance(feature, Value) and "float" in feature.dtype


def _kind_of(feature: Any) -> str:
    return f"{feature.dtype if isinstance(feature, Value) else type(feature).__name__} values"


def _read_number(label: Any) -> int | None:
    return int(label) if label is not None and math.isfinite(label) and int(label) == label else None


def _require_labels(data: Dataset, column: str, class_of: _ClassOf, label_ids: Mapping[str, int], name: str) -> None:
    labels: dict[str, set[Any]] = {"missing": set(), "unknown": set(), "ambiguous": set()}
    rows: dict[str, list[int]] = {fault: [] for fault in labels}
    for start, batch in _batches(data, column):
        coded = batch.combine_chunks().dictionary_encode("encode")
        for code, label in enumerate(coded.dictionary.to_pylist()):
            fault = _fault_of(label, class_of, label_ids)
            if fault:
                labels[fault].add(label)
                rows[fault] += (start + np.flatnonzero(coded.indices.to_numpy() == code)).tolist()
    where = {
        fault: f"in its column `{column}` on sample {shorten(sorted(rows[fault]))} (counted from 0)" for fault in labels
    }
    named = {fault: shorten(f"`{label}`" for label in sorted(found, key=str)) for fault, found in labels.items()}
    known = shorten((f"`{label}`" for label in label_ids), 20) or "none"
    if labels["missing"]:
        raise DataError(
            f"`{name}` has no label {where['missing']}, but every sample needs one. Fill in "
            "the labels, or leave these rows out."
        )
    if labels["unknown"]:
        raise DataError(
            f"`{name}` has label {named['unknown']} {where['unknown']}, but the model knows {known}. "
            "Give the labels these names, or whole class numbers."
        )
    if labels["ambiguous"]:
        raise DataError(
            f"`{name}` has label {named['ambiguous']} {where['ambiguous']}, but the model has "
            f"a class of that name with another number: it knows {known}. Give the labels as text when names are "
            "meant, or rename the model's labels."
        )


def _fault_of(label: Any, class_of: _ClassOf, label_ids: Mapping[str, int]) -> str:
    if label is None or label != label or (isinstance(label, str) and not label.strip()):
        return "missing"
    number = class_of(label)
    if number is None:
        return "unknown"
    return "ambiguous" if class_of is _read_number and label_ids.get(str(number), number) != number else ""


def _write_rows(
    data: Dataset,
    texts: tuple[str, ...],
    label: str,
    class_of: _ClassOf,
    tokenizer: Any | None,
    max_length: int | None,
    choices: str,
) -> Dataset:
    def prepare(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        given_texts = [batch[text] for text in texts]
        tokens = {} if tokenizer is None else tokenizer(*given_texts, truncation=True, max_length=max_length)
        return {**tokens, LABEL: [class_of(one) for one in batch[given]]}

    identity = (data._fingerprint, "none" if tokenizer is None else _identify(tokenizer, max_length), choices)
    written = hashlib.sha256(repr(identity).encode()).hexdigest()
    folder = Path(datasets.config.HF_DATASETS_CACHE, "mixcd-prepared")
    folder.mkdir(parents=True, exist_ok=True)
    replaced = label in LABEL_KEYS  # renamed, because a column written over keeps its old names of classes
    given = _GIVEN_LABEL if replaced else label
    data = data.with_format(None)
    with naming_file(folder):
        return (data.rename_column(label, given) if replaced else data).map(
            prepare,
            batched=True,
            batch_size=ROWS_AT_ONCE,
            remove_columns=[given] if replaced else None,
            cache_file_name=str(folder / f"{written}.arrow"),
            new_fingerprint=written,
            desc="Preparing rows",
        )


def _identify(tokenizer: Any, max_length: int | None) -> str:
    inputs = (tokenizer.model_max_length, tokenizer.model_input_names)
    return repr((fingerprint_tokenizer(tokenizer), max_length, inputs))
