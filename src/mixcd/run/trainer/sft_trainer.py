"""What `trl.SFTTrainer` does differently from its parent: it prepares raw data itself, and builds no logits."""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import Trainer

from mixcd.matter.correctness import CorrectnessRule, TokenRule
from mixcd.matter.prior_and_new_data.data_source import make_rows
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError, UnsupportedTrainerError, shorten

logger = logging.getLogger(__name__)

_ROW = "mixcd_row"
_PREPARED_BY = ("dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name")
"""The arguments of `SFTTrainer._prepare_dataset`, which is private: a change is refused, with the ways out."""
_COMPARED_ROWS = 200


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


def require_same_targets(new: PriorDataset, prior: PriorDataset) -> None:
    """Refuse prior data of which every token is a target where part of the new data's tokens is masked.

    So it would be with prompts and completions beside `assistant_only_loss`: TRL masks nothing of them, silently.
    """
    new_share, prior_share = _masked_share(new), _masked_share(prior)
    if new_share > 0 and prior_share == 0:
        raise DataError(
            f"Every token of `{prior.name}` is a target, but {new_share:.0%} of the tokens of `{new.name}` are masked. "
            "Both must be masked alike, or the model is judged on prompts it is not trained on. Give `prior_data` in "
            "the format of the new data: conversations for `assistant_only_loss`, prompts and completions for "
            "`completion_only_loss`."
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


def _masked_share(data: PriorDataset) -> float:
    """The share of the labels of some evenly spaced rows that is masked."""
    numbers = np.unique(np.linspace(0, len(data) - 1, _COMPARED_ROWS).astype(int))
    labels = np.concatenate([np.asarray(row["labels"]) for row in data.rows(numbers.tolist())])
    return float((labels < 0).mean())
