"""TrainingArguments from a config: checked by name and type here, and by transformers itself."""

import dataclasses
import os
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from transformers import TrainingArguments

from mixcd.config import Config, nearest_name
from mixcd.errors import SettingError

_REFUSED = {
    "output_dir": "the trainer writes to the folder `run`, so set that",
    "resume_from_checkpoint": "pass `--resume`",
    "save_only_model": "such checkpoints cannot be resumed, so leave it out",
}
"""Arguments that `mixcd train` decides itself, and what to do instead."""

_DEFAULTS = {"report_to": "none"}


def make_arguments(config: Config) -> TrainingArguments:
    """Build the TrainingArguments of a run; under a launcher this joins the process group.

    Args:
        config: The config.

    Returns:
        The arguments, `output_dir` and, with a `batch_size`, `gradient_accumulation_steps` filled in.

    Raises:
        SettingError: If an argument is unknown, of another type or refused by transformers; or if the
            processes do not divide the batch.
    """
    check_arguments(config.training)
    settings = {**_DEFAULTS, **config.training, "output_dir": str(config.run_folder / "checkpoints")}
    if "WORLD_SIZE" not in os.environ:
        settings.pop("ddp_backend", None)  # transformers cannot build it for a process without a group
    if config.batch_size is not None:
        settings["gradient_accumulation_steps"] = _choose_accumulation(config.batch_size, config.training)
    try:
        return TrainingArguments(**settings)
    except (ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(
            f"transformers refuses the config's `training`: {reason}. Correct it, or pass `--set`."
        ) from error


def check_arguments(training: Mapping[str, Any]) -> None:
    """Refuse unknown and ill-typed TrainingArguments, and those that `mixcd train` sets itself.

    Args:
        training: The arguments.

    Raises:
        SettingError: For all faults at once.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(TrainingArguments) if field.init}
    faults = []
    for name, value in training.items():
        if name in _REFUSED:
            faults.append(f"`training.{name}` is not yours to set: {_REFUSED[name]}")
        elif name not in kinds:
            faults.append(f"`training.{name}` is no TrainingArguments of transformers{nearest_name(name, kinds)}")
        elif not _fits(value, kinds[name]):
            faults.append(f"`training.{name}` is {value!r}, but transformers wants {_name_of(kinds[name])}")
    if faults:
        raise SettingError(f"{'; '.join(faults)}. Correct the config, or pass `--set`.")


def _choose_accumulation(batch_size: int, training: Mapping[str, Any]) -> int:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    rows = int(training.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size))
    if processes * rows < 1 or batch_size % (processes * rows):
        raise SettingError(
            f"`batch_size` is {batch_size}, but {processes} processes of {rows} rows "
            f"(`training.per_device_train_batch_size`) make {processes * rows}, which does not divide it. Choose rows "
            "and processes whose product divides the batch."
        )
    return batch_size // (processes * rows)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a TOML value can be of a type; types that TOML has no word for are left to transformers."""
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, inner) for inner in get_args(kind))
    if kind in (float, int):
        wanted = (int, float) if kind is float else int
        return isinstance(value, wanted) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    return kind is not type(None)


def _name_of(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_name_of(inner) for inner in get_args(kind) if inner is not type(None))
    names: dict[Any, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
