"""Held-out data: what the base model got right there, and what the model as it is now still does."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixcd.matter.base_model.inference import Infer, Inference
from mixcd.matter.base_model.model_fingerprint import describe_settings
from mixcd.matter.base_model.prediction_cache import differing_settings
from mixcd.matter.base_model.prior_pass import PriorPass
from mixcd.matter.base_model.prior_predictions import PriorPredictions, assign_bins, complete_predictions
from mixcd.matter.correctness.reading import apply_tolerance
from mixcd.matter.prior_and_new_data.prior_dataset import SOURCE_COLUMN, PriorDataset
from mixcd.run.outcome.column_bins import bin_samples, read_column
from mixcd.run.outcome.damaged_samples import list_damaged
from mixcd.run.outcome.evaluation import Evaluation, TaskChange, compare_bins, compare_correctness
from mixcd.run.outcome.generation import BaseTexts, compare_texts, write_base_texts
from mixcd.words.errors import UnsupportedTrainerError
from mixcd.words.vocabulary import Flags, Partition, PartitionStrategy, TokenChange

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """One task's held-out data, with the base model's predictions, and what it wrote by itself if that was asked."""

    data: PriorDataset
    before: PriorPredictions
    texts: BaseTexts | None = None


def name_held_out(prior: Any, new: Any, new_name: str, column_names: Sequence[str]) -> dict[str, PriorDataset]:
    """Check the prepared held-out data of both tasks, and return them by task, "prior" and "new".

    Args:
        prior: None where none are held out, and then the new task's are left out, too.
        new_name: What messages call the new task's.

    Raises:
        DataError: If the data are empty, not map-style, or lack a column.
    """
    if prior is None:
        return {}
    data = {"prior": PriorDataset(prior, "held_out")}
    for name in column_names:
        data["prior"].column(name)  # refused now if it is missing, not after training
    return data if new is None else {**data, "new": PriorDataset(new, new_name)}


def predict_held_out(
    infer: Infer, held_out: Mapping[str, PriorDataset], cache_dir: Path, generate: int | None = None
) -> dict[str, HeldOut]:
    """Predict held-out data with the base model, or read its predictions from folders inside the prior data's cache.

    Args:
        generate: How many samples of each task it writes answers to, besides; None for none.
    """
    found = {}
    for task, data in held_out.items():
        inference, folder = infer(data).checked(), cache_dir / f"held_out_{task}"
        before = complete_predictions(PriorPass(inference), folder, least_share_right=0.0)
        texts = None if generate is None else write_base_texts(inference, before.sources, folder, generate)
        found[task] = HeldOut(data, before, texts)
    return found


def warn_of_rehearsed(prior: PriorPredictions, held_out: Mapping[str, HeldOut]) -> None:
    """Warn when the held-out prior data are the rehearsed ones."""
    if "prior" in held_out and held_out["prior"].before.sources["data"] == prior.sources["data"]:
        logger.warning(
            "`held_out` holds the same rows as `prior_data`, which are rehearsed. Damage on rehearsed samples is less "
            "than on others, so `evaluate()` will look too good. Hold out prior samples that are not in `prior_data`."
        )


def evaluate_held_out(
    infer: Infer,
    held_out: Mapping[str, HeldOut],
    strategy: PartitionStrategy,
    *,
    columns: Sequence[str] = (),
    generate: bool = False,
) -> Evaluation:
    """Compare a model as it is now with the base model.

    Args:
        held_out: The data and the base model's predictions, by task; "prior" must be there.
        columns: Columns of the held-out prior data by which damage is told apart, too.
        generate: Whether the model writes answers, too, where the base model did.

    Raises:
        DataError: If a column is not there, or holds lists.
        UnsupportedTrainerError: If the model now computes with other settings than the base model did.
    """
    prior = held_out["prior"]
    read = {name: read_column(prior.data, name) for name in columns}
    now = infer(prior.data)
    _require_same_settings(now, prior.before)
    changes, after, tokens, is_graded = {}, {}, {}, now.rule.is_graded
    for task, one in held_out.items():
        found = infer(one.data).predict_all()
        found["correct"] = apply_tolerance(now.rule, found["correct"], found["loss"], one.before.loss)
        tokens[task] = _compare_tokens(one, found)
        changes[task] = compare_correctness(one.before.correct, found["correct"], tokens[task], is_graded=is_graded)
        after[task] = found
    bin_names = _name_bins(strategy, prior.data, prior.before)
    damaged = list_damaged(now, prior.before, after["prior"], bin_names)
    flips = _Flips(prior.before.correct, after["prior"]["correct"], tokens["prior"], is_graded)
    sets = _compare_sets(prior.data, flips)
    bins = _compare_bins(flips, bin_names)
    by_column = {
        name: _compare_parts(bin_samples(prior.data, name, column, prior.before.sample_ids, {}), flips)
        for name, column in read.items()
    }
    texts = {
        task: compare_texts(infer(one.data), one.texts) for task, one in held_out.items() if generate and one.texts
    }
    noise = prior.before.false_damage_rate
    return Evaluation(changes["prior"], changes.get("new"), damaged, sets, bins, noise, texts, by_column)


def _require_same_settings(now: Inference, before: PriorPredictions) -> None:
    """Refuse to compare predictions of a model whose settings are no longer those of the base model."""
    with now.autocast():
        changed = differing_settings(before.sources["settings"], describe_settings(now.model))
    if changed:
        raise UnsupportedTrainerError(
            f"The base model predicted with other settings than the model has now: {changed}. Flips between the two "
            "would not be training's. Evaluate with the settings of the base model; `fp16_full_eval` and "
            "`bf16_full_eval` change the model's own weights when a trainer evaluates."
        )


@dataclass(frozen=True)
class _Flips:
    """What was right before and after, shape (samples,), and what became of target tokens, where there are any."""

    before: Flags
    after: Flags
    tokens: TokenChange | None
    is_graded: bool


def _compare_tokens(held_out: HeldOut, after: Mapping[str, NDArray[Any]]) -> TokenChange | None:
    if held_out.before.right_tokens is None or "right_tokens" not in after:
        return None
    return held_out.before.compare_tokens(np.arange(len(held_out.data)), after["right_tokens"].tolist())


def _compare_sets(data: PriorDataset, flips: _Flips) -> dict[str, TaskChange]:
    """The change of each prior data set, when several were given by name."""
    if not data.set_names:
        return {}
    numbers = {name: number for number, name in enumerate(data.set_names)}
    bin_ids = np.array([numbers[name] for name in data.column(SOURCE_COLUMN)])
    return _compare_parts(Partition(bin_ids, tuple(data.set_names)), flips)


def _compare_bins(flips: _Flips, bin_names: Sequence[str]) -> dict[str, TaskChange]:
    """The change of each bin, in the order of their names; none where samples have no bins."""
    names, numbers = np.unique(np.array(bin_names), return_inverse=True)
    return {} if "" in names else _compare_parts(Partition(numbers, tuple(names.tolist())), flips)


def _compare_parts(partition: Partition, flips: _Flips) -> dict[str, TaskChange]:
    changes = compare_bins(partition, flips.before, flips.after, flips.tokens, is_graded=flips.is_graded)
    return dict(zip(partition.bin_names, changes, strict=True))


def _name_bins(strategy: PartitionStrategy, data: PriorDataset, before: PriorPredictions) -> Sequence[str]:
    """Each sample's bin; none for clusters, whose centres belong to the rehearsed data."""
    if strategy.reads_features:
        return [""] * len(data)
    partition = assign_bins(strategy, data, before)
    return [partition.bin_names[number] for number in partition.bin_ids]
