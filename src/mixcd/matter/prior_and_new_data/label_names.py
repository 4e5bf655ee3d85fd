"""Label names: new data, prior data and model must number the same labels alike."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.model_shape.model_kind import count_labels, is_multiple_choice
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Ids

_UNNAMED = "label_"
"""How transformers calls the labels of a model that was given no names."""


def require_same_numbers(model: torch.nn.Module, *all_data: PriorDataset) -> None:
    """Refuse data that number the same label names otherwise than the model or each other do.

    Names are known of a `datasets.ClassLabel` column and of a model's `config.id2label`. Where they are not, or are
    other names altogether, nothing can be told.
    """
    known = [("the model", names_of_model(model))]
    known += [(f"`{name}`", names) for data in all_data for name, names in _names_of_data(data)]
    named = [(owner, names) for owner, names in known if names]
    for owner, names in named[1:]:
        first, wanted = named[0]
        if _fold(names) != _fold(wanted) and sorted(_fold(names)) == sorted(_fold(wanted)):
            raise DataError(
                f"{owner} numbers its labels {shorten(names, 20)}, from 0 on, but {first} {shorten(wanted, 20)}. A "
                "number must mean the same label everywhere. Renumber the data's labels, with "
                "`datasets.Dataset.align_labels_with_mapping`."
            )


def match_labels(base: torch.nn.Module, tuned: torch.nn.Module) -> Ids | None:
    """Match the labels of two models by their names, whatever their order.

    Returns:
        The fine-tuned model's number of each of the base model's labels, shape (labels,); None where they are the same.

    Raises:
        DataError: If one has labels that the other lacks; says which.
    """
    if is_multiple_choice(base):
        return None  # its labels are places among a sample's choices
    counts = [count_labels(base), count_labels(tuned)]
    names, others = (_fold_distinct(names_of_model(model)) for model in (base, tuned))
    if names and others and sorted(names) != sorted(others):
        raise DataError(
            f"The models know other labels: only the base model has {_list_missing(names, others)}; only the "
            f"fine-tuned model has {_list_missing(others, names)}. They are compared on the same labels. Name models "
            "of the same task."
        )
    if None not in counts and counts[0] != counts[1]:
        raise DataError(
            f"The base model has {counts[0]} labels, but the fine-tuned model {counts[1]}. They are compared on the "
            "same labels. Name models of the same task."
        )
    return np.array([others.index(name) for name in names]) if names and others and names != others else None


def _fold_distinct(names: Sequence[str]) -> list[str]:
    """Names without their case, unless it tells them apart."""
    return _fold(names) if len(set(_fold(names))) == len(names) else list(names)


def _list_missing(names: Sequence[str], others: Sequence[str]) -> str:
    return shorten((f"`{name}`" for name in names if name not in others), 10) or "none of its own"


def names_of_model(model: torch.nn.Module) -> Sequence[str]:
    """Return the names of a model's labels, by their numbers; none of choices, or where none were given."""
    if is_multiple_choice(model):
        return []
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    in_order = [str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    return [] if all(name.lower().startswith(_UNNAMED) for name in in_order) else in_order


def count_classes(model: torch.nn.Module, row: Any) -> int | None:
    """Return the number of a model's classes, in multiple choice of a sample's choices; None where it is not known."""
    if is_multiple_choice(model):
        return len(row["input_ids"]) if isinstance(row, Mapping) and "input_ids" in row else None
    return count_labels(model)


def number_labels(config: Any) -> dict[str, int]:
    """Return a model's class numbers by name; models that were saved with `id2label` alone have no `label2id`."""
    return config.label2id or {str(name): int(number) for number, name in (config.id2label or {}).items()}


def _names_of_data(data: PriorDataset) -> list[tuple[str, Sequence[str]]]:
    """The label names of each set that has some."""
    return [
        (name, list(features[key].names))
        for name, features in data.features()
        for key in LABEL_KEYS
        if key in features and getattr(features[key], "names", None)
    ]


def _fold(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]
