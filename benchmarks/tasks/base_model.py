"""The base model of a benchmark's task: trained on the prior rows once a seed, kept, and found again."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed


def train_base_model(
    place: Path,
    make_model: Callable[[], PreTrainedModel],
    prior: Any,
    settings: Mapping[str, Any],
    collate_fn: Any = None,
) -> None:
    """Train a base model and save it, unless it is there; other processes wait.

    Args:
        place: The folder that the model is saved in.
        make_model: Makes the model that is trained; called after the seed is set.
        prior: The rows that it is trained on.
        settings: Of `TrainingArguments`, `seed` among them.
        collate_fn: The data collator; None for the trainer's own.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if place.is_dir():
            return
        set_seed(settings["seed"])
        model = make_model()
        with tempfile.TemporaryDirectory(dir=place.parent) as unfinished:
            args = TrainingArguments(output_dir=f"{unfinished}/trainer", **settings)
            trainer = Trainer(model=model, args=args, train_dataset=prior, data_collator=collate_fn)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            model.save_pretrained(f"{unfinished}/model")
            Path(unfinished, "model").rename(place)
