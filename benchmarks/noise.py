"""What noise alone does to damage: how many samples that the base model has right look damaged at learning rate 0.

    python benchmarks/noise.py

Small base models, trained with dropout 0.1: a vision transformer on the digits of scikit-learn, moved at random; an
encoder that tells the longest topics of Python's manual by 24 words; and a decoder that goes on with its text, letter
by letter. Each then rehearses at learning rate 0 what it has right, so every damaged sample is noise: of dropout 0.1,
of NEFTune (α = 5), of images that are moved again, or of nothing. Writes `results/noise.json`.
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.datasets import load_digits
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import mixcd
from mixcd.edge.bench.frontier.seed_interval import estimate_mean
from mixcd.matter.correctness import CorrectnessRule
from mixcd.words.files import replace_file
from mixcd.words.vocabulary import Ids

DROPOUT = 0.1
NEFTUNE_ALPHA = 5.0
STEPS, ROWS_A_STEP = 40, 64
ROW_COUNT, PRIOR_COUNT = 6144, 1024
CHARACTERS, WORDS = 40, 24
TOPIC_COUNT, WORD_COUNT = 12, 1000
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
RESULTS = Path(__file__).parent / "results" / "noise.json"


@dataclass(frozen=True)
class Task:
    """What a base model learns, and when it is right.

    Args:
        make_model: Makes an untrained model that drops this share of its activations.
        base_steps: Steps that it is trained for.
        make_base_rows: Makes rows to learn, by a seed.
        make_rows: Makes rows to rehearse, by a seed.
        rule: Says which samples are right; None for the default.
        noises: What may be random.
    """

    make_model: Callable[[float], PreTrainedModel]
    base_steps: int
    make_base_rows: Callable[[int], Dataset]
    make_rows: Callable[[int], Dataset]
    rule: CorrectnessRule | None
    noises: tuple[str, ...]


def make_vision(dropout: float) -> PreTrainedModel:
    """Make an untrained classifier of images."""
    shares = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return ViTForImageClassification(
        ViTConfig(**SIZES, **shares, image_size=8, patch_size=2, num_channels=1, num_labels=10)
    )


def make_encoder(dropout: float) -> PreTrainedModel:
    """Make an untrained classifier of texts."""
    shares = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForSequenceClassification(BertConfig(**SIZES, **shares, vocab_size=WORD_COUNT, num_labels=TOPIC_COUNT))


def make_decoder(dropout: float) -> PreTrainedModel:
    """Make an untrained language model of characters."""
    shares = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    return GPT2LMHeadModel(
        GPT2Config(
            **shares, n_embd=64, n_layer=2, n_head=4, vocab_size=128, n_positions=64, bos_token_id=0, eos_token_id=0
        )
    )


def make_digits(seed: int) -> Dataset:
    """Digits of 8 × 8 pixels in another order."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = (digits.images[order, None] / 8 - 1).astype(np.float32)
    return Dataset.from_dict({"pixel_values": images, "labels": digits.target[order]}).with_format("numpy")


def make_moved_digits(seed: int) -> Dataset:
    """Digits that are moved at random each time they are read."""
    return make_digits(seed).with_transform(move)


def move(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Move each image by up to a pixel to the left or right; what leaves it comes in at the other side."""
    images = [np.asarray(image, np.float32) for image in rows["pixel_values"]]
    shifts = torch.randint(-1, 2, (len(images),)).tolist()
    return {**rows, "pixel_values": [np.roll(one, shift, -1) for one, shift in zip(images, shifts, strict=True)]}


def make_topics(seed: int) -> Dataset:
    """Places in the longest topics of the manual, word by word, and which topic each is in."""
    rng = np.random.default_rng(seed)
    texts = [re.findall(r"\w+", topics[name]) for name in sorted(topics, key=lambda name: len(topics[name]))]
    common = Counter(word for text in texts for word in text).most_common(WORD_COUNT - 1)
    numbers = {word: number for number, (word, _) in enumerate(common, start=1)}
    longest = [np.array([numbers.get(word, 0) for word in text]) for text in texts[-TOPIC_COUNT:]]
    labels = rng.integers(TOPIC_COUNT, size=ROW_COUNT)
    rows = np.stack([cut(rng, longest[label], WORDS) for label in labels])
    return Dataset.from_dict({"input_ids": rows, "labels": labels}).with_format("numpy")


def make_texts(target_count: int) -> Callable[[int], Dataset]:
    """Return what makes places in the manual whose last letters are to be told from those before."""
    manual = np.frombuffer("\n".join(topics.values()).encode("ascii", "replace"), np.uint8).astype(np.int64)

    def make(seed: int) -> Dataset:
        rng = np.random.default_rng(seed)
        rows = np.stack([cut(rng, manual, CHARACTERS) for _ in range(ROW_COUNT)])
        labels = np.where(np.arange(CHARACTERS) < CHARACTERS - target_count, -100, rows)
        return Dataset.from_dict({"input_ids": rows, "labels": labels}).with_format("numpy")

    return make


def cut(rng: np.random.Generator, text: Ids, count: int) -> Ids:
    """Cut some words or letters out of a text."""
    start = rng.integers(len(text) - count)
    return text[start : start + count]


ALWAYS = ("none", "dropout")


def go_on(target_count: int, rule: CorrectnessRule | None) -> Task:
    """Return the task to go on with a text."""
    noises = (*ALWAYS, "NEFTune")
    return Task(make_decoder, 300, make_texts(CHARACTERS), make_texts(target_count), rule, noises)


TASKS = {
    "digits": Task(make_vision, 600, make_moved_digits, make_digits, None, (*ALWAYS, "moved again")),
    "topics": Task(make_encoder, 300, make_topics, make_topics, None, (*ALWAYS, "NEFTune")),
    "text, one token": go_on(1, None),
    "text, half of 8 tokens": go_on(8, mixcd.RightTokens(0.5, is_shifted=True)),
    "text, every one of 8 tokens": go_on(8, mixcd.RightTokens(1.0, is_shifted=True)),
}


def collate(rows: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack rows of one length."""
    return {name: torch.as_tensor(np.stack([np.asarray(row[name]) for row in rows])) for name in rows[0]}


@contextmanager
def make_trainer(model: PreTrainedModel, rows: Dataset, **settings: Any) -> Iterator[Trainer]:
    """A quiet trainer, whose folder is there inside the block."""
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=ROWS_A_STEP,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
            **settings,
        )
        trainer = Trainer(model, args, train_dataset=rows, data_collator=collate)
        trainer.remove_callback(PrinterCallback)
        yield trainer


