"""What a sample says, and what should come of it, as texts to show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixcd.edge.compare.label_sets import name_label_set
from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.matter.correctness import CorrectnessRule, NearTarget, RightLabels, RightSpan, TokenRule
from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.correctness.right_span import SPAN_KEYS
from mixcd.matter.correctness.token_rule import IGNORED
from mixcd.run.outcome.sample_texts import TEXT_START, text_of

_INPUTS = "input_ids"


def read_text(row: Any, names: ColumnsConfig, rule: CorrectnessRule, tokenizer: Any) -> str:
    """Return how a sample's text starts: that of its own columns, or what the model is given before its targets."""
    if not isinstance(row, Mapping):
        return ""
    texts = _find_texts(row, names)
    if texts:
        return " | ".join(text[:TEXT_START] for text in texts)
    if isinstance(rule, TokenRule) and tokenizer is not None and {_INPUTS, "labels"} <= {*row}:
        tokens, targets = (np.asarray(row[key]) for key in (_INPUTS, "labels"))
        start = int(np.argmax(targets != IGNORED)) if rule.is_shifted else 0  # where the answer starts
        return _decode(tokenizer, tokens[:start] if start else tokens)
    return text_of(row, tokenizer)


def read_gold(row: Any, rule: CorrectnessRule, tokenizer: Any, label_names: Sequence[str]) -> str | None:
    """Return what should come of a sample whose prediction is no class.

    Args:
        label_names: The names of multi-label samples' labels; none where they have none.

    Returns:
        How its target or its answer starts, its labels, or its number; None where the row does not show it.
    """
    if not isinstance(row, Mapping):
        return None
    label = next((row[key] for key in LABEL_KEYS if key in row), None)
    if isinstance(rule, RightLabels) and label is not None:
        return name_label_set(label, label_names)
    if isinstance(rule, NearTarget) and label is not None:
        return ", ".join(f"{number:g}" for number in np.ravel(label))
    if isinstance(rule, TokenRule) and label is not None and tokenizer is not None:
        targets = np.asarray(label)
        return _decode(tokenizer, targets[targets != IGNORED])
    if isinstance(rule, RightSpan) and tokenizer is not None and {_INPUTS, *SPAN_KEYS} <= {*row}:
        first, last = (int(row[key]) for key in SPAN_KEYS)
        return _decode(tokenizer, np.asarray(row[_INPUTS])[first : last + 1])
    return None


def _find_texts(row: Mapping[str, Any], names: ColumnsConfig) -> list[str]:
    """The texts of the first columns that are there: one of a task's inputs, with what belongs to it."""
    inputs = (
        (names.text or "text", names.text_pair),
        (names.question or "question", names.context or "context"),
        (names.source or "source",),
        ("prompt",),
    )
    columns = next((columns for columns in inputs if isinstance(row.get(columns[0]), str)), ())
    return [row[column] for column in columns if column is not None and isinstance(row.get(column), str)]


def _decode(tokenizer: Any, tokens: Any) -> str:
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=True)).strip()[:TEXT_START]
