"""The slow lane: a small transformer fine-tuned in full, which confirms what the fast lane found; a run takes minutes.

The model is MiniLM's first three layers with a classification head; the embeddings are frozen, all else is trained.
The base model is trained on the prior rows, and each run trains it for 300 steps more.

VitaminC is no task here: in 1,350 steps of 32 pairs a model of this size learnt nothing of it (held-out accuracy .49,
the share of its largest class), so there is nothing to be lost.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import task_data
from base_model import train_base_model
from datasets import Dataset
from task_data import RawTask
from text_pool import TextPool
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
)

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.edge.demo.demo_data import find_minilm
from mixcd.words.vocabulary import Ids

LAYERS = 3
TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "max_steps": 300,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 32,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
)


@dataclass(frozen=True)
class Effort:
    """How much is spent on a task.

    Args:
        max_tokens: Tokens of a row, at most.
        base_steps: Steps that make the base model.
    """

    max_tokens: int
    base_steps: int


TWEETS = Effort(max_tokens=28, base_steps=600)
NEWSGROUPS = Effort(max_tokens=32, base_steps=1000)


def tweets(seed: int, folder: Path) -> SweepTask:
    """Sentiment: tweets about airlines and deflategate, then about other topics."""
    return make_task(task_data.tweets(), TWEETS, seed, folder)


def newsgroups_r8(seed: int, folder: Path) -> SweepTask:
    """Topics: 20 Newsgroups, then the eight classes of Reuters R8."""
    return make_task(task_data.newsgroups_r8(), NEWSGROUPS, seed, folder)


@dataclass(frozen=True)
class Body:
    """The model that is trained.

    Args:
        name: Names its files.
        load_tokenizer: Loads its tokenizer, which pads.
        make: Makes it, with a fresh head of so many classes, as the base model's training begins.
        load: Loads it from the folder it was saved in.
    """

    name: str
    load_tokenizer: Callable[[], Any]
    make: Callable[[int], PreTrainedModel]
    load: Callable[[Path], PreTrainedModel]


def make_task(raw: RawTask, effort: Effort, seed: int, folder: Path, body: Body | None = None) -> SweepTask:
    """Make the task of one seed: the splits, tokenised, and the base model.

    Args:
        raw: Texts and labels.
        effort: How much to spend.
        seed: The seed of the splits and of the base model.
        folder: Where the base model is kept, and found again.
        body: The model; None for MiniLM.

    Returns:
        The task.
    """
    body = body or MINILM
    tokenizer = body.load_tokenizer()
    prior, held_out_prior, new, held_out_new = (
        tokenize(tokenizer, pool, row_numbers, effort.max_tokens)
        for pool in (raw.prior, raw.new)
        for row_numbers in pool.split(seed)
    )
    collate_fn = DataCollatorWithPadding(tokenizer)
    place = folder / f"base-{body.name}-{raw.name}-{seed}"
    settings = {**TRAINING, "max_steps": effort.base_steps, "seed": seed}
    train_base_model(place, lambda: body.make(raw.class_count), prior, settings, collate_fn)
    return SweepTask(
        model=body.load(place),
        new=new,
        prior=prior,
        held_out_new=held_out_new,
        held_out_prior=held_out_prior,
        training=dict(TRAINING),
        collate_fn=collate_fn,
        processing_class=tokenizer,
    )


def tokenize(tokenizer: Any, pool: TextPool, row_numbers: Ids, max_tokens: int) -> Dataset:
    """Prepare some rows of a pool.

    Args:
        tokenizer: The tokenizer.
        pool: Texts and labels.
        row_numbers: Which rows, in which order.
        max_tokens: Tokens of a row, at most.

    Returns:
        The model's inputs, and `label`.
    """
    columns = zip(*(pool.texts[number] for number in row_numbers), strict=True)
    inputs = tokenizer(*map(list, columns), truncation=True, max_length=max_tokens)
    return Dataset.from_dict({**inputs, "label": pool.labels[row_numbers].tolist()})


def _load_minilm(folder: Path, **choices: Any) -> PreTrainedModel:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_hidden_layers=LAYERS, **choices)
    model.base_model.embeddings.requires_grad_(False)
    return model


MINILM = Body(
    name="slow",
    load_tokenizer=lambda: AutoTokenizer.from_pretrained(find_minilm()),
    make=lambda class_count: _load_minilm(find_minilm(), num_labels=class_count),
    load=_load_minilm,
)
