"""What a language model learns of its new rows, and what damage counts: what is missing is said at `attach`."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer

from mixcd.matter.correctness import CorrectnessRule, TokenRule
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Floats, Ids

logger = logging.getLogger(__name__)

_NEW = "trainer.train_dataset"
_LOOKED_AT = 200
_WEIGHTS = ("weight", "loss_scale", "loss_mask")
"""Parts of the names under which batches hold what a loss of one's own weighs its tokens or samples by."""
_USUAL, _RARE = 0.95, 0.05
"""Shares of the rows in which a special token is as good as always there, and never."""


def evenly_spaced(row_count: int) -> Ids:
    """Return the numbers of the rows that are looked at, all of few, shape (rows,)."""
    return np.unique(np.linspace(0, row_count - 1, _LOOKED_AT).astype(int))


def require_targets(trainer: Trainer, new_data: Any, rule: CorrectnessRule) -> None:
    """Refuse new rows of which no token is a target, and warn where it is so of some.

    Only labels that lie ready are looked at, in a `datasets.Dataset` or a list: to make rows may take long, or draw
    random numbers.

    Raises:
        DataError: If none of the rows has a target; names the chat template where that marks none.
    """
    if not isinstance(rule, TokenRule):
        return
    numbers = evenly_spaced(len(new_data))
    labels = _read_labels(new_data, numbers.tolist())
    if labels is None:
        return
    first = int(bool(rule.is_shifted))  # nothing predicts a row's first token
    untargeted = numbers[[not (np.asarray(one)[first:] >= 0).any() for one in labels]]
    looked_at = f"{numbers.size} rows" + (" looked at" if numbers.size < len(new_data) else "")
    if untargeted.size == numbers.size:
        cure = say_unmarked(trainer) or "Check the labels, and that answers fit the length limit."
        raise DataError(f"`{_NEW}` has {rule.untargeted} on all {looked_at}: nothing could be learnt. {cure}")
    if untargeted.size and trainer.is_world_process_zero():
        logger.warning(
            "`%s` has %s on %d of %s: rows %s. Nothing is learnt from them. Leave them out, or prepare them anew.",
            _NEW,
            rule.untargeted,
            untargeted.size,
            looked_at,
            shorten(untargeted),
        )


def warn_of_other_format(trainer: Trainer, rule: CorrectnessRule, new: PriorDataset, prior: PriorDataset) -> None:
    """Say where a special token is in nearly all rows of the one and hardly any of the other: another chat template."""
    tokenizer: Any = trainer.processing_class
    if not isinstance(rule, TokenRule) or not rule.is_shifted or not hasattr(tokenizer, "get_added_vocab"):
        return
    of_no_row = {tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id}
    special = np.array(sorted({*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} - of_no_row))
    in_new, in_prior = (_share_with(data, special) for data in (new, prior))
    if in_new is None or in_prior is None or not trainer.is_world_process_zero():
        return
    differs = (np.maximum(in_new, in_prior) >= _USUAL) & (np.minimum(in_new, in_prior) <= _RARE)
    if differs.any():
        logger.warning(
            "%s: in nearly all rows of the one and hardly any of the other of `%s` and `%s`. So they were prepared in "
            "two ways, such as by other chat templates, and the base model may be judged on texts unlike those that it "
            "knows. Prepare both alike, or go on if that is meant.",
            shorten((f"`{tokenizer.decode([number])}`" for number in special[differs].tolist()), 5),
            new.name,
            prior.name,
        )


def _share_with(data: PriorDataset, special: Ids) -> Floats | None:
    """Return in which share of some rows each special token is, shape (tokens,); None where rows have to be made."""
    if not data.is_ready or "input_ids" not in data.column_names:
        return None
    rows = data.rows(evenly_spaced(len(data)).tolist())
    return np.asarray(np.mean([np.isin(special, row["input_ids"]) for row in rows], axis=0))


def _read_labels(new_data: Any, numbers: Sequence[int]) -> list[Any] | None:
    """Return the labels of some rows; None where there are none, or rows are made when they are read."""
    is_table = isinstance(new_data, Dataset) and new_data.format["type"] != "custom"
    if is_table and "labels" in new_data.column_names:
        return list(new_data.select_columns(["labels"])[numbers]["labels"])
    if isinstance(new_data, list) and isinstance(new_data[0], Mapping) and "labels" in new_data[0]:
        return [new_data[number]["labels"] for number in numbers]
    return None


def say_unmarked(trainer: Trainer) -> str:
    """Say that the chat template does not mark what the assistant says; empty where it does, or there is none."""
    tokenizer: Any = trainer.processing_class
    template = getattr(trainer, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    template = template.get("default") if isinstance(template, Mapping) else template
    if not template or re.search(r"\{%-?\s*generation\s*-?%\}", template):
        return ""
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    return (
        f"The chat template of `{name}` has no `{{% generation %}}` markers, so no token counts as the assistant's. "
        "Put `{% generation %}` and `{% endgeneration %}` round what the assistant says, or train on all tokens."
    )


def warn_of_weights(trainer: Trainer, rule: CorrectnessRule, batch: Mapping[str, Any]) -> None:
    """Say once where batches hold weights of tokens or samples, which the trainer's own loss may use: damage does not.

    Args:
        batch: A batch of new samples.
    """
    names = [
        name
        for name, value in batch.items()
        if isinstance(value, torch.Tensor) and any(part in name for part in _WEIGHTS)
    ]
    if names and isinstance(rule, TokenRule) and trainer.is_world_process_zero():
        logger.warning(
            "Batches hold %s. Damage counts every target token alike, whatever the loss weighs it. Mask the labels "
            "(-100) of tokens that are not to count.",
            shorten((f"`{name}`" for name in names), 5),
        )
