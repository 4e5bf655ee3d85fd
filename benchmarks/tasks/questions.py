"""Sentence pairs out of SQuAD, in the way of QNLI: does this sentence hold the answer to that question?"""

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LEAST_SENTENCE = 20
"""Characters of a sentence, at least; what is shorter is no candidate."""


def read_passages(content: bytes) -> list[Mapping[str, Any]]:
    """Read a file in the format of SQuAD.

    Args:
        content: The file.

    Returns:
        Its passages, each with `context` and `qas`.
    """
    return [passage for article in json.loads(content)["data"] for passage in article["paragraphs"]]


def pair_questions(passage: Mapping[str, Any], rng: np.random.Generator) -> list[tuple[str, str, int]]:
    """Pair each question on a passage with the sentence that holds its answer, or with another one, at even odds.

    Questions whose answer is not where it is said to be, or in no sentence of some length, are left out.

    Args:
        passage: `context` and `qas`, as in SQuAD.
        rng: Draws the sentences.

    Returns:
        Question, sentence, and 1 if the sentence holds the answer, 0 otherwise.
    """
    context = passage["context"]
    bounds = [0, *(gap.end() for gap in _SENTENCE_END.finditer(context)), len(context)]
    sentences = [(a, b) for a, b in pairwise(bounds) if b - a > _LEAST_SENTENCE]
    rows = []
    for question in passage["qas"]:
        start, text = question["answers"][0]["answer_start"], question["answers"][0]["text"]
        holding = [number for number, (a, b) in enumerate(sentences) if a <= start < b]
        if not holding or len(sentences) < 2 or not context.startswith(text, start):
            continue
        label = int(rng.integers(2))
        others = [number for number in range(len(sentences)) if number != holding[0]]
        a, b = sentences[holding[0] if label else int(rng.choice(others))]
        rows.append((question["question"].strip(), context[a:b].strip(), label))
    return rows
