"""Label names: new data, prior data and model must number the same labels alike."""

from collections.abc import Sequence

import torch

from mixcd.correctness_rule.right_class import LABEL_KEYS
from mixcd.errors import DataError, shorten
from mixcd.prior_dataset import PriorDataset

_UNNAMED = "label_"
"""How transformers calls the labels of a model that was given no names."""


def require_same_numbers(model: torch.nn.Module, *all_data: PriorDataset) -> None:
    """Refuse data that number the same label names otherwise than the model or each other do.

    Names are known of a `datasets.ClassLabel` column and of a model's `config.id2label`. Where they are not, or are
    other names altogether, nothing can be told.

    Args:
        model: The model.
        all_data: The data.

    Raises:
        DataError: If so.
    """
    known = [("the model", _names_of_model(model))]
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


def _names_of_model(model: torch.nn.Module) -> Sequence[str]:
    names = getattr(getattr(model, "config", None), "id2label", None) or {}
    in_order = [str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    return [] if all(name.lower().startswith(_UNNAMED) for name in in_order) else in_order


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
