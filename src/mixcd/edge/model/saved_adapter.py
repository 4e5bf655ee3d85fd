"""A saved adapter of PEFT: found beside or instead of a model, put on the model that it was made for, merged into it.

An adapter none of whose weights arrive changes nothing, and would pass every comparison: it is refused.
"""

import importlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from mixcd.edge.model.model_place import locate, reason_of
from mixcd.words.errors import SettingError, shorten

_CONFIG = "adapter_config.json"
_WHOLE = "config.json"
_PREFIX = "base_model.model."
_NAME = "default"
"""What PEFT calls an adapter that was given no name."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter instead of a whole model."""
    return (folder / _CONFIG).is_file()


def find_adapter(path: str | Path, name: str) -> Path | None:
    """Return the folder of an adapter, downloaded if it lies on the hub; None where a whole model lies.

    Args:
        path: Folder or hub name.

    Raises:
        SettingError: If there is no such folder, or an adapter and a whole model in it.
    """
    place, choices = locate(str(path), name)
    folder = Path(place)
    if not folder.is_dir():
        is_cut_off = choices.get("local_files_only", False)
        if find_adapter_config_file(place, local_files_only=is_cut_off) is None:
            return None
        return Path(snapshot_download(place, allow_patterns=["adapter_*"], local_files_only=is_cut_off))
    if is_adapter(folder) and (folder / _WHOLE).is_file():
        raise SettingError(
            f"`{name}` is `{path}`, which holds a whole model and an adapter, and does not say whether the adapter is "
            "merged into that model already. Leave the one that you mean: move "
            f"`{_WHOLE}` and the weights beside it, or `{_CONFIG}`, to another folder."
        )
    return folder if is_adapter(folder) else None


def find_base(folder: Path) -> str:
    """Return the folder or hub name of the model that an adapter was made for.

    Raises:
        SettingError: If the adapter does not say, or there is no such folder.
    """
    file = folder / _CONFIG
    try:
        base = json.loads(file.read_text("utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise SettingError(
            f"`{file}` cannot be read: {reason_of(error)} Restore the folder as PEFT's `save_pretrained` wrote it."
        ) from error
    if not base or Path(base).expanduser().absolute() == folder.absolute():
        raise SettingError(
            f"The adapter `{folder}` names {'itself' if base else 'no model'} as the one that it was made for. Write "
            f"that model's folder or hub name to `base_model_name_or_path` in its `{_CONFIG}`."
        )
    locate(str(base), f"base_model_name_or_path` of the adapter `{folder}")
    return str(base)


def put_adapter(model: torch.nn.Module, folder: Path, name: str) -> Any:
    """Put a saved adapter on the model that it was made for, and see that all its weights arrived.

    Args:
        model: The model; it is changed.

    Returns:
        PEFT's wrapper of the model.

    Raises:
        SettingError: If PEFT is missing, or the adapter was made for another model.
    """
    peft = import_peft(f"`{name}` is `{folder}`, an adapter")
    try:
        with warnings.catch_warnings(action="ignore"):  # what PEFT warns of is refused below
            adapted = peft.PeftModel.from_pretrained(model, str(folder))
            report = adapted.load_adapter(str(folder), _NAME)  # again, for only this says what arrived
    except KeyError as error:
        raise _refuse(folder, name, f"it brings no weights for `{error.args[0]}`, which it is to replace.") from error
    except Exception as error:  # damaged files make the loaders raise almost anything
        raise _refuse(folder, name, reason_of(error)) from error
    missing = _without_shared(adapted, report.missing_keys)
    homeless = [] if adapted.peft_config[_NAME].is_prompt_learning else report.unexpected_keys
    if homeless:
        raise _refuse(folder, name, f"the model has no place for its weights {shorten(sorted(homeless), 2)}.")
    if missing:
        raise _refuse(folder, name, f"it brings no weights for {shorten(sorted(missing), 2)}.")
    return adapted


def merge_saved(model: PreTrainedModel, folder: Path, name: str) -> PreTrainedModel:
    """Merge a saved adapter into the model that it was made for; the result goes by the adapter's name.

    Args:
        model: The model; it is used up.

    Raises:
        SettingError: Whatever `put_adapter` raises; or if merging would change what the model says.
    """
    trainable = {key: weight.requires_grad for key, weight in model.named_parameters()}
    adapted = put_adapter(model, folder, name)
    if not hasattr(adapted, "merge_and_unload"):
        kind = adapted.peft_config[_NAME].peft_type.value
        raise SettingError(
            f"`{name}` is `{folder}`, an adapter of the kind {kind}, which has no "
            "weights to merge into a model's. Name a whole model, or an adapter such as LoRA."
        )
    if shared := find_shared(adapted):
        raise SettingError(
            f"`{name}` is `{folder}`, an adapter of {shorten(shared, 3)}, whose weights the model uses in another "
            "place too: merged, it would change both. Give each place weights of its own (`tie_word_embeddings=False` "
            "in the model's config), merge and save it, and name that whole model."
        )
    merged: PreTrainedModel = adapted.merge_and_unload()
    for key, weight in merged.named_parameters():
        weight.requires_grad_(trainable[key])  # PEFT froze them
    merged.name_or_path = merged.config._name_or_path = str(folder)  # an adapter on top must name this as its base
    return merged


def find_shared(adapted: Any) -> list[str]:
    """Return the adapted modules whose weights the model uses in another place too, as with tied embeddings.

    Returns:
        Their names; empty where the adapter can be merged.
    """
    layer_class = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    uses: dict[int, int] = {}
    for _, weight in adapted.named_parameters(remove_duplicate=False):
        uses[id(weight)] = uses.get(id(weight), 0) + 1
    return [
        name.removeprefix(_PREFIX)
        for name, layer in adapted.named_modules()
        if isinstance(layer, layer_class)
        and any(uses[id(weight)] > 1 for weight in layer.get_base_layer().parameters())
    ]


def brought_weights(folder: Path) -> set[str]:
    """Return the names of the model's own weights that an adapter brings whole, such as its head's."""
    stored = importlib.import_module("peft.utils.save_and_load").load_peft_weights(str(folder), device="cpu")
    return {name.removeprefix(_PREFIX) for name in stored}


def import_peft(need: str) -> Any:
    """Import PEFT, which only adapters need.

    Args:
        need: What is to be made by it, as a message begins.

    Raises:
        SettingError: If it is not installed.
    """
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise SettingError(
            f"{need}, which is made by PEFT, but the package `peft` cannot be imported: "
            f"{' '.join(str(error).split()).rstrip('.')}. Run `pip install peft`."
        ) from error


def _without_shared(adapted: Any, missing: Sequence[str]) -> list[str]:
    """Leave out the names of weights that arrived by another name: some kinds of adapters share them over layers."""
    weights = dict(adapted.named_parameters(remove_duplicate=False))
    arrived = {id(weight) for name, weight in weights.items() if name not in missing}
    return [name for name in missing if id(weights.get(name)) not in arrived]


def _refuse(folder: Path, name: str, reason: str) -> SettingError:
    return SettingError(
        f"`{name}` is the adapter `{folder}`, which does not fit the base model: {reason} Name the base model that "
        "it was made for, or restore the folder as PEFT's `save_pretrained` wrote it."
    )
