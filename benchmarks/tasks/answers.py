"""Extractive question answering: a small transformer fine-tuned in full, from one kind of text to another.

    mixcd sweep benchmarks/sweeps/answers.toml

The prior task is questions on Wikipedia (SQuAD's development set, and the new Wikipedia passages of its shifted
versions); the new task is questions on articles of the New York Times. A question is kept when its answer lies within
the first tokens of question and passage together; passages are held out whole. The model is MiniLM's first three
layers with a head of two outputs a token; the embeddings are frozen, all else is trained.

The data are of `bigbench`: see `task_data.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from base_model import train_base_model
from datasets import Dataset
from package_files import read_member
from questions import read_passages
from task_data import BIGBENCH, TASK_FOLDER
from text_pool import TextPool
from torchmetrics.functional.text import squad
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
)

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.edge.demo.demo_data import find_minilm
from mixcd.words.vocabulary import Ids

WIKIPEDIA = ("squaddev_v1.1", "new_wiki_v1.0")
NEWS = ("nyt_v1.0",)
MOST_TOKENS = 128
HELD_OUT = 1500
LAYERS = 3
BASE_STEPS = 800
TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "max_steps": 200,
        "per_device_train_batch_size": 16,
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
class Question:
    """A question on a passage.

    Args:
        text: The question.
        passage: The passage.
        start: The first character of the answer in it.
        stop: The character after the answer.
        group: The passage's number.
        accepted: All answers that are right, as texts.
    """

    text: str
    passage: str
    start: int
    stop: int
    group: int
    accepted: tuple[str, ...] = ()


def squad_nyt(seed: int, folder: Path) -> SweepTask:
    """Questions on Wikipedia, then on news."""
    prior, held_out_prior = _split("answers-wikipedia", WIKIPEDIA, seed)
    new, held_out_new = _split("answers-news", NEWS, seed)
    collate_fn = DataCollatorWithPadding(_tokenizer())
    place = folder / f"base-answers-{seed}"
    settings = {**TRAINING, "max_steps": BASE_STEPS, "seed": seed}
    train_base_model(place, lambda: _load_model(find_minilm()), prior, settings, collate_fn)
    measured = {"prior": held_out_prior, "new": held_out_new}
    halves = {name: rows.select(range(len(rows) // 2, len(rows))) for name, rows in measured.items()}
    return SweepTask(
        model=_load_model(place),
        new=new,
        prior=prior,
        held_out_new=held_out_new,
        held_out_prior=held_out_prior,
        training=dict(TRAINING),
        collate_fn=collate_fn,
        processing_class=_tokenizer(),
        measure=lambda model: {
            f"{name}_{measure}": score
            for name, rows in halves.items()
            for measure, score in measure_answers(model, rows).items()
        },
    )


def read_questions(contents: Sequence[bytes]) -> list[Question]:
    """Read files in the format of SQuAD; questions whose answer is not where it is said to be are left out.

    Args:
        contents: The files.

    Returns:
        The questions, with the place of the first answer of each.
    """
    passages = [passage for content in contents for passage in read_passages(content)]
    found = []
    for group, passage in enumerate(passages):
        for asked in passage["qas"]:
            start, answer = asked["answers"][0]["answer_start"], asked["answers"][0]["text"]
            if answer and passage["context"].startswith(answer, start):
                accepted = tuple(dict.fromkeys(one["text"] for one in asked["answers"]))
                place = (start, start + len(answer), group)
                found.append(Question(asked["question"].strip(), passage["context"], *place, accepted))
    return found


def tokenize(questions: Sequence[Question], tokenizer: Any) -> tuple[Dataset, Ids]:
    """Tokenise questions with their passages, and find the answers' tokens.

    Args:
        questions: The questions.
        tokenizer: A fast tokenizer.

    Returns:
        The rows of the questions whose answer is not cut off, and the groups of these.
    """
    encoded = tokenizer(
        [question.text for question in questions],
        [question.passage for question in questions],
        truncation=True,
        max_length=MOST_TOKENS,
        return_offsets_mapping=True,
    )
    rows, groups = [], []
    for number, question in enumerate(questions):
        span = _find_span(encoded["offset_mapping"][number], encoded.sequence_ids(number), question)
        if span is not None:
            inputs = {name: encoded[name][number] for name in tokenizer.model_input_names}
            targets = {"start_positions": span[0], "end_positions": span[1]}
            texts = {"passage": question.passage, "accepted": question.accepted}
            rows.append({**inputs, **targets, **texts, "offsets": encoded["offset_mapping"][number]})
            groups.append(question.group)
    return Dataset.from_list(rows), np.array(groups)


@torch.no_grad()
def measure_answers(model: Any, rows: Dataset, batch_size: int = 64) -> dict[str, float]:
    """Measure as SQuAD does: the text from the likeliest start to the likeliest end, against all accepted answers.

    Args:
        model: An extractive question answerer.
        rows: What `tokenize` returned.
        batch_size: How many at once.

    Returns:
        Exact match and F1, from 0 to 1.
    """
    found, wanted = [], []
    tokens = rows.select_columns(_tokenizer().model_input_names)
    for first in range(0, len(rows), batch_size):
        output = model(**_tokenizer().pad(tokens[first : first + batch_size], return_tensors="pt").to(model.device))
        starts, ends = output.start_logits.argmax(-1).tolist(), output.end_logits.argmax(-1).tolist()
        for number, (start, end) in enumerate(zip(starts, ends, strict=True), first):
            row = rows[number]
            text = row["passage"][row["offsets"][start][0] : row["offsets"][end][1]] if start <= end else ""
            found.append({"id": str(number), "prediction_text": text})
            answers = {"text": row["accepted"], "answer_start": [0] * len(row["accepted"])}
            wanted.append({"id": str(number), "answers": answers})
    scores = squad(found, wanted)
    return {"em": float(scores["exact_match"]) / 100, "f1": float(scores["f1"]) / 100}


def _find_span(
    offsets: Sequence[tuple[int, int]], sources: Sequence[int | None], question: Question
) -> tuple[int, int] | None:
    inside = [
        token
        for token, ((start, stop), source) in enumerate(zip(offsets, sources, strict=True))
        if source == 1 and start < question.stop and stop > question.start
    ]
    if not inside or offsets[inside[-1]][1] < question.stop:
        return None
    return inside[0], inside[-1]


@cache
def _tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(find_minilm())


@cache
def _read_all(names: tuple[str, ...]) -> tuple[Dataset, Ids]:
    contents = [read_member(BIGBENCH, f"{TASK_FOLDER}/squad_shifts/{name}.json") for name in names]
    return tokenize(read_questions(contents), _tokenizer())


def _split(name: str, names: tuple[str, ...], seed: int) -> tuple[Dataset, Dataset]:
    rows, groups = _read_all(names)
    numbers = np.unique(groups, return_inverse=True)[1]
    pool = TextPool(name, [()] * len(rows), np.zeros(len(rows), dtype=np.int64), HELD_OUT, groups=numbers)
    kept, held_out = pool.split(seed)
    return rows.select(kept), rows.select(held_out)


def _load_model(folder: Path) -> Any:
    model = AutoModelForQuestionAnswering.from_pretrained(folder, num_hidden_layers=LAYERS)
    model.base_model.embeddings.requires_grad_(False)
    return model
