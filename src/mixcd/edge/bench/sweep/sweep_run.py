"""One run of a sweep: fine-tune the task's base model by one method, and judge it on held-out data."""

import copy
import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PrinterCallback, Trainer, set_seed

from mixcd.edge.bench.sweep.sweep_method import Method, ProbeSettings, choose_estimator
from mixcd.edge.bench.sweep.sweep_task import MakeTrainer, SweepTask
from mixcd.edge.bench.sweep.wise_ft import average_weights
from mixcd.ideas.probe import Probe, probe_cost
from mixcd.matter.base_model.batched_inference import evaluating
from mixcd.matter.base_model.token_bits import compare_tokens, pack_samples
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.evaluation import TaskChange, compare_correctness
from mixcd.run.outcome.provenance import describe_software
from mixcd.run.trainer.attach import Rehearsal, attach
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.run.trainer.trainer_predictions import predict_now
from mixcd.run.trainer.trainer_support import rule_of
from mixcd.words.errors import DataError, SettingError
from mixcd.words.vocabulary import Flags

_LENGTH_ROWS = 500
_LEAST_HELD_OUT = 2


@dataclass(frozen=True)
class RunSpec:
    """Which run.

    Args:
        mix_ratio: β; 0 without rehearsal.
        seed: Of data order, draws and all else.
        features: Features a sample to cache; all runs of one cache ask for the same.
    """

    method: Method
    mix_ratio: float
    seed: int
    features: int


def require_task(task: Any) -> None:
    """Refuse what a task function returned when no run could be made of it.

    Raises:
        SettingError: If it is no task, or sets no steps.
        DataError: If it holds out too few rows for a validation and a test half.
    """
    if not isinstance(task, SweepTask):
        raise SettingError(f"The task function returned a {type(task).__name__}, but it must return a `SweepTask`.")
    if int(task.training.get("max_steps", 0)) < 1:
        raise SettingError(
            "The task's `training` sets no `max_steps`, but a sweep compares methods at equal compute. Set it."
        )
    for name in ("held_out_prior", "held_out_new"):
        if len(PriorDataset(getattr(task, name), name)) < _LEAST_HELD_OUT:
            raise DataError(
                f"The task's `{name}` has fewer than {_LEAST_HELD_OUT} rows, but choices are made on one half of them "
                "and results reported on the other. Hold out more."
            )


class Judge:
    """Judges models on a task's held-out data, against the base model."""

    def __init__(self, task: SweepTask, folder: Path) -> None:
        trainer = (task.make_trainer or make_plain_trainer)(task, {}, trainer_arguments(task, folder, {}, 1, 0))
        self._held_out = {
            "prior": PriorDataset(prepare_raw(trainer, task.held_out_prior, "held_out_prior"), "held_out_prior"),
            "new": PriorDataset(prepare_raw(trainer, task.held_out_new, "held_out_new"), "held_out_new"),
        }
        self._correctness, self._measure = task.correctness, task.measure
        self._before = self._predict(trainer)
        self._measured_before = self._take_measures(trainer)

    def judge(self, trainer: Trainer) -> dict[str, Any]:
        """Return scores before and after on both tasks and halves, the damaged shares, and what else is measured."""
        after = self._predict(trainer)
        measured = {"before": self._measured_before, "after": self._take_measures(trainer)}
        scores: dict[str, Any] = {"measures": json.dumps(measured, sort_keys=True)}
        for half in ("validation", "test"):
            for task in ("prior", "new"):
                change = _compare_half(self._before[task], after[task], half).lead
                scores[f"{task}_before_{half}"] = change.score_before
                scores[f"{task}_after_{half}"] = change.score_after
                if task == "prior":
                    scores[f"damaged_{half}"] = change.damaged_share
        return scores

    def _predict(self, trainer: Trainer) -> dict[str, "_Predicted"]:
        found = {}
        for task, data in self._held_out.items():
            rule = rule_of(trainer, data, self._correctness)
            predicted = predict_now(trainer, data, rule)
            found[task] = _Predicted(predicted["correct"], predicted["right_tokens"] if rule.is_graded else None)
        return found

    def _take_measures(self, trainer: Trainer) -> dict[str, float]:
        if self._measure is None:
            return {}
        model = cast(torch.nn.Module, trainer.model)
        with evaluating(model):
            return dict(self._measure(model))


