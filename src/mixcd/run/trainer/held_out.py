"""Held-out data: what the base model got right there, and what the model as it is now still does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import Trainer

from mixcd.matter.base_model.batched_inference import list_inputs
from mixcd.matter.base_model.prior_pass import PriorPass
from mixcd.matter.base_model.prior_predictions import PriorPredictions, assign_bins, complete_predictions
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.correctness.reading import apply_tolerance
from mixcd.matter.prior_and_new_data.prior_dataset import SOURCE_COLUMN, PriorDataset
from mixcd.matter.prior_and_new_data.split_choice import choose_held_out
from mixcd.run.outcome.evaluation import DamagedSample, Evaluation, TaskChange, compare_bins, compare_correctness
from mixcd.run.trainer.same_as_training import require_same_settings
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.run.trainer.trainer_predictions import inference_of, predict_now
from mixcd.words.vocabulary import Flags, Partition, PartitionStrategy

TEXT_START = 400
"""Characters of a text that are kept."""


@dataclass(frozen=True)
class HeldOut:
    """One task's held-out data, with the base model's predictions.

    Args:
        data: The data, prepared.
        before: What the base model predicted for them.
    """

    data: PriorDataset
    before: PriorPredictions


def collect_held_out(trainer: Trainer, held_out: Any, column_names: tuple[str, ...]) -> dict[str, PriorDataset]:
    """Collect the held-out data of both tasks.

    Args:
        trainer: The trainer; its `eval_dataset`, when it is one dataset, is the new task's.
        held_out: The prior task's.
        column_names: The columns that the partition reads.

    Returns:
        The data by task, "prior" and "new".

    Raises:
        DataError: If the data are empty, not map-style, or lack a column.
    """
    data = {"prior": PriorDataset(prepare_raw(trainer, choose_held_out(held_out, "held_out"), "held_out"), "held_out")}
    for name in column_names:
        data["prior"].column(name)  # refused now if it is missing, not after training
    new_data = trainer.eval_dataset
    if new_data is not None and not isinstance(new_data, Mapping):
        data["new"] = PriorDataset(new_data, "trainer.eval_dataset")
    return data


def predict_held_out(
    trainer: Trainer, held_out: Mapping[str, PriorDataset], cache_dir: Path, rule: CorrectnessRule
) -> dict[str, HeldOut]:
    """Predict held-out data with the base model, or read its predictions from the cache.

    Args:
        trainer: The trainer, with the base model.
        held_out: The data by task.
        cache_dir: The folder of the prior data's cache.
        rule: Says which predictions are right.

    Returns:
        The data with their predictions, by task.

    Raises:
        RehearsalError: Whatever `predict_prior` raises.
    """
    passes = {task: PriorPass(inference_of(trainer, data, rule).checked()) for task, data in held_out.items()}
    return {
        task: HeldOut(held_out[task], complete_predictions(one, cache_dir / f"held_out_{task}", least_share_right=0.0))
        for task, one in passes.items()
    }


def evaluate_held_out(
    trainer: Trainer, held_out: Mapping[str, HeldOut], strategy: PartitionStrategy, rule: CorrectnessRule
) -> Evaluation:
    """Compare the trainer's model as it is now with the base model.

    Args:
        trainer: The trainer.
        held_out: The data and the base model's predictions, by task; "prior" must be there.
        strategy: Gives the damaged samples their bins.
        rule: Says which predictions are right.

    Returns:
        Scores before and after, those of each prior data set too, and the damaged prior samples.

    Raises:
        UnsupportedTrainerError: If the model now computes with other settings than the base model did.
    """
    require_same_settings(trainer, held_out["prior"].before)
    after = {task: predict_now(trainer, one.data, rule) for task, one in held_out.items()}
    for task, found in after.items():
        found["correct"] = apply_tolerance(rule, found["correct"], found["loss"], held_out[task].before.loss)
    changes = {task: compare_correctness(one.before.correct, after[task]["correct"]) for task, one in held_out.items()}
    bin_names = _name_bins(strategy, held_out["prior"].data, held_out["prior"].before)
    damaged = _list_damaged(held_out["prior"], after["prior"], bin_names, trainer.processing_class)
    sets = _compare_sets(held_out["prior"], after["prior"]["correct"])
    bins = _compare_bins(held_out["prior"], after["prior"]["correct"], bin_names)
    noise = held_out["prior"].before.false_damage_rate
    return Evaluation(changes["prior"], changes.get("new"), damaged, sets, bins, noise)


def _compare_sets(held_out: HeldOut, after: Flags) -> dict[str, TaskChange]:
    """The change of each prior data set, when several were given by name."""
    if not held_out.data.set_names:
        return {}
    sources = held_out.data.column(SOURCE_COLUMN)
    return {
        name: compare_correctness(held_out.before.correct[sources == name], after[sources == name])
        for name in held_out.data.set_names
    }


def _compare_bins(held_out: HeldOut, after: Flags, bin_names: Sequence[str]) -> dict[str, TaskChange]:
    """The change of each bin, in the order of their names; none where samples have no bins."""
    names, numbers = np.unique(np.array(bin_names), return_inverse=True)
    if "" in names:
        return {}
    changes = compare_bins(Partition(numbers, tuple(names)), held_out.before.correct, after)
    return dict(zip(names.tolist(), changes, strict=True))


def _list_damaged(
    held_out: HeldOut, after: Mapping[str, NDArray[Any]], bin_names: Sequence[str], tokenizer: Any
) -> list[DamagedSample]:
    data, before = held_out.data, held_out.before
    damaged = np.flatnonzero(before.correct & ~after["correct"])
    return [
        DamagedSample(
            sample_id=int(sample_id),
            bin_name=bin_names[int(sample_id)],
            label=None if before.prediction is None else int(before.prediction[sample_id]),
            prediction=None if "prediction" not in after else int(after["prediction"][sample_id]),
            text=text_of(row, tokenizer),
        )
        for sample_id, row in zip(damaged, data.rows(damaged.tolist()), strict=True)
    ]


def _name_bins(strategy: PartitionStrategy, data: PriorDataset, before: PriorPredictions) -> Sequence[str]:
    """Each sample's bin; none for clusters, whose centres belong to the rehearsed data."""
    if strategy.reads_features:
        return [""] * len(data)
    partition = assign_bins(strategy, data, before)
    return [partition.bin_names[number] for number in partition.bin_ids]


def text_of(row: Any, tokenizer: Any) -> str:
    """Return how the text of a prepared row starts: its longest text, or what its tokens say; else nothing.

    Args:
        row: The row.
        tokenizer: Turns tokens into text again; or None.
    """
    if not isinstance(row, Mapping):
        return ""
    texts = [value for value in row.values() if isinstance(value, str)]
    if texts:
        return max(texts, key=len)[:TEXT_START]
    if tokenizer is not None and "input_ids" in row:
        texts = [str(tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in list_inputs(row)]
        return " | ".join(texts)[:TEXT_START]
    return ""
