"""The samples of a comparison: rows as both models take them."""

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import (
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    default_data_collator,
)

from mixcd.edge.compare.conversations import prepare_conversations
from mixcd.edge.config.data_config import COLUMNS, ColumnsConfig, Task
from mixcd.edge.task_kind import TASK_KINDS
from mixcd.matter.base_model.batched_inference import Collate, list_inputs
from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.correctness.right_span import SPAN_KEYS
from mixcd.matter.model_shape.fresh_adapter import bare_model
from mixcd.matter.model_shape.model_kind import is_causal
from mixcd.matter.model_shape.model_limits import count_positions, count_tokens, longest_input
from mixcd.matter.prior_and_new_data.data_source import make_rows, open_data
from mixcd.matter.prior_and_new_data.preparation.preparation import require_inputs, require_tokenizer
from mixcd.words.errors import DataError, SettingError
from mixcd.words.vocabulary import Ids

_INPUTS = ("input_ids", "pixel_values", "input_values", "input_features")
"""Columns by which rows are known to be prepared."""


@dataclass(frozen=True)
class Preparation:
    """How raw rows become samples.

    Args:
        max_length: The most tokens of a sample; what model and tokenizer take by default.
        assistant_only_loss: In conversations, whether only what the assistant says is a target.
    """

    names: ColumnsConfig = field(default_factory=ColumnsConfig)
    max_length: int | None = None
    assistant_only_loss: bool = False


def open_samples(data: Any, model: torch.nn.Module, tokenizer: Any, how: Preparation, name: str) -> tuple[Any, Collate]:
    """Open rows, and prepare those that are raw as they are for training.

    Args:
        data: Rows, or where they are: what `open_data` takes; or a dict of them.

    Returns:
        The rows, a dict of them if a dict was given, and what makes a batch of a list of them.

    Raises:
        SettingError: If a column is named that the model's task does not have, or a mask that the rows cannot have; or
            if TRL is not installed.
        DataError: If the rows cannot be read or prepared.
    """
    if isinstance(data, Mapping) and data:
        sets = {key: open_samples(rows, model, tokenizer, how, f"{name}[{key!r}]") for key, rows in data.items()}
        return {key: rows for key, (rows, _) in sets.items()}, next(iter(sets.values()))[1]
    rows = open_data(str(data), name=name) if isinstance(data, str | Path) else data
    if isinstance(rows, list) and rows and _inputs_of(rows[0]) is None:
        rows = make_rows(rows)
    task = _task_of(model)
    _require_own_columns(how.names, task)
    if how.assistant_only_loss and (task != "text-generation" or not _is_raw(rows)):
        raise SettingError(
            f"`assistant_only_loss` masks raw conversations of a causal language model, but `{name}` has other rows, "
            f"or the model is a `{type(bare_model(model)).__name__}`. Leave it out, or mask labels of rows yourself."
        )
    if task is not None and _wants_preparing(rows, how.names):
        rows = _prepare(rows, name, task, model, tokenizer, how)
    row = rows[0] if hasattr(rows, "__len__") and len(rows) else None
    if row is not None and _inputs_of(row) is None:
        raise DataError(
            f"`{name}` has no `{'` or `'.join(_INPUTS[:2])}`, and texts are not prepared for a "
            f"`{type(bare_model(model)).__name__}`. Prepare the rows as in training, with their targets."
        )
    return rows, keep_inputs(_choose_collator(row, tokenizer, name), model)


def _prepare(rows: Dataset, name: str, task: Task, model: torch.nn.Module, tokenizer: Any, how: Preparation) -> Dataset:
    is_raw = _is_raw(rows)
    if is_raw and task == "text-generation":
        require_tokenizer(tokenizer, rows.column_names[0], name)
    longest, plain = None if tokenizer is None else longest_input(tokenizer, model), cast(Any, bare_model(model))
    prepared = TASK_KINDS[task].prepare(rows, name, how.names, plain, tokenizer, how.max_length or longest)
    if is_raw and task == "text-generation":
        prepared = prepare_conversations(prepared, name, tokenizer, how.max_length, longest, how.assistant_only_loss)
    require_inputs(prepared, name=name, token_count=count_tokens(model), longest=count_positions(model))
    return prepared


def keep_inputs(collate_fn: Collate, model: torch.nn.Module) -> Collate:
    """Leave out what a model does not take before a batch is made, as trainers do."""
    taken = {*inspect.signature(bare_model(model).forward).parameters, *LABEL_KEYS, *SPAN_KEYS}

    def collate(rows: list[Any]) -> Mapping[str, Any]:
        return collate_fn([{key: value for key, value in row.items() if key in taken} for row in rows])

    return collate


def renumber_labels(collate_fn: Collate, numbers: Ids | None) -> Collate:
    """Give batches the labels that another model has for the same names.

    Args:
        numbers: The other model's number of each label, shape (labels,); None where they are the same.
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


def _require_own_columns(names: ColumnsConfig, task: Task | None) -> None:
    known = COLUMNS[task] if task is not None else ("text", "text_pair", "label")
    foreign = [key for key, column in names if column is not None and key not in known]
    if foreign:
        listed = ", ".join(f"`{key}`" for key in known)
        listed = listed or "none: TRL reads `messages`, `prompt` and `completion`, `text`"
        raise SettingError(
            f"A column is named as `{foreign[0]}`, which is of another task than the base model's, whose columns are "
            f"{listed}. Leave it out, or name a model of that task."
        )


def _is_raw(rows: Any) -> bool:
    return isinstance(rows, Dataset) and "input_ids" not in rows.column_names


def _wants_preparing(rows: Any, names: ColumnsConfig) -> bool:
    """Whether rows hold texts to be made tokens, or labels that may be names."""
    if not isinstance(rows, Dataset) or any(isinstance(rows[0].get(key), list) for key in LABEL_KEYS):
        return False
    return names.text is not None or _inputs_of(rows[0]) in (None, "input_ids")


def _choose_collator(row: Any, tokenizer: Any, name: str) -> Callable[[list[Any]], Any]:
    if _inputs_of(row) != "input_ids":
        return cast(Callable[[list[Any]], Any], default_data_collator)
    if tokenizer is None:
        raise DataError(
            f"`{name}` has rows of tokens, but there is no tokenizer to pad them: none lies beside the models. Pass "
            "`tokenizer` or `collate_fn`, or save the tokenizer with the base model."
        )
    if len(list_inputs(row)) > 1:
        return DataCollatorForMultipleChoice(tokenizer)
    labels = row.get("labels")
    if not (isinstance(labels, list) and labels and isinstance(labels[0], int)):
        return DataCollatorWithPadding(tokenizer)
    padding = deepcopy(tokenizer)
    padding.padding_side = "right"  # as in training: elsewhere a token's position depends on its batch
    return DataCollatorForSeq2Seq(padding)


def _inputs_of(row: Any) -> str | None:
    return next((name for name in _INPUTS if name in row), None) if isinstance(row, Mapping) else None


def _task_of(model: torch.nn.Module) -> Task | None:
    """The task that texts are prepared for, by the model's class; None where they are not."""
    name, config = type(bare_model(model)).__name__, getattr(model, "config", None)
    if name.endswith("ForQuestionAnswering"):
        return "question-answering"
    if name.endswith("ForSequenceClassification"):
        is_single = getattr(config, "problem_type", None) in (None, "single_label_classification")
        return "classification" if is_single and getattr(config, "num_labels", 0) > 1 else None
    if getattr(config, "is_encoder_decoder", False):
        return "sequence-to-sequence"
    return "text-generation" if is_causal(model) else None
