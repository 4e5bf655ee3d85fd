"""Loading a model and its tokenizer: from a folder or the Hugging Face hub, refused unless they are the task's."""

import textwrap
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from transformers import AutoTokenizer, PreTrainedModel

from mixcd.config import Config, ModelConfig
from mixcd.data_source import reach_hub
from mixcd.errors import SettingError, shorten
from mixcd.task_kind import TASK_KINDS
from mixcd.toml_file import end_sentence
from mixcd.training_arguments import hold_back_warnings

_OF_ANOTHER_KIND = "Unrecognized configuration class"
"""How transformers begins to say that a class of models does not know a kind of model."""
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json")


def load_model(config: Config, path: str | Path, name: str = "model.path") -> PreTrainedModel:
    """Load a model of the config's task.

    Weights that are to be trained are held in single precision, as TRL does: small steps are lost in 16 bits. Under an
    adapter they are held as they are stored.

    Args:
        config: How, and of which task.
        path: Folder or hub name.
        name: What messages call it.

    Returns:
        The model.

    Raises:
        SettingError: If there is none, or it has no trained head for the task.
    """
    kind = TASK_KINDS[config.task]
    dtype: torch.dtype | Literal["auto"] = torch.float32 if config.adapter is None else "auto"
    model = load_weights(kind.model_class, path, name, config.model.trust_remote_code, task=config.task, dtype=dtype)
    kind.require_model(model, path)
    return model


@hold_back_warnings()
def load_weights(
    model_class: Any,
    path: str | Path,
    name: str,
    trust_remote_code: bool = False,
    *,
    task: str | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
) -> PreTrainedModel:
    """Load a model with all its weights.

    Args:
        model_class: A class of transformers with `from_pretrained`.
        path: Folder or hub name.
        name: What messages call it.
        trust_remote_code: Whether to run Python code that comes with the model.
        task: The config's task, for messages; None without a config.
        dtype: How the weights are held; as they are stored by default.

    Returns:
        The model.

    Raises:
        SettingError: If there is none, or some of its weights are not there or of another shape.
    """
    place, choices = locate(str(path), name)
    try:
        model, report = model_class.from_pretrained(
            place,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=dtype,
            adapter_kwargs=choices,  # else the hub is asked for an adapter, again and again, though it is not reached
            **choices,
        )
    except Exception as error:  # damaged files make the loaders raise almost anything
        if task is not None and _OF_ANOTHER_KIND in str(error):
            raise SettingError(
                f"The model `{path}` is none that `{model_class.__name__}` loads, but `task` is `{task}`. Name a model "
                "of this task, or set the `task` that it knows."
            ) from error
        raise SettingError(
            f"`{name}` is `{path}`, but no model can be loaded from there: {explain(error, choices)} Name a folder "
            "written by `save_pretrained`, or a model on the hub that can be reached."
        ) from error
    _require_whole(report, path, task)
    return model  # type: ignore[no-any-return]


def _require_whole(report: dict[str, Any], path: str | Path, task: str | None) -> None:
    """Refuse weights of other shapes, and a head that was never trained."""
    if report["mismatched_keys"]:
        key, stored, wanted = min(report["mismatched_keys"])
        raise SettingError(
            f"The model `{path}` has weights that do not fit its `config.json`: `{key}` is of shape {tuple(stored)} "
            f"instead of {tuple(wanted)}. Restore the folder as `save_pretrained` wrote it."
        )
    if report["missing_keys"]:
        other = "" if task is None else f"; or set another `task` than `{task}`"
        raise SettingError(
            f"The model `{path}` has no trained weights for {shorten(sorted(report['missing_keys']), 3)}, so it does "
            f"not know the prior task yet. Fine-tune it on the prior task first, and name that model{other}."
        )


def load_tokenizer(config: ModelConfig, *, can_pad_by_end: bool = False) -> Any:
    """Load the tokenizer of a model.

    Args:
        config: Which model, and which tokenizer when it has none of its own.
        can_pad_by_end: Whether the token of a text's end will do to pad with.

    Returns:
        The tokenizer; it can pad.

    Raises:
        SettingError: If there is none, or it cannot pad.
    """
    path, name = (config.tokenizer, "model.tokenizer") if config.tokenizer else (config.path, "model.path")
    place, choices = locate(path, name)
    if Path(place).is_dir() and not has_tokenizer(Path(place)):
        raise SettingError(
            f"The folder `{path}` has no tokenizer: none of {shorten(_TOKENIZER_FILES, 9)} is there. Inputs are made "
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


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds files of a tokenizer.

    Args:
        folder: The folder.
    """
    return any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES)


def locate(path: str, name: str) -> tuple[str, dict[str, bool]]:
    """Return the folder, or the hub name and whether to look for a downloaded copy only.

    Args:
        path: Folder or hub name.
        name: What messages call it.

    Raises:
        SettingError: If there is no such folder.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return str(place), {}
    if place.exists():
        raise SettingError(f"`{name}` is `{path}`, which is a file, but a folder is needed there. Name the folder.")
    depth = path.count("/")
    if path[0] in "./~" or path[-1] == "/" or depth > 1 or (depth and place.parent.exists()):
        raise SettingError(f"`{name}` is `{path}`, but there is no such folder. Correct the path.")
    return path, {"local_files_only": datasets.config.HF_HUB_OFFLINE or not reach_hub()}


def explain(error: Exception, choices: dict[str, bool]) -> str:
    """Return why nothing could be loaded.

    Args:
        error: The loader's error.
        choices: What `locate` returned.
    """
    if isinstance(error, OSError) and choices.get("local_files_only"):
        return "no such folder is here, no copy was downloaded, and the Hugging Face hub is not reached."
    return reason_of(error)


def reason_of(error: BaseException) -> str:
    """Return what an error of a library says, short and on one line.

    Args:
        error: The error.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return end_sentence(textwrap.shorten(text, 300).rstrip("."))
