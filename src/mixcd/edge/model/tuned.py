"""The fine-tuned model: opened from a run, judged by the trainer that knows the base model, merged, saved."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from mixcd.edge.config.config import Config
from mixcd.edge.model.adapter import drop_adapter
from mixcd.edge.model.loading import load_model
from mixcd.edge.model.model_place import reason_of
from mixcd.edge.model.saved_adapter import is_adapter, put_adapter
from mixcd.edge.quiet import hold_back_warnings
from mixcd.run.trainer.sft_trainer import is_sft_trainer
from mixcd.words.errors import RunFolderError, SettingError
from mixcd.words.files import UNFINISHED, naming_file


def load_tuned(config: Config, folder: str | Path, name: str = "model.path") -> PreTrainedModel | Path:
    """Open what a run trained: a model, or the folder of an adapter for the run's base model.

    Args:
        folder: The model, or a checkpoint.

    Returns:
        The model; of an adapter its folder, for it goes on the base model that a trainer has.
    """
    return Path(folder) if is_adapter(Path(folder)) else load_model(config, folder, name)


def take_model(trainer: Trainer, model: PreTrainedModel | Path, name: str) -> None:
    """Let a trainer predict with another model of the same kind, from then on and without the adapter that it had.

    TRL fits the model that its trainer is built with with a head of its own, so there the weights are taken over.

    Args:
        model: The other model, or the folder of an adapter for the base model.

    Raises:
        SettingError: If the weights do not fit.
    """
    if isinstance(model, Path):
        trainer.model = put_adapter(drop_adapter(trainer.model), model, name)
    elif is_sft_trainer(trainer):
        trainer.model = _take_weights(trainer, model, name)
    else:
        moved: Any = model
        trainer.model = moved.to(trainer.args.device)


def take_adapter(trainer: Trainer, config: Config, folder: Path) -> None:
    """Let a trainer predict with an adapter as it was saved, on the base model as it is stored.

    Args:
        trainer: The trainer; merging may have changed its model.

    Raises:
        SettingError: If the adapter does not go on the base model.
    """
    trainer.model = _take_weights(trainer, load_model(config, config.model.path), "model.path")
    take_model(trainer, folder, "model.path")


def _take_weights(trainer: Trainer, model: PreTrainedModel, name: str) -> Any:
    own = drop_adapter(trainer.model)
    try:
        own.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise SettingError(
            f"`{name}` is of another shape than the base model: {reason_of(error)} Name a model that was fine-tuned "
            "from the run's base model."
        ) from error
    return own


def save_tuned(trainer: Trainer, folder: Path) -> None:
    """Save model and tokenizer, and read them back; the folder appears whole or not at all.

    Raises:
        RunFolderError: If what was written is not the model.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    model: Any = trainer.model
    processor: Any = trainer.processing_class
    with naming_file(folder):
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        if not is_adapter(unfinished):
            _require_written(model, unfinished, folder)
        os.replace(unfinished, folder)


@hold_back_warnings()
def _require_written(model: PreTrainedModel, unfinished: Path, folder: Path) -> None:
    """Refuse a folder that opens as another model than the one it was written from."""
    model_class: Any = type(model)
    stored = model_class.from_pretrained(unfinished, dtype="auto").state_dict()
    for name, weight in model.state_dict().items():
        if name not in stored or not torch.equal(stored[name].nan_to_num(), weight.to(stored[name]).nan_to_num()):
            raise RunFolderError(
                f"`{folder}` would not hold the model that was trained: its weights `{name}` read back differently "
                f"from what was written. What was written is in `{unfinished}`, and what was trained in the last "
                "checkpoint. Report this, with the model's name."
            )
