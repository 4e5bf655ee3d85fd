"""A LoRA adapter of PEFT on the base model: put on before training, merged into its weights after."""

import importlib
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from mixcd.config import AdapterConfig
from mixcd.errors import SettingError
from mixcd.task_kind import TaskKind


def add_adapter(config: AdapterConfig, kind: TaskKind, model: PreTrainedModel, arguments: TrainingArguments) -> Any:
    """Put a fresh adapter on a model, the same for the same seed.

    Args:
        config: Which adapter.
        kind: The model's task: its head is trained whole.
        model: The base model.
        arguments: The trainer's, for their seed.

    Returns:
        PEFT's wrapper of the model.

    Raises:
        SettingError: If PEFT is missing, or finds no modules to adapt.
    """
    peft = _import_peft()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        try:
            adapted = peft.get_peft_model(model, _make_settings(peft, config, kind))
        except (ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise SettingError(
                f"PEFT refuses the config's `adapter`: {reason}. Set `adapter.target_modules` to modules of the model, "
                'or to "all-linear".'
            ) from error
    if arguments.gradient_checkpointing:
        adapted.enable_input_require_grads()
    return adapted


def merge_adapter(trainer: Trainer) -> None:
    """Merge the adapter of a trainer's model, if it has one: the trainer is left with the base model's kind of model.

    Args:
        trainer: The trainer.
    """
    model: Any = trainer.model
    if hasattr(model, "merge_and_unload"):
        trainer.model = model.merge_and_unload()


def drop_adapter(model: Any) -> Any:
    """Return the base model alone.

    Args:
        model: Any model, with or without an adapter; it is used up.
    """
    return model.unload() if hasattr(model, "unload") else model


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter instead of a whole model.

    Args:
        folder: Such as a checkpoint.
    """
    return (folder / "adapter_config.json").exists()


def merge_saved(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return a base model with a saved adapter merged into it.

    Args:
        base: The model; it is used up.
        folder: The adapter's.

    Returns:
        The model.

    Raises:
        SettingError: If PEFT is missing.
    """
    merged: PreTrainedModel = _import_peft().PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    return merged


def _make_settings(peft: Any, config: AdapterConfig, kind: TaskKind) -> Any:
    return peft.LoraConfig(
        task_type=kind.adapter_type,
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
    )


def _import_peft() -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise SettingError(
            "The config has an `adapter`, which is made by PEFT, but the package `peft` cannot be imported: "
            f"{' '.join(str(error).split()).rstrip('.')}. Run `pip install peft`."
        ) from error