@dataclass(frozen=True)
class _Predicted:
    """What a model has right of some samples, and which of their target tokens, where damage is counted by token."""

    correct: Flags
    right_tokens: NDArray[Any] | None


def _compare_half(before: _Predicted, after: _Predicted, half: str) -> TaskChange:
    middle = len(before.correct) // 2
    part = slice(0, middle) if half == "validation" else slice(middle, None)
    if before.right_tokens is None or after.right_tokens is None:
        return compare_correctness(before.correct[part], after.correct[part])
    was, now = before.right_tokens[part].tolist(), after.right_tokens[part].tolist()
    places = np.arange(len(was))
    change = compare_tokens(pack_samples(was), places, now, places)
    return compare_correctness(before.correct[part], after.correct[part], change, is_graded=True)


def run_once(
    task: SweepTask, spec: RunSpec, folder: Path, judge: Judge, make_trainer: MakeTrainer
) -> list[dict[str, Any]]:
    """Fine-tune once, and judge what came of it.

    Args:
        task: What every run of the seed starts from. It is left as it was.
        folder: The seed's folder: prediction caches are shared there.

    Returns:
        The run's row of the results, and one for each average with the base model; without task and method names.

    Raises:
        SettingError: If a probe costs so much that no step is left.
    """
    method = spec.method
    started = datetime.now(UTC).isoformat(timespec="seconds")
    probe, extra = _make_probe(method, task, spec.mix_ratio)
    steps = _count_steps(task, method.probe, extra)
    set_seed(spec.seed)
    arguments = trainer_arguments(task, folder, method.training, steps, spec.seed)
    trainer = make_trainer(task, method.trainer_settings, arguments)
    trainer.remove_callback(PrinterCallback)
    base_weights = _copy_weights(trainer)
    forwards = _count_forwards(trainer)
    rehearsal = _attach(trainer, task, spec, probe, folder) if method.estimator else None
    if hasattr(trainer, "rehearsal"):
        trainer.rehearsal = rehearsal
    before, start = len(forwards), time.perf_counter()
    trainer.train()
    seconds, forward_count = time.perf_counter() - start, len(forwards) - before
    common = {
        "mix_ratio": spec.mix_ratio,
        "seed": spec.seed,
        **_describe_rehearsal(rehearsal),
        "steps": steps,
        "extra_compute": extra,
        "is_charged": method.probe is None or method.probe.is_charged,
        "forward_count": forward_count,
        "seconds": seconds,
        "provenance": json.dumps(_describe_machine(started, rehearsal), sort_keys=True),
    }
    tuned = _copy_weights(trainer)
    rows = []
    for share in (1.0, *method.wise_ft):
        cast(torch.nn.Module, trainer.model).load_state_dict(average_weights(base_weights, tuned, share))
        rows.append({**common, "wise_ft": share, **judge.judge(trainer)})
    return rows


def make_plain_trainer(task: SweepTask, settings: Mapping[str, Any], arguments: dict[str, Any]) -> Trainer:
    """Make the task's kind of trainer, a `transformers.Trainer` by default.

    Raises:
        SettingError: If there are settings.
    """
    if settings:
        raise SettingError(
            f"`trainer_settings` are {dict(settings)}, but the method names no `trainer` that takes them. Name it, or "
            "remove them."
        )
    return task.trainer_class(**arguments)


def trainer_arguments(
    task: SweepTask, folder: Path, changes: Mapping[str, Any], steps: int, seed: int
) -> dict[str, Any]:
    """Return what `Trainer` takes, with a fresh copy of the base model.

    Args:
        changes: Changes to the task's `TrainingArguments`.
    """
    quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True}
    settings = {**quiet, "dataloader_pin_memory": False, **task.training, **changes, "max_steps": steps, "seed": seed}
    return {
        "model": copy.deepcopy(task.model),
        "args": task.arguments_class(output_dir=str(folder / "trainer"), **settings),
        "train_dataset": task.new,
        "data_collator": task.collate_fn,
        "processing_class": task.processing_class,
        "callbacks": list(task.callbacks),
    }