def train_base(task: Task, seed: int) -> dict[str, torch.Tensor]:
    """Train a base model, and return its weights."""
    torch.manual_seed(seed)
    model = task.make_model(DROPOUT)
    rows = task.make_base_rows(seed)
    with make_trainer(model, rows, max_steps=task.base_steps, learning_rate=2e-3, seed=seed) as trainer:
        trainer.train()
    return {name: value.clone() for name, value in model.state_dict().items()}


def keep_right(task: Task, model: PreTrainedModel, rows: Dataset) -> tuple[Dataset, float]:
    """Return the rows that a model has right, and their share."""
    with tempfile.TemporaryDirectory() as folder:
        found = mixcd.predict_prior(
            model, rows, folder, collate_fn=collate, correctness=task.rule, batch_size=256, progress=False,
            least_share_right=0.0,
        )  # fmt: skip
        return rows.select(np.flatnonzero(found.correct)[:PRIOR_COUNT]), float(found.correct.mean())


def measure(task: Task, noise: str, weights: Mapping[str, torch.Tensor], rows: Dataset, seed: int) -> dict[str, Any]:
    """Rehearse at learning rate 0; return the damaged share of the rehearsed samples that the base model has right."""
    model = task.make_model(DROPOUT if noise == "dropout" else 0.0)
    model.load_state_dict(weights)
    prior = rows.with_transform(move) if noise == "moved again" else rows
    settings = {"neftune_noise_alpha": NEFTUNE_ALPHA} if noise == "NEFTune" else {}
    with make_trainer(model, rows, max_steps=STEPS, learning_rate=0.0, seed=seed, **settings) as trainer:
        rehearsal = mixcd.attach(trainer, prior, mix_ratio=0.5, estimator="uniform", correctness=task.rule)
        trainer.train()
        counts, right = rehearsal.counts, rehearsal.predictions.correct.mean()
        rate = float(counts.damaged_count.sum() / counts.observed_count.sum() / right)
        return {"rate": rate, "read_again": rehearsal.predictions.false_damage_rate}


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="base models a task (default 5)")
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    started = time.perf_counter()
    trained: dict[tuple[Any, int], dict[str, torch.Tensor]] = {}
    for name, task in TASKS.items():
        found: dict[str, Any] = {noise: [] for noise in task.noises}
        shares = []
        for seed in seeds:
            key = (task.make_model, seed)
            trained[key] = weights = trained.get(key) or train_base(task, seed)
            model = task.make_model(0.0)
            model.load_state_dict(weights)
            rows, share = keep_right(task, model, task.make_rows(seed + 1000))
            shares.append(share)
            for noise in task.noises:
                found[noise].append(measure(task, noise, weights, rows, seed))
        results[name] = {"base_right": shares, "damaged": found}
        print(f"{name}: the base model has {np.mean(shares):.3f} right")
        for noise, runs in found.items():
            mean = estimate_mean(np.array([run["rate"] for run in runs]))
            low, high = mean.interval or (mean.value, mean.value)
            again = [run["read_again"] for run in runs if run["read_again"] is not None]
            told = f"; read again {100 * np.mean(again):.1f} %" if again else ""
            print(f"  {noise:12} {100 * mean.value:5.2f} % ({100 * low:.2f} to {100 * high:.2f}){told}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s, of one processor {time.process_time():.0f} s")
    with replace_file(RESULTS) as unfinished:
        unfinished.write_text(json.dumps(results, indent=1), "utf-8")


if __name__ == "__main__":
    main()
