"""Preparing rows for classification: texts become tokens, labels become class numbers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value

from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.prior_and_new_data.preparation.preparation import (
    describe_kind,
    find_column,
    identify_tokens,
    is_text,
    read_batches,
    require_tokenizable,
    write_rows,
)
from mixcd.words.errors import DataError, shorten

LABEL = "label"
"""The column of class numbers in prepared rows."""
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


def prepare_classes(
    data: Dataset,
    *,
    name: str,
    columns: ColumnNames,
    label_ids: Mapping[str, int],
    tokenizer: Any,
    max_length: int | None,
) -> Dataset:
    """Return the rows as a model takes them, in the same order, with all other columns kept.

    Rows that have `input_ids`, when no text column is named, are tokenised already: no tokenizer is needed, and
    where their `label` is a class number, the data are returned as they are. Otherwise the rows are
    written to a file in the cache of `datasets`, from which the next call with the same arguments reads them.

    A label given as text is looked up in `label_ids`; so is one of a `ClassLabel` column, or `True` and `False`, when
    all names of that column are there. Otherwise, and for whole numbers, the label is the class number itself.

    Args:
        label_ids: The model's class numbers by name.
        max_length: The most tokens of a sample; the tokenizer's own limit by default.

    Returns:
        Rows with `input_ids` and whatever else the tokenizer gives, an integer column `label`, and the others.

    Raises:
        DataError: If a column is missing or in the way, a text or label is missing, a label is unknown or could
            mean two classes, or texts have no tokenizer.
    """
    texts = _text_columns(data, columns, name)
    label = columns.label or next((one for one in (LABEL, "labels") if one in data.column_names), LABEL)
    find_column(data, label, "label", name)
    require_tokenizable(data, texts, tokenizer, name, own=label)
    class_names = _class_names(data.features[label], label, label_ids, name)
    class_of = _read_number if class_names is None else class_names.get
    _require_labels(data, label, class_of, label_ids, name)
    if not texts and label == LABEL and _holds_classes(data.features[label], class_names):
        return data

    def prepare(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        given_texts = [batch[text] for text in texts]
        tokens = tokenizer(*given_texts, truncation=True, max_length=max_length) if texts else {}
        return {**tokens, LABEL: [class_of(one) for one in batch[given]]}

    replaced = label in LABEL_KEYS  # renamed, because a column written over keeps its old names of classes
    given = _GIVEN_LABEL if replaced else label
    choices = repr((columns, sorted(label_ids.items())))
    identity = (identify_tokens(tokenizer, max_length) if texts else "none", choices)
    renamed = data.rename_column(label, given) if replaced else data
    return write_rows(renamed, prepare, identity, dropped=given if replaced else None)


def _text_columns(data: Dataset, columns: ColumnNames, name: str) -> tuple[str, ...]:
    if columns.text is None and columns.text_pair is None and "input_ids" in data.column_names:
        return ()
    wanted = [columns.text or "text"] + ([columns.text_pair] if columns.text_pair else [])
    return tuple(find_column(data, column, "text", name) for column in wanted)


def _class_names(feature: Any, column: str, label_ids: Mapping[str, int], name: str) -> Mapping[Any, int] | None:
    """Return the class of each stored label; None where the stored number is the class."""
    if isinstance(feature, ClassLabel):
        return {n: label_ids[one] for n, one in enumerate(feature.names)} if {*feature.names} <= {*label_ids} else None
    dtype = feature.dtype if isinstance(feature, Value) else ""
    if is_text(feature):
        return label_ids
    if dtype == "bool":
        lower = {one.lower(): number for one, number in label_ids.items()}
        return {False: lower["false"], True: lower["true"]} if {"false", "true"} <= {*lower} else {False: 0, True: 1}
    if "int" in dtype or "float" in dtype:
        return None
    raise DataError(
        f"`{name}` has {describe_kind(feature)} in its column `{column}`, but one label a sample is needed there: a "
        "name or a class number. Write the labels so, or name another column."
    )


def _holds_classes(feature: Any, class_names: Mapping[Any, int] | None) -> bool:
    whole = isinstance(feature, ClassLabel) or "int" in feature.dtype
    return whole and all(stored == number for stored, number in (class_names or {}).items())


def _read_number(label: Any) -> int | None:
    return int(label) if label is not None and math.isfinite(label) and int(label) == label else None


def _require_labels(data: Dataset, column: str, class_of: _ClassOf, label_ids: Mapping[str, int], name: str) -> None:
    labels: dict[str, set[Any]] = {"missing": set(), "unknown": set(), "ambiguous": set()}
    rows: dict[str, list[int]] = {fault: [] for fault in labels}
    for start, batch in read_batches(data, column):
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