def _attach(trainer: Trainer, task: SweepTask, spec: RunSpec, probe: Probe | None, folder: Path) -> Rehearsal:
    method = spec.method
    return attach(
        trainer,
        task.prior,
        mix_ratio=spec.mix_ratio,
        mix_unit=method.mix_unit,
        partition=method.partition,
        estimator=choose_estimator(method),
        correctness=task.correctness,
        cache_dir=folder / f"cache-{_name_model(method)}-{spec.features}",
        features=spec.features,
        floor=method.floor,
        probe=probe,
        lag=method.lag,
        seed=spec.seed,
    )


def _name_model(method: Method) -> str:
    """Name the model that makes the prior pass: a trainer of one's own may change it, as LoRA does."""
    if method.trainer is None:
        return "plain"
    owner = method.trainer.rpartition(":")[2]
    settings = json.dumps(dict(method.trainer_settings), sort_keys=True)
    return f"{owner}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _count_steps(task: SweepTask, probe: ProbeSettings | None, extra: float) -> int:
    """The steps of a run: a charged probe costs some, so that all runs take as much compute."""
    wanted = int(task.training["max_steps"])
    steps = int(wanted / (1 + extra)) if probe and probe.is_charged else wanted
    if steps < 1:
        raise SettingError(
            f"The method's probe costs {extra:.3g} times the training, so none of {wanted} steps is left. Probe fewer "
            "samples, or less often."
        )
    return steps


def _make_probe(method: Method, task: SweepTask, mix_ratio: float) -> tuple[Probe | None, float]:
    """The probe of a run, and what it costs as a share of training."""
    settings, training = method.probe, {**task.training, **method.training}
    if settings is None:
        return None, 0.0
    rows = int(training.get("per_device_train_batch_size", 8))
    rows *= int(training.get("gradient_accumulation_steps", 1))
    sample_count = settings.sample_count or round((settings.samples_a_draw or 1) * mix_ratio * rows)
    probe = Probe(max(1, sample_count), settings.every, cast(Any, settings.use))
    prior_tokens, new_tokens = _mean_length(task.prior), _mean_length(task.new)
    step_tokens = rows * (mix_ratio * prior_tokens + (1 - mix_ratio) * new_tokens)
    return probe, probe_cost(probe, prior_tokens=prior_tokens, step_tokens=step_tokens)


def _mean_length(data: Any) -> float:
    """Mean tokens of some evenly spaced rows; 1 for rows without tokens."""
    rows = PriorDataset(data)
    chosen = np.unique(np.linspace(0, len(rows) - 1, _LENGTH_ROWS).astype(int))
    lengths = [len(row["input_ids"]) if "input_ids" in row else 1 for row in rows.rows(chosen.tolist())]
    return float(np.mean(lengths))


def _describe_rehearsal(rehearsal: Rehearsal | None) -> dict[str, Any]:
    if rehearsal is None:
        return {"observed_count": 0, "damaged_count": 0, "lift": None, "prior_pass_forward_count": 0}
    lift = rehearsal.vitals().lift
    return {
        "observed_count": int(rehearsal.counts.observed_count.sum()),
        "damaged_count": round(rehearsal.counts.damaged_count.sum()),
        "lift": lift if np.isfinite(lift) else None,
        "prior_pass_forward_count": rehearsal.predictions.forward_count,
    }


def _describe_machine(started: str, rehearsal: Rehearsal | None) -> dict[str, Any]:
    return {
        "started": started,
        "versions": describe_software(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "sources": dict(rehearsal.predictions.sources) if rehearsal else {},
    }


def _copy_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    model = cast(torch.nn.Module, trainer.model)
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def _count_forwards(trainer: Trainer) -> list[None]:
    """Return a list that grows by one with every forward pass of the model, the probe's included."""
    forwards: list[None] = []
    cast(torch.nn.Module, trainer.model).register_forward_hook(lambda *_: forwards.append(None))
    return forwards
