"""The samples of a comparison: rows as both models take them."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PreTrainedModel,
    default_data_collator,
)

from mixcd.batched_inference import Collate
from mixcd.correctness_rule.right_class import LABEL_KEYS
from mixcd.correctness_rule.right_span import SPAN_KEYS
from mixcd.data_config import ColumnsConfig, Task
from mixcd.data_preparation.class_preparation import ColumnNames
from mixcd.data_preparation.data_preparation import require_inputs
from mixcd.data_source import open_data
from mixcd.errors import DataError
from mixcd.fresh_adapter import bare_model
from mixcd.model_limits import count_positions, count_tokens, longest_input
from mixcd.task_kind import TASK_KINDS
from mixcd.vocabulary import Ids

_INPUTS = ("input_ids", "pixel_values", "input_values", "input_features")
"""Columns by which rows are known to be prepared."""


def open_samples(
    data: Any, model: torch.nn.Module, tokenizer: Any, names: ColumnNames, max_length: int | None, name: str
) -> tuple[Any, Collate]:
    """Open and prepare rows as a model takes them, but for causal language models: their rows must have inputs.

    Args:
        data: Rows, or where they are: what `open_data` takes.
        model: The model.
        tokenizer: Its tokenizer, or None.
        names: Which columns are what.
        max_length: The most tokens of a sample; what model and tokenizer take by default.
        name: What messages call the data.

    Returns:
        The rows, and what makes a batch of a list of them.

    Raises:
        DataError: If the rows cannot be read or prepared.
    """
    rows = open_data(str(data), name=name) if isinstance(data, str | Path) else data
    if isinstance(rows, list) and rows and _inputs_of(rows[0]) is None:
        rows = Dataset.from_list(rows)
    task = _task_of(model)
    if task is not None and _wants_preparing(rows, names):
        if max_length is None and tokenizer is not None:
            max_length = longest_input(tokenizer, model)
        columns = ColumnsConfig(text=names.text, text_pair=names.text_pair, label=names.label)
        rows = TASK_KINDS[task].prepare(rows, name, columns, _plain(model), tokenizer, max_length)
        require_inputs(rows, name=name, token_count=count_tokens(model), longest=count_positions(model))
    row = _first_row(rows)
    if row is not None and _inputs_of(row) is None:
        raise DataError(
            f"`{name}` has no `{'` or `'.join(_INPUTS[:2])}`, and texts are not prepared for a "
            f"`{type(bare_model(model)).__name__}`. Prepare the rows as in training, with their targets."
        )
    return rows, keep_inputs(_choose_collator(row, tokenizer, name), model)


def keep_inputs(collate_fn: Collate, model: torch.nn.Module) -> Collate:
    """Leave out what a model does not take before a batch is made, as trainers do.

    Args:
        collate_fn: Makes a batch of a list of rows.
        model: The model.

    Returns:
        A function that does so.
    """
    taken = {*inspect.signature(bare_model(model).forward).parameters, *LABEL_KEYS, *SPAN_KEYS}

    def collate(rows: list[Any]) -> Mapping[str, Any]:
        return collate_fn([{key: value for key, value in row.items() if key in taken} for row in rows])

    return collate


def renumber_labels(collate_fn: Collate, numbers: Ids | None) -> Collate:
    """Give batches the labels that another model has for the same names.

    Args:
        collate_fn: Makes a batch of a list of rows.
        numbers: The other model's number of each label, shape (labels,); None where they are the same.

    Returns:
        A function that makes batches for the other model.
    """
    if numbers is None:
        return collate_fn
    others = torch.from_numpy(numbers)

    def collate(rows: list[Any]) -> Mapping[str, Any]:
        batch = dict(collate_fn(rows))
        key = next(key for key in LABEL_KEYS if key in batch)
        batch[key] = _renumber(batch[key], others)
        return batch

    return collate


def _renumber(labels: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    others = others.to(labels.device)
    if labels.is_floating_point():  # a column a label
        return torch.empty_like(labels).index_copy_(1, others, labels)
    known = (labels >= 0) & (labels < len(others))  # the rule refuses the rest
    return torch.where(known, others[labels.clip(0, len(others) - 1)], labels)


def _wants_preparing(rows: Any, names: ColumnNames) -> bool:
    """Whether rows hold texts to be made tokens, or labels that may be names."""
    if not isinstance(rows, Dataset) or any(isinstance(rows[0].get(key), list) for key in LABEL_KEYS):
        return False
    return names.text is not None or _inputs_of(rows[0]) in (None, "input_ids")


def _choose_collator(row: Any, tokenizer: Any, name: str) -> Callable[[list[Any]], Any]:
    if _inputs_of(row) != "input_ids":
        collator: Callable[[list[Any]], Any] = default_data_collator
        return collator
    if tokenizer is None:
        raise DataError(
            f"`{name}` has rows of tokens, but there is no tokenizer to pad them: none lies beside the models. Pass "
            "`tokenizer` or `collate_fn`, or save the tokenizer with the base model."
        )
    labels = row.get("labels")
    is_a_number_a_token = isinstance(labels, list) and bool(labels) and isinstance(labels[0], int)
    return (DataCollatorForSeq2Seq if is_a_number_a_token else DataCollatorWithPadding)(tokenizer)


def _inputs_of(row: Any) -> str | None:
    return next((name for name in _INPUTS if name in row), None) if isinstance(row, Mapping) else None


def _first_row(rows: Any) -> Any:
    """The first row of a data set, or of several by name; None where there is none."""
    sets: list[Any] = list(rows.values()) if isinstance(rows, Mapping) else [rows]
    return next((one[0] for one in sets if hasattr(one, "__len__") and len(one)), None)


def _task_of(model: torch.nn.Module) -> Task | None:
    """The task that texts are prepared for, by the model's class; None where they are not."""
    name, config = type(bare_model(model)).__name__, getattr(model, "config", None)
    if name.endswith("ForQuestionAnswering"):
        return "question-answering"
    if name.endswith("ForSequenceClassification"):
        is_single = getattr(config, "problem_type", None) in (None, "single_label_classification")
        return "classification" if is_single and getattr(config, "num_labels", 0) > 1 else None
    return "sequence-to-sequence" if getattr(config, "is_encoder_decoder", False) else None


def _plain(model: torch.nn.Module) -> PreTrainedModel:
    plain: Any = bare_model(model)
    return cast(PreTrainedModel, plain)
