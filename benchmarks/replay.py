"""The replay bench: judge estimators offline, in seconds, on what recorded runs showed.

    python benchmarks/replay.py tweets newsgroups_r8 --seeds 0 1 2 3 4
    python benchmarks/replay.py interface --lane translation --seeds 0

A run with uniform rehearsal (fast lane, β = 1/8) is recorded once a task and seed: the logits and losses of all
rehearsed samples, and full predictions on a pool of 3,000 prior samples at a few steps. Then each estimator is fed
the observations, and its weights over the pool are held against the truth, with the belief of `LAG` steps before.

Selectivity: (mean damage under its weights − mean damage) / (the same for the oracle − mean damage), where damage is
the drop in the target's probability and the oracle draws in proportion to it. Lift: share of damaged samples under its
weights over their share in the pool. Both say how well draws are aimed, not what they gain; training says that.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from scipy.stats import t as student
from transformers import TrainerCallback

from mixcd.edge.bench.rival_estimators import FixedWeights, NothingLearnt
from mixcd.edge.bench.sweep.find_task import load_function
from mixcd.edge.bench.sweep.sweep_run import make_plain_trainer, trainer_arguments
from mixcd.ideas.collateral_damage_estimator import CountEstimator, DriftEstimator
from mixcd.ideas.partition_strategy import ByFeatures, ByPriorLoss
from mixcd.ideas.sampling_scheduler import FLOOR, mix_with_floor
from mixcd.matter.base_model.prior_predictions import PriorPredictions
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.attach import attach
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.run.trainer.trainer_predictions import inference_of
from mixcd.run.trainer.trainer_support import rule_of
from mixcd.words.files import replace_file
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Belief, CollateralDamageEstimator, Floats, Ids, Observation, Partition, PriorTable

HERE = Path(__file__).parent
MIX_RATIO = 1 / 8
LAG = 8
POOL_SIZE = 3000
POOL_SHARES = (0.07, 0.17, 0.34, 0.67, 0.99)
"""When the pool is predicted, as shares of the run's steps."""


@dataclass(frozen=True)
class Recording:
    """One recorded run.

    Args:
        arrays: The base model's `base_logits`, `features`, `base_loss`, `prediction`, `base_correct` on all prior
            samples; `ids`, `logits`, `loss`, `correct`, `step` of the rehearsed ones; `pool_ids`, and `pool_loss` and
            `pool_correct` at each of `pool_steps`.
    """

    arrays: Mapping[str, NDArray[Any]]

    def observations(self, last_step: int) -> Sequence[Observation]:
        """Return what was observed in the first steps, one observation a step."""
        step = self.arrays["step"]
        columns = [self.arrays[name] for name in ("ids", "correct", "loss", "logits")]
        return [Observation(*(column[step == one] for column in columns)) for one in range(last_step)]

    def damage(self, number: int) -> Floats:
        """Return the drop in the target's probability of the pool's samples that f had right, at a pool step."""
        pool = self.arrays["pool_ids"]
        drop = np.exp(-self.arrays["base_loss"][pool]) - np.exp(-self.arrays["pool_loss"][number])
        return np.where(self.arrays["base_correct"][pool], drop, 0.0)

    def damaged(self, number: int) -> NDArray[np.bool_]:
        """Return which of the pool's samples are damaged at a pool step."""
        damaged: NDArray[np.bool_] = self.arrays["base_correct"][self.arrays["pool_ids"]]
        return damaged & ~self.arrays["pool_correct"][number]


@dataclass(frozen=True)
class Recorder(CollateralDamageEstimator[NothingLearnt]):
    """Uniform rehearsal that keeps what it observes."""

    sample_count: int
    seen: list[Observation]

    reads_logits = True

    def init(self) -> NothingLearnt:
        """Return the only state."""
        return NothingLearnt()

    def update(self, state: NothingLearnt, observation: Observation) -> NothingLearnt:
        """Keep the observation."""
        self.seen.append(observation)
        return state

    def belief(self, state: NothingLearnt) -> Belief:
        """Return nothing."""
        del state
        return ()

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return equal weights."""
        del belief
        return np.ones(sample_ids.size)


class PoolWatcher(TrainerCallback):
    """Predicts the pool at some steps."""

    def __init__(
        self, trainer: Any, prior: PriorDataset, pool_ids: Ids, steps: Sequence[int], rule: CorrectnessRule
    ) -> None:
        self._trainer, self._prior, self._pool_ids, self._steps, self._rule = trainer, prior, pool_ids, steps, rule
        self.seen: list[Observation] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Predict when it is time."""
        if state.global_step in self._steps:
            observation, _count = inference_of(self._trainer, self._prior, self._rule).observe(self._pool_ids)
            self.seen.append(observation)


