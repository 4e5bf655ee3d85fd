"""The fast lane: a small head on frozen features, so that a run takes seconds and many seeds are affordable.

    mixcd sweep ... benchmarks/tasks/fast_lane.py:tweets

A text's features are MiniLM's last states averaged over its tokens; they never change, and are computed once for all
seeds; those of the questions tell how the features of question and sentence differ. The head (384, or twice as many,
→ 256 → classes, GELU) is the model: the base model is trained for four epochs on half of the
prior rows, and each run trains it for 300 steps more.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import task_data
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from task_data import RawTask
from text_features import features_of
from torch.nn import functional
from torch.utils.data import Dataset
from transformers.modeling_outputs import SequenceClassifierOutput

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.words.files import replace_file
from mixcd.words.vocabulary import Ids

HIDDEN_SIZE = 256
BASE_EPOCHS = 4
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "max_steps": 300,
        "per_device_train_batch_size": BATCH_SIZE,
        "per_device_eval_batch_size": 1024,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
)


class FeatureHead(torch.nn.Module):
    """A classifier of feature vectors with one hidden layer; its last linear layer is the classification head.

    Args:
        feature_count: Width of the features.
        class_count: The number of classes.
    """

    def __init__(self, feature_count: int, class_count: int) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(feature_count, HIDDEN_SIZE)
        self.classifier = torch.nn.Linear(HIDDEN_SIZE, class_count)

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> SequenceClassifierOutput:
        """Classify a batch.

        Args:
            features: Shape (rows, features).
            labels: Class numbers, shape (rows,), when the loss is wanted.

        Returns:
            `logits`, and the mean cross-entropy as `loss`.
        """
        logits = self.classifier(functional.gelu(self.hidden(features)))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class FeatureRows(Dataset[Any]):
    """Some rows of a pool, in the order given: `features` and `label`.

    Args:
        features: Of all rows of the pool, shape (rows, features).
        labels: Of all rows of the pool, shape (rows,).
        row_numbers: Which rows of the pool.
    """

    def __init__(self, features: torch.Tensor, labels: NDArray[np.int64], row_numbers: Ids) -> None:
        self.features = features.numpy()[row_numbers]
        self.labels = labels[row_numbers]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"features": self.features[number], "label": int(self.labels[number])}

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return several rows at once."""
        labels = self.labels[numbers].tolist()
        return [
            {"features": self.features[number], "label": label} for number, label in zip(numbers, labels, strict=True)
        ]


def tweets(seed: int, folder: Path) -> SweepTask:
    """Sentiment: tweets about airlines and deflategate, then about other topics."""
    return make_task(task_data.tweets(), seed, folder)


def tweets_reversed(seed: int, folder: Path) -> SweepTask:
    """Sentiment: tweets about other topics, then about airlines and deflategate."""
    return make_task(task_data.tweets_reversed(), seed, folder)


def newsgroups_r8(seed: int, folder: Path) -> SweepTask:
    """Topics: 20 Newsgroups, then the eight classes of Reuters R8."""
    return make_task(task_data.newsgroups_r8(), seed, folder)


def newsgroups_r52(seed: int, folder: Path) -> SweepTask:
    """Topics: 20 Newsgroups, then the 52 classes of Reuters R52, modulo 20."""
    return make_task(task_data.newsgroups_r52(), seed, folder)


def questions_amazon(seed: int, folder: Path) -> SweepTask:
    """Whether a sentence answers a question: Wikipedia, then Amazon reviews."""
    return make_task(task_data.questions_amazon(), seed, folder)


def questions_wikipedia(seed: int, folder: Path) -> SweepTask:
    """Whether a sentence answers a question: Amazon reviews, then Wikipedia."""
    return make_task(task_data.questions_wikipedia(), seed, folder)


def vitaminc_covid(seed: int, folder: Path) -> SweepTask:
    """Fact verification: VitaminC's other pages, then its pages about COVID; nothing to lose, a control."""
    return make_task(task_data.vitaminc_covid(), seed, folder)


def vitaminc_multirc(seed: int, folder: Path) -> SweepTask:
    """Fact verification on VitaminC's other pages, then MultiRC: does the sentence answer the question?"""
    return make_task(task_data.vitaminc_multirc(), seed, folder)


def make_task(raw: RawTask, seed: int, folder: Path) -> SweepTask:
    """Make the task of one seed: the splits, their features, and the base model.

    Args:
        raw: Texts and labels.
        seed: The seed of the splits and of the base model.
        folder: Where the base model is kept, and found again.

    Returns:
        The task.
    """
    prior, held_out_prior, new, held_out_new = (
        FeatureRows(features, pool.labels, row_numbers)
        for pool in (raw.prior, raw.new)
        for features in [features_of(pool)]
        for row_numbers in pool.split(seed)
    )
    file = folder / f"base-fast-{raw.name}-{seed}.safetensors"
    return SweepTask(
        model=_find_base_model(file, prior, raw.class_count, seed),
        new=new,
        prior=prior,
        held_out_new=held_out_new,
        held_out_prior=held_out_prior,
        training=dict(TRAINING),
    )


def _find_base_model(file: Path, prior: FeatureRows, class_count: int, seed: int) -> FeatureHead:
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.is_file():
            weights = train_base_model(prior, class_count, seed).state_dict()
            with replace_file(file) as unfinished:
                save_file(weights, unfinished)
    with torch.device("meta"):  # draws no random weights
        model = FeatureHead(prior.features.shape[1], class_count)
    model.load_state_dict(load_file(file), assign=True)
    return model


def train_base_model(prior: FeatureRows, class_count: int, seed: int) -> FeatureHead:
    """Train a head on half of the prior rows.

    Args:
        prior: The prior training rows, in random order: the first half is trained on.
        class_count: The number of classes.
        seed: The seed of the weights and of the batches.

    Returns:
        The base model.
    """
    half = (len(prior) + 1) // 2
    features, labels = torch.from_numpy(prior.features[:half]), torch.from_numpy(prior.labels[:half])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FeatureHead(features.shape[1], class_count)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        for _ in range(BASE_EPOCHS):
            for batch in torch.randperm(half).split(BATCH_SIZE):
                optimizer.zero_grad()
                model(features[batch], labels[batch]).loss.backward()
                optimizer.step()
    return model
