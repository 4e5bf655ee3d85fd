"""A LoRA adapter of PEFT on the base model: put on before training, merged into its weights after."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from mixcd.edge.config.config import AdapterConfig
from mixcd.edge.model.model_place import reason_of
from mixcd.edge.model.saved_adapter import find_shared, import_peft
from mixcd.edge.task_kind.task_kind import TaskKind
from mixcd.words.errors import SettingError, shorten
from mixcd.words.vocabulary import Floats

_EXACT, _ROUNDED = 0.01, 0.1
"""How far losses may be apart, in nats and as a share, in single precision (or TF32) and in 16 bits."""


def add_adapter(config: AdapterConfig, kind: TaskKind, model: PreTrainedModel, arguments: TrainingArguments) -> Any:
    """Put a fresh adapter on a model, the same for the same seed.

    Args:
        kind: The model's task: its head is trained whole.
        arguments: The trainer's, for their seed.

    Raises:
        SettingError: If PEFT is missing, or finds no modules to adapt.
    """
    peft = import_peft("The config has an `adapter`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.seed)
        try:
            settings = peft.LoraConfig(
                task_type=kind.adapter_type,
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=config.target_modules,
            )
            adapted = peft.get_peft_model(model, settings)
        except (ValueError, TypeError, KeyError) as error:
            raise SettingError(
                f"PEFT refuses the config's `adapter`: {reason_of(error)} Set `adapter.target_modules` to modules of "
                'the model, or to "all-linear".'
            ) from error
    if arguments.gradient_checkpointing:
        adapted.enable_input_require_grads()
    return adapted


def merge_adapter(trainer: Trainer, read_losses: Callable[[], Floats]) -> str | None:
    """Merge the adapter of a trainer's model, if it has one and merging leaves the model what it is.

    Merged, the trainer is left with the base model's kind of model.

    Args:
        read_losses: Returns the losses of the trainer's model on a few samples, shape (samples,).

    Returns:
        Why the adapter was not merged; None if it was, or there is none.
    """
    model: Any = trainer.model
    if not hasattr(model, "merge_and_unload"):
        return None
    if shared := find_shared(model):
        return f"the weights of {shorten(shared, 3)} are used in another place of the model too"
    trained = read_losses()
    model.merge_adapter()
    merged = read_losses()
    is_rounded = trainer.accelerator.mixed_precision != "no" or model.dtype.itemsize < torch.float32.itemsize
    if is_same(trained, merged, is_rounded=is_rounded):
        trainer.model = model.merge_and_unload()
        return None
    model.unmerge_adapter()
    return f"the mean loss of {len(trained)} samples would be {merged.mean():.3f} instead of {trained.mean():.3f}"


def is_same(losses: Floats, others: Floats, *, is_rounded: bool) -> bool:
    """Whether two models are one but for rounding, by their losses on the same samples.

    Args:
        losses: The one model's, shape (samples,).
        is_rounded: Whether they compute in 16 bits.

    Example:
        >>> is_same(np.array([1.0]), np.array([1.05]), is_rounded=True)
        True
    """
    tolerance = _ROUNDED if is_rounded else _EXACT
    return bool(np.allclose(others, losses, rtol=tolerance, atol=tolerance, equal_nan=True))


def drop_adapter(model: Any) -> Any:
    """Return the base model alone.

    Args:
        model: Any model, with or without an adapter; it is used up.
    """
    return model.unload() if hasattr(model, "unload") else model