def record(lane: str, task_name: str, seed: int) -> Recording:
    """Record a run, or read the recording."""
    path = HERE / "work" / "replay" / f"{lane}-{task_name}-{seed}.safetensors"
    if path.exists():
        return Recording(load_file(path))
    folder = HERE / "work" / f"{lane.removesuffix('_lane')}-{task_name}" / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    task = load_function(f"{HERE / 'tasks' / lane}.py:{task_name}")(seed, folder)
    steps = int(task.training["max_steps"])
    trainer = (task.make_trainer or make_plain_trainer)(task, {}, trainer_arguments(task, folder, {}, steps, seed))
    seen: list[Observation] = []
    prior = PriorDataset(prepare_raw(trainer, task.prior, "prior"))
    rehearsal = attach(
        trainer,
        task.prior,
        mix_ratio=MIX_RATIO,
        correctness=task.correctness,
        estimator=lambda _, predictions: Recorder(predictions.sample_count, seen),
        cache_dir=folder / "cache-plain-64",
        features=64,
        seed=seed,
    )
    rng = keyed_generator(seed, 0, Stream.CONTROLS)
    pool_ids = rng.choice(len(prior), min(POOL_SIZE, len(prior)), replace=False)
    pool_steps = [round(share * steps) for share in POOL_SHARES]
    watcher = PoolWatcher(trainer, prior, pool_ids, pool_steps, rule_of(trainer, prior, task.correctness))
    trainer.add_callback(watcher)
    trainer.train()
    arrays = _collect(rehearsal.predictions, seen)
    arrays |= {"pool_ids": pool_ids, "pool_steps": np.array(pool_steps)}
    arrays["pool_loss"] = np.stack([one.loss for one in watcher.seen])
    arrays["pool_correct"] = np.stack([one.correct for one in watcher.seen])
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replace_file(path) as unfinished:
        save_file(whole, unfinished)
    return Recording(whole)


def _collect(predictions: PriorPredictions, seen: Sequence[Observation]) -> dict[str, NDArray[Any]]:
    return {
        "base_logits": np.asarray(predictions.arrays["logits"]),
        "features": np.asarray(predictions.arrays["features"]),
        "base_loss": predictions.loss,
        "prediction": predictions.classes.astype(np.int64),
        "base_correct": predictions.correct,
        "ids": np.concatenate([one.sample_ids for one in seen]),
        "logits": np.concatenate([one.logits for one in seen]),
        "loss": np.concatenate([one.loss for one in seen]),
        "correct": np.concatenate([one.correct for one in seen]),
        "step": np.repeat(np.arange(len(seen)), [one.sample_ids.size for one in seen]),
    }


MakeEstimator = Callable[[Mapping[str, NDArray[Any]]], Any]


def _drift(
    features: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]] = lambda arrays: arrays["features"], **settings: Any
) -> MakeEstimator:
    return lambda arrays: DriftEstimator(
        arrays["base_logits"], features(arrays), arrays["prediction"], arrays["base_correct"], **settings
    )


