"""The fine-tuned model: loaded from a run, judged by the trainer that knows the base model, saved."""

import os
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer

from mixcd.adapter import drop_adapter, is_adapter, merge_saved
from mixcd.config import Config
from mixcd.errors import SettingError
from mixcd.model_loading import load_model, reason_of
from mixcd.replace_file import UNFINISHED, naming_file
from mixcd.sft_trainer import is_sft_trainer


def load_tuned(config: Config, folder: str | Path, name: str = "model.path") -> PreTrainedModel:
    """Load what a run trained: a model, or the base model with a checkpoint's adapter merged.

    Args:
        config: The run's.
        folder: The model, or a checkpoint.
        name: What messages call it.

    Returns:
        The model.

    Raises:
        SettingError: Whatever `load_model` raises.
    """
    if is_adapter(Path(folder)):
        return merge_saved(load_model(config, config.model.path), Path(folder))
    return load_model(config, folder, name)


def take_model(trainer: Trainer, model: PreTrainedModel, name: str) -> None:
    """Let a trainer predict with another model of the same kind, from then on and without an adapter.

    TRL fits the model that its trainer is built with with a head of its own, so there the weights are taken over.

    Args:
        trainer: The trainer, with the base model.
        model: The other model.
        name: What messages call it.

    Raises:
        SettingError: If the weights do not fit.
    """
    if not is_sft_trainer(trainer):
        moved: Any = model
        trainer.model = moved.to(trainer.args.device)
        return
    own = drop_adapter(trainer.model)
    try:
        own.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise SettingError(
            f"`{name}` is of another shape than the base model: {reason_of(error)} Name a model that was fine-tuned "
            "from the run's base model."
        ) from error
    trainer.model = own


def save_tuned(trainer: Trainer, folder: Path) -> None:
    """Save model and tokenizer; the folder appears whole or not at all.

    Args:
        trainer: The trainer, with the fine-tuned model.
        folder: The folder.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    model: Any = trainer.model
    processor: Any = trainer.processing_class
    with naming_file(folder):
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        os.replace(unfinished, folder)
