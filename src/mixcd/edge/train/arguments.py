"""TrainingArguments from a config: checked by name and type here, and by transformers itself."""

import dataclasses
import math
import os
from collections.abc import Mapping
from enum import EnumType
from types import MappingProxyType
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from transformers import TrainingArguments

from mixcd.edge.config.config import Config
from mixcd.edge.quiet import hold_back_warnings
from mixcd.edge.task_kind import TASK_KINDS
from mixcd.words.errors import SettingError, end_sentence, nearest_name

_REFUSED = {
    "output_dir": "the trainer writes to the folder `run`, so set that",
    "remove_unused_columns": "columns that the model does not take stay in the data, so leave it out",
    "resume_from_checkpoint": "pass `--resume`",
    "save_only_model": "such checkpoints cannot be resumed, so leave it out",
}
"""Arguments that `mixcd train` decides itself, and what to do instead."""

_RANGES = {
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, math.inf),
    "data_seed": (0, math.inf),
    "dataloader_num_workers": (0, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "learning_rate": (0, math.inf),
    "per_device_eval_batch_size": (1, math.inf),
    "per_device_train_batch_size": (1, math.inf),
    "seed": (0, math.inf),
    "weight_decay": (0, math.inf),
}
"""What a number must at least be, and what it must be below, when transformers would find out only in training."""
_MEASURED = ("loss", "runtime", "samples_per_second", "steps_per_second")
"""What the trainer's own evaluation measures."""
_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "a text",
}
"""What pydantic's faults say is wanted; others are left to transformers."""


@hold_back_warnings()
def make_arguments(config: Config) -> TrainingArguments:
    """Build the TrainingArguments of a run; under a launcher this joins the process group.

    Returns:
        The arguments, `output_dir` and, with a `batch_size`, `gradient_accumulation_steps` filled in.

    Raises:
        SettingError: If an argument is unknown, of another type, out of range or refused by transformers; or
            if the processes do not divide the batch.
    """
    try:
        return TASK_KINDS[config.task].arguments_class()(**resolve_arguments(config))
    except SettingError:
        raise
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        reason = end_sentence(" ".join(str(error).split()))
        raise SettingError(
            f"transformers refuses the config's `training`: {reason} Correct it, or pass `--set`."
        ) from error


def resolve_arguments(config: Config) -> dict[str, Any]:
    """Check what can be checked without building anything, which takes transformers seconds.

    Raises:
        SettingError: If an argument is unknown, of another type or out of range; or if the processes do not
            divide the batch.
    """
    kind = TASK_KINDS[config.task]
    check_arguments(config.training, kind.arguments_class(), kind.own_arguments)
    _require_ranges(config.training)
    settings = {"report_to": "none", **kind.default_arguments(config), **config.training}
    settings["output_dir"] = str(config.run_folder / "checkpoints")
    if "WORLD_SIZE" not in os.environ:
        settings.pop("ddp_backend", None)  # transformers cannot build it for a process without a group
    if config.batch_size is not None:
        settings["gradient_accumulation_steps"] = _choose_accumulation(config.batch_size, config.training)
    return settings


def check_arguments(
    training: Mapping[str, Any],
    known: type[TrainingArguments] = TrainingArguments,
    own: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse unknown and ill-typed TrainingArguments, unlisted choices, and what `mixcd train` sets itself.

    Args:
        own: More arguments that are not to be set, and what to do instead.

    Raises:
        SettingError: For all faults at once.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(known) if field.init}
    refused, owner = {**_REFUSED, **own}, f"{known.__name__} of {known.__module__.partition('.')[0]}"
    faults = []
    for name, value in training.items():
        if name in refused:
            faults.append(f"`training.{name}` cannot be set: {refused[name]}")
        elif name not in kinds:
            faults.append(f"`training.{name}` is not in {owner}{nearest_name(name, kinds)}")
        elif wanted := _find_wanted(value, kinds[name]):
            faults.append(f"`training.{name}` is {value!r}, but transformers wants {wanted}")
    if faults:
        raise SettingError(f"{end_sentence('; '.join(faults))} Correct the config, or pass `--set`.")


def _require_ranges(training: Mapping[str, Any]) -> None:
    faults = [
        f"`training.{name}` is {training[name]}, but it must be at least {least}"
        + (f" and below {below}" if below < math.inf else " and finite")
        for name, (least, below) in _RANGES.items()
        if training.get(name) is not None and not least <= training[name] < below
    ]
    if training.get("max_steps") == 0:
        faults.append("`training.max_steps` is 0, but there must be at least 1, or -1 for those of the epochs")
    if not training.get("num_train_epochs", 1) > 0 and not training.get("max_steps", 0) > 0:
        faults.append(f"`training.num_train_epochs` is {training['num_train_epochs']}, but it must be above 0")
    metric = training.get("metric_for_best_model")
    if metric is not None and metric.removeprefix("eval_") not in _MEASURED:
        faults.append(f"`training.metric_for_best_model` is {metric!r}, but only {', '.join(_MEASURED)} are measured")
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


def _find_wanted(value: Any, kind: Any) -> str:
    """What a type wants instead of a TOML value; empty where it fits, or where TOML has no word for the type."""
    enums: list[Any] = [inner for inner in get_args(kind) if isinstance(inner, EnumType)]
    if choices := [str(one.value) for enum in enums for one in enum]:
        return "" if value in choices else f"one of {', '.join(choices)}"
    try:
        TypeAdapter(kind, config=_STRICT).validate_python(value)
    except ValidationError as error:
        wanted = [_WANTED.get(fault["type"], "") if fault["input"] is value else "" for fault in error.errors()]
        return " or ".join(wanted) if all(wanted) else ""
    return ""
