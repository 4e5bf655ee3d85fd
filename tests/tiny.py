"""A tiny task, a tiny classifier and a tiny trainer, for tests that drive the real ones."""

import tempfile

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from device import USE_CPU

CLASSES = 3
WORDS = 60


def make_rows(count, seed, task):
    """Rows whose label is said by their first token; the new task says another label by tokens 20 to 56.

    So fine-tuning damages the prior samples that start with tokens 20 to 29, and few others.
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(3, 30, count) if task == "prior" else rng.integers(20, 57, count)
    rest = [rng.integers(3, WORDS, rng.integers(1, 6)).tolist() for _ in range(count)]
    noise = rng.integers(0, CLASSES, count)
    label = np.where(rng.random(count) < 0.15, noise, first % CLASSES)
    if task == "new":
        label = (label + 1) % CLASSES
    ids = [[int(a), *b] for a, b in zip(first, rest, strict=True)]
    return Dataset.from_dict(
        {
            "input_ids": ids,
            "attention_mask": [[1] * len(row) for row in ids],
            "label": label.tolist(),
            "topic": [f"topic {number // 7}" for number in first],
            "text": [f"sample {number}" for number in range(count)],
        }
    )


def make_model(dropout=0.1, seed=0):
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=CLASSES,
        )
    )


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)

    def pad(name):
        return torch.tensor([list(row[name]) + [0] * (longest - len(row[name])) for row in rows])

    return {
        "input_ids": pad("input_ids"),
        "attention_mask": pad("attention_mask"),
        "labels": torch.tensor([int(row["label"]) for row in rows]),
    }


def make_trainer(model, train_dataset, output_dir, trainer_class=Trainer, **settings):
    args = TrainingArguments(
        **{
            "output_dir": str(output_dir),
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 16,
            "max_steps": 10,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant",
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": USE_CPU,
            "dataloader_pin_memory": False,
            "label_names": ["labels"],
            **{name: value for name, value in settings.items() if name not in TRAINER_KEYS},
        }
    )
    for_trainer = {name: value for name, value in settings.items() if name in TRAINER_KEYS}
    trainer = trainer_class(
        **{"model": model, "args": args, "train_dataset": train_dataset, "data_collator": collate, **for_trainer}
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


TRAINER_KEYS = (
    "data_collator",
    "eval_dataset",
    "model_init",
    "model",
    "callbacks",
    "processing_class",
    "compute_metrics",
)


def train_base_model():
    prior = make_rows(600, seed=1, task="prior")
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(make_model(), prior, folder, max_steps=200, remove_unused_columns=True)
        trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def record_blocks(rehearsal, steps=10**6):
    """Return a dict that fills with the block of every step before `steps` as it is planned."""
    blocks, loop = {}, rehearsal._loop
    plan_block = loop.block

    def block(step):
        planned = plan_block(step)
        if step < steps:
            blocks[step] = planned.tolist()
        return planned

    loop.block = block
    return blocks


class StopAt(TrainerCallback):
    """Asks for a stop while a step is in progress, as a signal handler would."""

    def __init__(self, rehearsal, step):
        self._rehearsal = rehearsal
        self._step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self._step:
            self._rehearsal.stop()


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
