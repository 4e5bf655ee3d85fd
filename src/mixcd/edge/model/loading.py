"""Opening a model and its tokenizer: from a folder or the Hugging Face hub, an adapter merged into its base model."""

from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from mixcd.edge.config.config import Config, ModelConfig
from mixcd.edge.model.model_place import TOKENIZER_FILES, explain, has_tokenizer, locate
from mixcd.edge.model.saved_adapter import brought_weights, find_adapter, find_base, is_adapter, merge_saved
from mixcd.edge.quiet import hold_back_warnings
from mixcd.edge.task_kind import TASK_KINDS
from mixcd.words.errors import SettingError, shorten

Dtype = torch.dtype | Literal["auto"]
"""How weights are held; "auto" for as they are stored."""

_OF_ANOTHER_KIND = "Unrecognized configuration class"
"""How transformers begins to say that a class of models does not know a kind of model."""


def load_model(config: Config, path: str | Path, name: str = "model.path") -> PreTrainedModel:
    """Open a model of the config's task.

    Weights that are to be trained are held in single precision, as TRL does: small steps are lost in 16 bits. Under an
    adapter they are held as they are stored.

    Args:
        path: Folder or hub name.
        name: What messages call it.

    Raises:
        SettingError: If there is none, or it has no trained head for the task.
    """
    kind = TASK_KINDS[config.task]
    model = open_model(
        path,
        name,
        model_class=kind.model_class,
        trust_remote_code=config.model.trust_remote_code,
        task=config.task,
        dtype=torch.float32 if config.adapter is None else "auto",
    )
    kind.require_model(model, path)
    return model


@hold_back_warnings()
def open_model(
    path: str | Path,
    name: str,
    *,
    model_class: Any = None,
    trust_remote_code: bool = False,
    task: str | None = None,
    dtype: Dtype = "auto",
) -> PreTrainedModel:
    """Open a model with all its weights: the one way to do so.

    An adapter is merged into the model that it was made for, which is opened likewise.

    Args:
        path: Folder or hub name.
        name: What messages call it.
        model_class: A class of transformers with `from_pretrained`; the one that the model's config names by default.
        task: The config's task, for messages; None without a config.

    Raises:
        SettingError: If there is none, or some of its weights are not there, of another shape, or not to be merged.
    """
    settings = {"trust_remote_code": trust_remote_code, "dtype": dtype}
    model, untrained = _open(path, name, model_class, task, settings)
    _require_trained(untrained, path, task)
    return model


def _open(
    path: str | Path, name: str, model_class: Any, task: str | None, settings: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and which of its weights were never trained."""
    adapter = find_adapter(path, name)
    if adapter is None:
        return _open_whole(path, name, model_class, task, settings)
    base_name = f"base_model_name_or_path` of the adapter `{path}"
    base, untrained = _open(find_base(adapter), base_name, model_class, task, settings)
    return merge_saved(base, adapter, name), untrained - brought_weights(adapter)


def _open_whole(
    path: str | Path, name: str, model_class: Any, task: str | None, settings: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    place, choices = locate(str(path), name)
    model_class = model_class or _find_class(path, name)
    try:
        model, report = model_class.from_pretrained(
            place,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            adapter_kwargs=choices,  # else the hub is asked for an adapter, again and again, though it is not reached
            **settings,
            **choices,
        )
    except Exception as error:  # damaged files make the loaders raise almost anything
        if task is not None and _OF_ANOTHER_KIND in str(error):
            raise SettingError(
                f"The model `{path}` is not one that `{model_class.__name__}` loads, but `task` is `{task}`. Name a "
                "model of this task, or set the `task` that it knows."
            ) from error
        raise _refuse(path, name, error, choices) from error
    _require_fitting(report, path)
    return model, {*report["missing_keys"]}


def _find_class(path: str | Path, name: str) -> Any:
    """The class that a model's config names."""
    place, choices = locate(str(path), name)
    try:
        architectures = AutoConfig.from_pretrained(place, **choices).architectures or []
    except Exception as error:  # damaged files make the loaders raise almost anything
        raise _refuse(path, name, error, choices) from error
    model_class = getattr(transformers, architectures[0], None) if architectures else None
    if model_class is None:
        raise SettingError(
            f"`{name}` is `{path}`, whose `config.json` names {' '.join(architectures) or 'no class'} as its "
            "architecture, but a class of transformers is needed there. Save it with `save_pretrained`, or load it "
            "yourself and call `mixcd.compare`."
        )
    return model_class


def _refuse(path: str | Path, name: str, error: Exception, choices: dict[str, bool]) -> SettingError:
    return SettingError(
        f"`{name}` is `{path}`, but no model can be loaded from there: {explain(error, choices)} Name a folder written "
        "by `save_pretrained`, or a model on the hub that can be reached."
    )


def _require_fitting(report: dict[str, Any], path: str | Path) -> None:
    """Refuse weights of other shapes."""
    if report["mismatched_keys"]:
        key, stored, wanted = min(report["mismatched_keys"])
        raise SettingError(
            f"The model `{path}` has weights that do not fit its `config.json`: `{key}` is of shape {tuple(stored)} "
            f"instead of {tuple(wanted)}. Restore the folder as `save_pretrained` wrote it."
        )


def _require_trained(untrained: set[str], path: str | Path, task: str | None) -> None:
    """Refuse a head that was never trained."""
    if untrained:
        other = "" if task is None else f"; or set another `task` than `{task}`"
        raise SettingError(
            f"The model `{path}` has no trained weights for {shorten(sorted(untrained), 3)}, so it does not know the "
            f"prior task yet. Fine-tune it on the prior task first, and name that model{other}."
        )


def load_tokenizer(config: ModelConfig, *, can_pad_by_end: bool = False) -> Any:
    """Load the tokenizer of a model; it can pad.

    Args:
        can_pad_by_end: Whether the token of a text's end will do to pad with.

    Raises:
        SettingError: If there is none, or it cannot pad.
    """
    path, name = (config.tokenizer, "model.tokenizer") if config.tokenizer else (config.path, "model.path")
    place, choices = locate(find_tokenizer_place(path, name), name)
    if Path(place).is_dir() and not has_tokenizer(Path(place)):
        raise SettingError(
            f"The folder `{path}` has no tokenizer: none of {shorten(TOKENIZER_FILES, 9)} is there. Inputs are made "
            "and padded by the model's tokenizer. Set `model.tokenizer` to a folder or hub name that has it."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=config.trust_remote_code, **choices)
    except Exception as error:  # damaged files make the loaders raise almost anything
        raise SettingError(
            f"No tokenizer can be loaded from `{path}`: {explain(error, choices)} Set `model.tokenizer` to a folder or "
            "hub name that has it."
        ) from error
    if tokenizer.pad_token is None and not (can_pad_by_end and tokenizer.eos_token is not None):
        raise SettingError(
            f"The tokenizer `{path}` has no padding token, but samples of several lengths share a batch. Set its "
            "`pad_token` and save it again."
        )
    return tokenizer


def find_tokenizer_place(path: str, name: str) -> str:
    """Return the folder or hub name to load a tokenizer from: for an adapter without one, that of its base model.

    Args:
        path: Folder or hub name of a model or tokenizer.
    """
    place, _ = locate(path, name)
    folder = Path(place)
    if is_adapter(folder) and not has_tokenizer(folder):
        return find_tokenizer_place(find_base(folder), name)
    return path
