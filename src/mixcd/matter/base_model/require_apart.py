"""`require_apart`: what a model makes of a sample must not depend on the samples that share its row."""

from typing import Any

import numpy as np
import torch

from mixcd.matter.base_model.batched_inference import Collate, collate, evaluating, predict_batch
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.model_shape.fresh_adapter import bare_model
from mixcd.matter.model_shape.joined_rows import OWN_TOKENS, find_own, mark_own, name_collator
from mixcd.matter.model_shape.model_limits import require_fitting
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import UnsupportedTrainerError
from mixcd.words.vocabulary import Ids

_LOOKED_AT, _TRIED = 32, 4
"""Samples whose length is looked at, and those, the shortest of them, that are predicted."""
_ROUNDING = 1e-3
"""The largest part of a loss that is rounding. It is none at all where samples are kept apart and nothing is routed."""


def require_apart(inference: Inference) -> None:
    """Refuse joined rows where the model mixes up their samples; rows of one sample each are let pass.

    Whether it does depends on the attention, the model's kind and what the collator returns, so it is tried: some
    samples' tokens change places, and the losses of the others must stay what they are.

    Raises:
        UnsupportedTrainerError: If it does, or the row does not say where each sample starts.
        DataError: If samples have no labels, labels that the model cannot predict, or more tokens than it takes.
    """
    model, data, collate_fn = inference.model, inference.data, inference.collate_fn
    if find_own(collate(collate_fn, [data[0]] * 2), 2) is None:
        return
    sample_ids, rows = _choose_short(data)
    require_fitting(model, [len(row["input_ids"]) for row in rows], sample_ids, data.name)
    batch = collate(collate_fn, rows)
    own = mark_own(batch, len(rows))[OWN_TOKENS]
    tokens, moved = batch["input_ids"].clone(), own[::2].any(0)
    tokens[:, moved] = tokens[:, moved].flip(-1)
    with evaluating(model):
        before, after = (
            predict_batch(model, inference.rule, one, rows, sample_ids, data.name)["loss"][1::2]
            for one in (batch, {**batch, "input_ids": tokens})
        )
    if not np.allclose(before, after, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True):
        raise _refuse(model, batch, name_collator(collate_fn))


def require_cache_off(model: torch.nn.Module, data: PriorDataset, collate_fn: Collate) -> None:
    """Refuse to train on joined rows with `use_cache`: the tokens of a sample would attend to the samples before it."""
    is_on = getattr(getattr(model, "config", None), "use_cache", False)
    if is_on and find_own(collate(collate_fn, [data[0]] * 2), 2) is not None:
        raise UnsupportedTrainerError(
            f"`{name_collator(collate_fn)}` joins the samples of a batch in one row, and `model.config.use_cache` is "
            "on: then transformers lets each sample attend to those before it, and the model would be trained on "
            "other inputs than it is judged on. Set `model.config.use_cache = False`, which `Trainer` does by default."
        )


def _choose_short(data: PriorDataset) -> tuple[Ids, list[Any]]:
    """Choose some short samples, which take little memory; again and again the same ones where there are few."""
    looked_at = np.unique(np.linspace(0, len(data) - 1, _LOOKED_AT).astype(int))
    rows = data.rows(looked_at.tolist())
    order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable")
    chosen = np.resize(order[:_TRIED], _TRIED)
    return looked_at[chosen], [rows[number] for number in chosen]


def _refuse(model: torch.nn.Module, batch: Any, collator_name: str) -> UnsupportedTrainerError:
    bare = bare_model(model)
    attention = getattr(getattr(bare, "config", None), "_attn_implementation", None)
    how = f" with {attention} attention" if attention else ""
    reason = "it makes no mask of `position_ids` that would keep them apart"
    if "position_ids" not in batch:
        reason = "the batch has no `position_ids`, of which the mask is made that keeps them apart"
    return UnsupportedTrainerError(
        f"`{collator_name}` joins the samples of a batch in one row, but `{type(bare).__name__}`{how} mixes them up: "
        f"{reason}, so what it predicts for a sample depends on the samples before it. Pad the samples instead, such "
        "as with `DataCollatorForSeq2Seq`, or use a model, an attention and a collator that keep them apart."
    )