def _with_logits(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    logits = arrays["base_logits"].astype(np.float32)
    spread = np.where(logits.std(0) > 0, logits.std(0), 1.0)  # "right" has the logit 0 everywhere
    return np.hstack([arrays["features"], (logits - logits.mean(0)) / spread])


def _with_labels(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    return np.hstack([arrays["features"], np.eye(arrays["base_logits"].shape[1])[arrays["prediction"]]])


def _with_confidence(arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """One-hot labels, alone and times the base model's probability of the label."""
    probability = softmax(arrays["base_logits"].astype(np.float64), axis=1)
    one_hot = np.eye(probability.shape[1])[arrays["prediction"]]
    return np.hstack([arrays["features"], one_hot, one_hot * probability])


def _bins(arrays: Mapping[str, NDArray[Any]], count: int) -> Partition:
    return ByPriorLoss(count).assign(PriorTable(arrays["base_loss"]))


def _counts(count: int, **settings: Any) -> MakeEstimator:
    return lambda arrays: CountEstimator(_bins(arrays, count), arrays["base_correct"], **settings)


def _feature_bins(count: int, **settings: Any) -> MakeEstimator:
    def make(arrays: Mapping[str, NDArray[Any]]) -> CountEstimator:
        table = PriorTable(arrays["base_loss"], features=arrays["features"])
        return CountEstimator(ByFeatures(count).assign(table), arrays["base_correct"], **settings)

    return make


def _loss_drift(**settings: Any) -> MakeEstimator:
    """Drift of the loss: being wrong is e^loss / 2 times as likely as being right."""

    def to_logits(loss: NDArray[Any]) -> NDArray[Any]:
        return np.stack([np.zeros(len(loss)), loss - np.log(2)], axis=1)

    @dataclass(frozen=True)
    class OfLoss:
        drift: DriftEstimator

        def init(self) -> Any:
            return self.drift.init()

        def update(self, state: Any, observation: Observation) -> Any:
            return self.drift.update(state, replace(observation, logits=to_logits(observation.loss)))

        def belief(self, state: Any) -> Belief:
            return self.drift.belief(state)

        def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
            return self.drift.damage_probability(belief, sample_ids)

    return lambda arrays: OfLoss(
        DriftEstimator(
            to_logits(arrays["base_loss"]),
            arrays["features"],
            np.zeros(len(arrays["base_loss"]), dtype=np.int64),
            arrays["base_correct"],
            **settings,
        )
    )


@dataclass(frozen=True)
class Tracked:
    """The state of `ProcessNoise`: coefficients, their covariance over s², and the drift estimator's own state."""

    coefficients: Floats
    covariance: Floats
    drift: Any


@dataclass(frozen=True)
class ProcessNoise:
    """Recursive least squares in which the coefficients wander by q a step, in the place of the discount."""

    drift: DriftEstimator
    wander: float

    def init(self) -> Tracked:
        """Return no drift, known as well as the ridge says."""
        state = self.drift.init()
        return Tracked(state.cross, np.eye(len(state.cross)) / self.drift.ridge, state)

    def update(self, state: Tracked, observation: Observation) -> Tracked:
        """Take in one step: wander, then correct by the gain."""
        assert observation.logits is not None  # noqa: S101
        ids = observation.sample_ids
        phi = np.hstack([self.drift.features[ids], np.ones((ids.size, 1))]).astype(np.float64)
        covariance = state.covariance + self.wander * np.eye(len(state.covariance))
        error = observation.logits - self.drift.base_logits[ids] - phi @ state.coefficients
        gain = covariance @ phi.T @ np.linalg.inv(np.eye(ids.size) + phi @ covariance @ phi.T)
        covariance = covariance - gain @ phi @ covariance
        learnt = self.drift.update(state.drift, observation)  # for its residual spread s²
        return Tracked(state.coefficients + gain @ error, (covariance + covariance.T) / 2, learnt)

    def belief(self, state: Tracked) -> Belief:
        """Return what `DriftEstimator` returns."""
        return state.coefficients, state.covariance, state.drift.squared_error / state.drift.weight

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the chance of damage."""
        return self.drift.damage_probability(belief, sample_ids)


@dataclass(frozen=True)
class Remembered:
    """The state of `Memory`: the drift estimator's, and each sample's last forecast error, fading."""

    drift: Any
    error: Floats


@dataclass(frozen=True)
class Memory:
    """Adds to a sample's forecast what it was off by when the sample was last seen, fading from step to step."""

    drift: DriftEstimator
    fading: float

    def init(self) -> Remembered:
        """Return no errors."""
        return Remembered(self.drift.init(), np.zeros(self.drift.base_logits.shape))

    def update(self, state: Remembered, observation: Observation) -> Remembered:
        """Take in one step."""
        assert observation.logits is not None  # noqa: S101
        ids = observation.sample_ids
        learnt = self.drift.update(state.drift, observation)
        phi = np.hstack([self.drift.features[ids], np.ones((ids.size, 1))]).astype(np.float64)
        error = self.fading * state.error
        error[ids] = observation.logits - self.drift.base_logits[ids] - phi @ self.drift.belief(learnt)[0]
        return Remembered(learnt, error)

    def belief(self, state: Remembered) -> Belief:
        """Return the drift estimator's belief and the errors."""
        return (*self.drift.belief(state.drift), state.error)

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the chance of damage of the corrected forecast."""
        *drift, error = belief
        shifted = self.drift.base_logits + error.astype(np.float32)
        return replace(self.drift, base_logits=shifted).damage_probability(tuple(drift), sample_ids)


ESTIMATORS: Mapping[str, MakeEstimator] = {
    "uniform": lambda arrays: FixedWeights(np.ones(arrays["prediction"].size)),
    "right-only": lambda arrays: FixedWeights(arrays["base_correct"].astype(np.float64)),
    "loss bins, 10": _counts(10),
    "loss bins, 40": _counts(40),
    "loss bins, 10, γ .98": _counts(10, discount=0.98),
    "feature bins, 10": _feature_bins(10),
    "feature bins, 40, shrunk": _feature_bins(40, smoothing="shrunk"),
    "drift": _drift(),
    "drift, noise 0": _drift(noise=0.0),
    "drift, noise .3": _drift(noise=0.3),
    "drift, product": _drift(score="product"),
    "drift, product, noise 0": _drift(score="product", noise=0.0),
    "drift, drop": _drift(score="drop"),
    "drift, γ .95": _drift(discount=0.95),
    "drift, γ .99": _drift(discount=0.99),
    "drift, γ 1": _drift(discount=1.0),
    "drift, λ .3": _drift(ridge=0.3),
    "drift, λ 1": _drift(ridge=1.0),
    "drift, λ 10": _drift(ridge=10.0),
    "drift, λ 30": _drift(ridge=30.0),
    "drift, 16 features": _drift(lambda arrays: arrays["features"][:, :16]),
    "drift, 32 features": _drift(lambda arrays: arrays["features"][:, :32]),
    "drift, + logits": _drift(_with_logits),
    "drift, + labels": _drift(_with_labels),
    "drift, + labels × confidence": _drift(_with_confidence),
    "drift, no features": _drift(lambda arrays: arrays["features"][:, :0]),
    "drift, no features, noise 0": _drift(lambda arrays: arrays["features"][:, :0], noise=0.0),
    "drift of the loss": _loss_drift(),
    "drift of the loss, drop": _loss_drift(score="drop"),
    "drift, logits only": _drift(lambda arrays: _with_logits(arrays)[:, 64:]),
    "drift, process noise .001": lambda arrays: ProcessNoise(_drift()(arrays), 0.001),
    "drift, process noise .01": lambda arrays: ProcessNoise(_drift()(arrays), 0.01),
    "drift, memory fading .98": lambda arrays: Memory(_drift()(arrays), 0.98),
    "drift, memory fading .9": lambda arrays: Memory(_drift()(arrays), 0.9),
    "drift, + logits, noise 0": _drift(_with_logits, noise=0.0),
    "drift, + logits, product": _drift(_with_logits, score="product"),
}


def judge(recording: Recording, make: MakeEstimator) -> list[dict[str, float]]:
    """Return selectivity and lift of an estimator at each pool step."""
    estimator = make(recording.arrays)
    state, pool, judged = estimator.init(), recording.arrays["pool_ids"], []
    beliefs = [estimator.belief(state)]
    for observation in recording.observations(int(recording.arrays["pool_steps"].max())):
        state = estimator.update(state, observation)
        beliefs.append(estimator.belief(state))
    for number, step in enumerate(recording.arrays["pool_steps"].tolist()):
        weights = mix_with_floor(estimator.damage_probability(beliefs[max(0, step - LAG)], pool), FLOOR)
        damage, damaged = recording.damage(number), recording.damaged(number)
        oracle = np.maximum(damage, 0) / np.maximum(damage, 0).sum()
        judged.append(
            {
                "step": step,
                "selectivity": float((weights @ damage - damage.mean()) / (oracle @ damage - damage.mean())),
                "lift": float(weights @ damaged / damaged.mean()),
                "oracle_lift": float(oracle @ damaged / damaged.mean()),
            }
        )
    return judged


def main(arguments: Sequence[str]) -> None:
    """Record, judge, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="functions of the lane's file, such as tweets")
    parser.add_argument(
        "--lane", default="fast_lane", help="the file of `tasks/`: fast_lane, slow_lane, answers, translation, chat"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for task in given.tasks:
        recordings = [record(given.lane, task, seed) for seed in given.seeds]
        result = {name: [judge(one, make) for one in recordings] for name, make in ESTIMATORS.items()}
        path = HERE / "results" / f"replay-{given.lane.removesuffix('_lane')}-{task}.json"
        with replace_file(path) as unfinished:
            unfinished.write_text(json.dumps(result), "utf-8")
        _print(task, result, len(recordings))


def _print(task: str, result: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], seed_count: int) -> None:
    print(f"\n{task}, {seed_count} seeds: mean at {POOL_SHARES} of the steps; ± 95 % t interval of the mean over steps")
    for name, seeds in result.items():
        cells = []
        for quantity in ("selectivity", "lift"):
            values = np.array([[step[quantity] for step in one] for one in seeds])
            of_seed = values.mean(1)
            spread = ""
            if len(of_seed) > 1:
                half = student.ppf(0.975, len(of_seed) - 1) * of_seed.std(ddof=1) / len(of_seed) ** 0.5
                spread = f" ± {half:.2f}"
            steps = " ".join(f"{value:5.2f}" for value in values.mean(0))
            cells.append(f"{quantity} {steps} | {of_seed.mean():5.2f}{spread}")
        print(f"  {name:30} " + "   ".join(cells))


if __name__ == "__main__":
    main(sys.argv[1:])
