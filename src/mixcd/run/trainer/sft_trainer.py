"""What `trl.SFTTrainer` does differently from its parent: it prepares raw data itself, and builds no logits."""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import Trainer

from mixcd.matter.correctness import CorrectnessRule, TokenRule
from mixcd.matter.prior_and_new_data.data_source import make_rows
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.trained_targets import evenly_spaced, say_unmarked
from mixcd.words.errors import DataError, UnsupportedTrainerError, shorten
from mixcd.words.vocabulary import Flags

logger = logging.getLogger(__name__)

_ROW = "mixcd_row"
_PREPARED_BY = ("dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name")
"""The arguments of `SFTTrainer._prepare_dataset`, which is private: a change is refused, with the ways out."""


def is_sft_trainer(trainer: Trainer) -> bool:
    """Whether a trainer is TRL's `SFTTrainer`, or made from it; TRL itself need not be installed."""
    return any(kind.__name__ == "SFTTrainer" and kind.__module__.startswith("trl.") for kind in type(trainer).__mro__)


def expect_fused_head(trainer: Trainer, rule: CorrectnessRule) -> CorrectnessRule:
    """Return the rule that reads this trainer's forward passes, fused or not."""
    if not isinstance(rule, TokenRule) or not is_sft_trainer(trainer):
        return rule
    return replace(rule, is_fused=True, is_shifted=True)  # TRL's head shifts the labels itself, whatever the model


def prepare_raw(trainer: Trainer, data: Any, name: str) -> Any:
    """Prepare raw text, prompts with completions or conversations as the trainer prepares its own data.

    Chat template, end of text, truncation and masks are the trainer's. Rows whose answer is truncated away have no
    target left; they are dropped, and named in the log. Nothing happens to rows that are tokenised, and with other
    trainers.

    Args:
        data: A `datasets.Dataset`, a list of dicts, or a dict of them.
        name: What messages call the data.

    Returns:
        The data, tokenised; rows keep their order.

    Raises:
        DataError: If no row has a target left.
        UnsupportedTrainerError: If the trainer's preparation cannot be called.
    """
    if not is_sft_trainer(trainer) or getattr(trainer, "_skip_prepare_dataset", False):
        return data
    if isinstance(data, Mapping):
        return {key: _prepare_one(trainer, part, f"{name}[{key!r}]") for key, part in data.items()}
    return _prepare_one(trainer, data, name)


def warn_of_dropped(trainer: Trainer) -> None:
    """Say how many new rows TRL left out in silence, for truncation left them no target.

    They are still in the table that the trainer's data select their rows from; those of a stream, or of packed rows,
    are not known.

    Raises:
        DataError: If it left out all.
    """
    data: Any = trainer.train_dataset
    if not is_sft_trainer(trainer) or not isinstance(data, Dataset) or data.data.num_rows <= len(data):
        return
    if "labels" not in data.column_names:
        return
    if not len(data):
        raise DataError(
            f"TRL left all {data.data.num_rows} rows out of `trainer.train_dataset`: no target is left of them after "
            "truncation to `max_length`, or every label is masked (-100). Raise it, or check the labels."
        )
    dropped = np.flatnonzero(~_has_target(data.data.column("labels")))
    if dropped.size and trainer.is_world_process_zero():
        logger.warning(
            "TRL left %d of %d rows out of `trainer.train_dataset`: no target is left of them after truncation to "
            "`max_length`, rows %s. Raise it, or shorten their prompts, to learn from them.",
            dropped.size,
            data.data.num_rows,
            shorten(dropped),
        )


def require_same_targets(new: PriorDataset, prior: PriorDataset) -> None:
    """Refuse prior data of which every token is a target where part of the new data's tokens is masked.

    So it would be with prompts and completions beside `assistant_only_loss`: TRL masks nothing of them, silently.
    """
    new_share, prior_share = _masked_share(new), _masked_share(prior)
    if new_share > 0 and prior_share == 0:
        raise DataError(
            f"Every token of `{prior.name}` is a target, but {new_share:.0%} of the tokens of `{new.name}` are masked. "
            "Both must be masked alike, or the model is judged on prompts it is not trained on. Give "
            f"`{prior.name}` in the format of `{new.name}`: conversations for `assistant_only_loss`, prompts and "
            "completions for `completion_only_loss`; of rows that are tokenised already, with `labels`."
        )


