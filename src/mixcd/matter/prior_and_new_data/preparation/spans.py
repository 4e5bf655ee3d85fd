"""Preparing rows for extractive question answering: question and context become tokens, the answer a span of them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from mixcd.matter.correctness.right_span import SPAN_KEYS
from mixcd.matter.prior_and_new_data.preparation.preparation import (
    describe_kind,
    find_column,
    identify_tokens,
    require_tokenizable,
    write_rows,
)
from mixcd.words.errors import DataError, shorten

logger = logging.getLogger(__name__)

_TEXTS, _STARTS = "text", "answer_start"
_NO_ANSWER = (0, 0)
_CUT_OFF, _MISPLACED = (-1, -1), (-2, -2)
"""What stands in the place of a span until its row is left out."""


@dataclass(frozen=True)
class SpanColumns:
    """Which of the data's columns are what.

    Args:
        question: The column of questions; `question` by default, unless the rows are tokenised already.
        context: The column of the texts that the answers are in; `context` by default.
        answers: The column of answers, lists `text` and `answer_start`; `answers` by default.
    """

    question: str | None = None
    context: str | None = None
    answers: str | None = None


def prepare_spans(data: Dataset, *, name: str, columns: SpanColumns, tokenizer: Any, max_length: int | None) -> Dataset:
    """Return the rows as a model takes them, in the same order, with all other columns kept.

    The first answer is the gold one; a question without answers has token 0 for one. What is longer than `max_length`,
    by default the tokenizer's own limit, loses the end of its context. Rows whose answer is lost with it, or is not
    where `answer_start` says, are left out, and named in one warning. Rows that have `input_ids`, when no column is
    named, are returned as they are.

    Returns:
        Rows with `input_ids` and whatever else the tokenizer gives, `start_positions`, `end_positions`, and the others.

    Raises:
        DataError: If a column is missing or in the way, a text is missing, the answers are in another format, there is
            no tokenizer or a slow one, or no row has an answer left.
    """
    if columns == SpanColumns() and "input_ids" in data.column_names:
        for key in SPAN_KEYS:
            find_column(data, key, "token number", name)
        return data
    question = find_column(data, columns.question or "question", "question", name)
    context = find_column(data, columns.context or "context", "context", name)
    answers = find_column(data, columns.answers or "answers", "answer", name)
    require_tokenizable(data, (question, context), tokenizer, name, written=SPAN_KEYS)
    _require_fast(tokenizer, name)
    _require_squad(data.features[answers], answers, name)

    def prepare(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        return _prepare_batch(batch[question], batch[context], batch[answers], tokenizer, max_length)

    identity = ("spans", identify_tokens(tokenizer, max_length), question, context, answers)
    return _leave_out(write_rows(data, prepare, identity), name)


def _require_fast(tokenizer: Any, name: str) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"`{name}` has answers by their place in the text, but a {type(tokenizer).__name__} does not say which "
            "token a letter belongs to. Save a fast one with the model, or name one as `model.tokenizer`."
        )


def _require_squad(feature: Any, column: str, name: str) -> None:
    lists = feature if isinstance(feature, Mapping) else {}
    if not all(hasattr(lists.get(key), "feature") for key in (_TEXTS, _STARTS)):
        found = f"a table of {shorten(lists)}" if lists else describe_kind(feature)
        raise DataError(
            f"`{name}` has {found} in its column `{column}`, but a table of two lists is needed there, as in SQuAD: "
            f"`{_TEXTS}`, the answers, and `{_STARTS}`, the places of their first letters in the context. Write them "
            "so, or name another column."
        )


def _prepare_batch(
    questions: list[str], contexts: list[str], answers: list[Any], tokenizer: Any, max_length: int | None
) -> dict[str, Any]:
    most = max_length or tokenizer.model_max_length
    room = most - tokenizer.num_special_tokens_to_add(pair=True)
    lengths = [len(tokens) for tokens in tokenizer(questions, add_special_tokens=False)["input_ids"]]
    fitting = [one if length < room else "" for one, length in zip(questions, lengths, strict=True)]
    tokens = tokenizer(fitting, contexts, truncation="only_second", max_length=max_length)
    spans = [
        _find_span(tokens, row, contexts[row], answers[row]) if lengths[row] < room else _CUT_OFF
        for row in range(len(questions))
    ]
    return {**tokens, **dict(zip(SPAN_KEYS, map(list, zip(*spans, strict=True)), strict=True))}


def _find_span(tokens: Any, row: int, context: str, answer: Any) -> tuple[int, int]:
    texts, starts = (list((answer or {}).get(key) or []) for key in (_TEXTS, _STARTS))
    if answer is not None and not texts and not starts:
        return _NO_ANSWER
    text, start = (texts or [None])[0], (starts or [None])[0]
    if not text or not text.strip() or start is None or start < 0 or context[start : start + len(text)] != text:
        return _MISPLACED
    first, last = start + len(text) - len(text.lstrip()), start + len(text.rstrip()) - 1
    span = tuple(tokens.char_to_token(row, letter, sequence_index=1) for letter in (first, last))
    return _CUT_OFF if None in span else span


def _leave_out(rows: Dataset, name: str) -> Dataset:
    """Leave out the rows without a span, and say which."""
    starts = np.asarray(rows.with_format("numpy")[SPAN_KEYS[0]][:])
    kept, cut_off, misplaced = (np.flatnonzero(where) for where in (starts >= 0, starts == -1, starts == -2))
    if len(kept) == len(rows):
        return rows
    faults = (
        (cut_off, "is cut off by the longest input that `max_length`, tokenizer or model allow"),
        (misplaced, f"is not where its `{_STARTS}` says"),
    )
    told = "; ".join(f"that of row {shorten(found)} (counted from 0) {fault}" for found, fault in faults if len(found))
    if not len(kept):
        raise DataError(
            f"No answer of `{name}` can be found in its context: {told}. Every row needs one that can. Correct the "
            "answers, or raise `max_length`."
        )
    logger.warning(
        "%d of %d rows of `%s` are left out for their answers: %s. Sample ids number the others.",
        len(rows) - len(kept),
        len(rows),
        name,
        told,
    )
    return rows.select(kept)