def _prepare_one(trainer: Any, data: Any, name: str) -> Any:
    rows = make_rows(data) if isinstance(data, list) and data and isinstance(data[0], dict) else data
    if not isinstance(rows, Dataset) or not len(rows) or "input_ids" in rows.column_names:
        return data
    found = tuple(inspect.signature(getattr(trainer, "_prepare_dataset", lambda: None)).parameters)
    if found != _PREPARED_BY:
        raise UnsupportedTrainerError(
            f"`{name}` is raw, and `{type(trainer).__name__}` of this version of TRL does not prepare data as mixcd "
            "knows it to. Prepare it with the trainer: pass it at construction as `eval_dataset={'prior': ...}` and "
            "give `attach` what `trainer.eval_dataset.pop('prior')` returns; or give it with `input_ids` and `labels`."
        )
    numbered = rows.add_column(_ROW, range(len(rows)))
    try:
        prepared = trainer._prepare_dataset(
            numbered, trainer.processing_class, trainer.args, False, trainer._formatting_func, name
        )
    except Exception as error:  # of a template, of the rows' format: TRL raises what comes
        if getattr(trainer.args, "assistant_only_loss", False) and "no assistant tokens" in str(error):
            raise DataError(_say_unspoken(trainer, rows, name)) from error
        told = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"TRL cannot prepare `{name}`, whose columns are {shorten((f'`{one}`' for one in rows.column_names), 20)}: "
            f"{type(error).__name__}: {told}. It reads `messages`, `prompt` with `completion`, or `text`. Give rows in "
            "the format of the trainer's own data."
        ) from error
    kept = np.asarray(prepared[_ROW][:])
    dropped = np.setdiff1d(np.arange(len(rows)), kept)
    if not kept.size:
        raise DataError(
            f"No row of `{name}` has a target left after truncation to `max_length`. Raise it, or give data whose "
            "answers fit."
        )
    if dropped.size:
        logger.warning(
            "%d of %d rows of `%s` have no target left after truncation to `max_length` and are dropped: rows %s. "
            "Sample ids number the others.",
            dropped.size,
            len(rows),
            name,
            shorten(dropped),
        )
    in_order = prepared.select(np.argsort(kept)) if (np.diff(kept) < 0).any() else prepared
    return in_order.remove_columns(_ROW)


def _say_unspoken(trainer: Any, rows: Dataset, name: str) -> str:
    """Say why rows have no token of the assistant's: the chat template marks none, or there is no such turn."""
    unmarked = say_unmarked(trainer)
    if unmarked:
        return f"`{name}` would have no target under `assistant_only_loss`. {unmarked}"
    turns = rows["messages"] if "messages" in rows.column_names else rows["completion"]
    silent = [number for number, said in enumerate(turns) if "assistant" not in (turn.get("role") for turn in said)]
    return (
        f"`{name}` has rows without a turn of the assistant, which would have no target under `assistant_only_loss`: "
        f"rows {shorten(silent)}. Leave them out."
    )


def _has_target(labels: pa.ChunkedArray) -> Flags:
    """Say which rows have a label that is not masked, shape (rows,)."""
    found = []
    for chunk in labels.chunks:
        lengths = np.asarray(pc.list_value_length(chunk))
        before = np.concatenate([[0], np.cumsum(np.asarray(chunk.flatten()) >= 0)])
        ends = np.cumsum(lengths)
        found.append(before[ends] > before[ends - lengths])
    return np.concatenate(found)


def _masked_share(data: PriorDataset) -> float:
    """The share of the labels of some evenly spaced rows that is masked."""
    rows = data.rows(evenly_spaced(len(data)).tolist())
    # Of tokenised rows without labels TRL makes every token a target.
    labels = np.concatenate([np.asarray(row["labels"] if "labels" in row else row["input_ids"]) for row in rows])
    return float((labels < 0).mean())
