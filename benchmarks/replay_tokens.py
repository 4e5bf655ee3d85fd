"""The replay bench for damage by token: judge what to count as damage offline, on what recorded runs showed.

    python benchmarks/replay_tokens.py translation:interface_by_token plain_text:dialogue --seeds 0 1 2

A run with uniform rehearsal (β = 1/8) is recorded once a task and seed: the target tokens of all rehearsed samples,
lost and gained, and those of a pool of prior samples at a few steps. Then each measure of damage is counted in bins of
prior loss, and its weights over the pool are held against the truth, with the belief of `LAG` steps before.

Damage is that by token: of a sample's tokens that were right, the share that is wrong now. Selectivity: (mean damage
under the weights − mean damage) / (the same for draws in proportion to damage itself − mean damage). Lift: mean damage
under the weights over mean damage; of tokens: the same of how many tokens a sample lost. All say how well draws are
aimed, not what they gain; training says that.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.stats import t as student
from transformers import PrinterCallback, TrainerCallback

from mixcd.edge.bench.rival_estimators import RIVALS, NothingLearnt
from mixcd.edge.bench.sweep.find_task import load_function
from mixcd.edge.bench.sweep.sweep_run import make_plain_trainer, trainer_arguments
from mixcd.ideas.collateral_damage_estimator import ESTIMATORS
from mixcd.ideas.partition_strategy import ByPriorLoss
from mixcd.ideas.sampling_scheduler import FLOOR, mix_with_floor
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.attach import Rehearsal, attach
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.run.trainer.trainer_predictions import inference_of
from mixcd.run.trainer.trainer_support import rule_of
from mixcd.words.files import replace_file
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import (
    Belief,
    CollateralDamageEstimator,
    EstimatorSettings,
    Floats,
    Ids,
    Observation,
    PriorTable,
    TokenChange,
)

HERE = Path(__file__).parent
MIX_RATIO, LAG, BINS = 1 / 8, 8, 10
POOL_SIZE = 1500
POOL_SHARES = (0.2, 0.5, 0.99)
"""When the pool is predicted, as shares of the run's steps."""
MEASURES: Mapping[str, Callable[[], EstimatorSettings]] = {
    "uniform": ESTIMATORS["uniform"],
    "counts": ESTIMATORS["counts"],
    "paper": ESTIMATORS["paper"],
    **{name: RIVALS[name] for name in ("by-loss-increase", "by-target-share", "by-whole-sample")},
}


@dataclass(frozen=True)
class Predictions:
    """What an estimator is bound to, of a recording that holds all samples' losses."""

    loss: Floats
    correct: NDArray[np.bool_]

    @property
    def sample_count(self) -> int:
        """The number of prior samples."""
        return len(self.loss)

    @property
    def sample_ids(self) -> Ids:
        """All samples."""
        return np.arange(len(self.loss))

    @property
    def base_loss(self) -> Floats:
        """Their losses."""
        return self.loss

    @property
    def base_correct(self) -> NDArray[np.bool_]:
        """Which were right as a whole."""
        return self.correct

    @property
    def classes(self) -> Ids:
        """No classes."""
        return np.zeros(len(self.loss), dtype=np.int64)

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float16]]:
        """Neither features nor logits."""
        return {}


@dataclass(frozen=True)
class Recorder(CollateralDamageEstimator[NothingLearnt]):
    """Uniform rehearsal that keeps what it observes."""

    seen: list[Observation]

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

    def __init__(self, observe: Callable[[], Observation], steps: Sequence[int]) -> None:
        self._observe, self._steps = observe, steps
        self.seen: list[Observation] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Predict when it is time."""
        if state.global_step in self._steps:
            self.seen.append(self._observe())


Arrays = Mapping[str, NDArray[Any]]


def record(task_name: str, seed: int, work: Path) -> Arrays:
    """Record a run, or read the recording.

    Args:
        task_name: File and function of `tasks/`, as `plain_text:dialogue`.
        seed: The seed.
        work: The folder of recordings and base models.

    Returns:
        The base model's `base_loss` and `base_correct` on all prior samples; `ids`, `loss`, `correct`, `tokens` (shape
        (rows, 4), as in `TokenChange`) and `step` of the rehearsed ones; `pool_ids`, and `pool_tokens` at `pool_steps`.
    """
    file, function = task_name.split(":")
    path = work / f"replay-{function}-{seed}.safetensors"
    if path.exists():
        return load_file(path)
    folder = work / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    task = load_function(f"{HERE / 'tasks' / file}.py:{function}")(seed, folder)
    steps = int(task.training["max_steps"])
    trainer = (task.make_trainer or make_plain_trainer)(task, {}, trainer_arguments(task, folder, {}, steps, seed))
    trainer.remove_callback(PrinterCallback)
    prior = PriorDataset(prepare_raw(trainer, task.prior, "prior"))
    seen: list[Observation] = []
    with tempfile.TemporaryDirectory() as cache:
        rehearsal = attach(
            trainer,
            task.prior,
            mix_ratio=MIX_RATIO,
            correctness=task.correctness,
            estimator=lambda _, __: Recorder(seen),
            cache_dir=cache,
            seed=seed,
        )
        size = min(POOL_SIZE, len(prior))
        pool_ids = keyed_generator(seed, 0, Stream.CONTROLS).choice(len(prior), size, replace=False)
        rule, compare = rule_of(trainer, prior, task.correctness), rehearsal.predictions.compare_tokens
        pool_steps = [round(share * steps) for share in POOL_SHARES]
        watcher = PoolWatcher(lambda: inference_of(trainer, prior, rule).observe(pool_ids, compare)[0], pool_steps)
        trainer.add_callback(watcher)
        trainer.train()
        whole = _collect(rehearsal, seen)
    whole |= {"pool_ids": pool_ids, "pool_steps": np.array(pool_steps)}
    whole["pool_tokens"] = np.stack([_stack(one) for one in watcher.seen])
    with replace_file(path) as unfinished:
        save_file({name: np.ascontiguousarray(array) for name, array in whole.items()}, unfinished)
    return whole


def _collect(rehearsal: Rehearsal, seen: Sequence[Observation]) -> dict[str, NDArray[Any]]:
    return {
        "base_loss": rehearsal.predictions.base_loss,
        "base_correct": rehearsal.predictions.base_correct,
        **{name: np.concatenate([getattr(one, name) for one in seen]) for name in ("loss", "correct")},
        "ids": np.concatenate([one.sample_ids for one in seen]),
        "tokens": np.concatenate([_stack(one) for one in seen]),
        "step": np.repeat(np.arange(len(seen)), [one.sample_ids.size for one in seen]),
    }


def _stack(observation: Observation) -> NDArray[np.int64]:
    return np.stack(list(vars(observation.tokens).values()), axis=1)


def judge(recording: Arrays, make: Callable[[], EstimatorSettings]) -> list[dict[str, float]]:
    """Return selectivity and lifts of what draws by a measure, at each pool step."""
    partition = ByPriorLoss(BINS).assign(PriorTable(recording["base_loss"]))
    settings, predictions = make(), Predictions(recording["base_loss"], recording["base_correct"])
    estimator = settings.bind(settings.choose_bins(partition), predictions)
    state, pool, judged = estimator.init(), recording["pool_ids"], []
    beliefs = [estimator.belief(state)]
    for step in range(int(recording["pool_steps"].max())):
        chosen = recording["step"] == step
        ids, correct, loss = (recording[name][chosen] for name in ("ids", "correct", "loss"))
        tokens = TokenChange(*recording["tokens"][chosen].T)
        state = estimator.update(state, Observation(ids, correct, loss, tokens=tokens))
        beliefs.append(estimator.belief(state))
    floor = FLOOR if settings.floor is None else settings.floor
    for number, step in enumerate(recording["pool_steps"].tolist()):
        weights = mix_with_floor(estimator.damage_probability(beliefs[max(0, step - LAG)], pool), floor)
        change = TokenChange(*recording["pool_tokens"][number].T)
        damage, lost = change.damage, change.lost_count
        oracle = damage / damage.sum()
        judged.append(
            {
                "step": step,
                "selectivity": float((weights @ damage - damage.mean()) / (oracle @ damage - damage.mean())),
                "lift": float(weights @ damage / damage.mean()),
                "token_lift": float(weights @ lost / lost.mean()),
                "oracle_lift": float(oracle @ damage / damage.mean()),
            }
        )
    return judged


def main(arguments: Sequence[str]) -> None:
    """Record, judge, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="file and function of `tasks/`, such as plain_text:dialogue")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--work", type=Path, default=HERE / "work" / "replay_tokens", help="of base models and recordings"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for task in given.tasks:
        name = task.partition(":")[2]
        recordings = [record(task, seed, given.work) for seed in given.seeds]
        result = {measure: [judge(one, make) for one in recordings] for measure, make in MEASURES.items()}
        with replace_file(HERE / "results" / f"replay_tokens-{name}.json") as unfinished:
            unfinished.write_text(json.dumps(result), "utf-8")
        _print(task, result)


def _print(task: str, result: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> None:
    print(f"\n{task}: mean at {POOL_SHARES} of the steps; ± 95 % t interval over seeds")
    for name, seeds in result.items():
        cells = []
        for quantity in ("selectivity", "lift", "token_lift", "oracle_lift"):
            of_seed = np.array([[step[quantity] for step in one] for one in seeds]).mean(1)
            spread = ""
            if len(of_seed) > 1:
                half = student.ppf(0.975, len(of_seed) - 1) * of_seed.std(ddof=1) / len(of_seed) ** 0.5
                spread = f" ± {half:.3f}"
            cells.append(f"{quantity} {of_seed.mean():.3f}{spread}")
        print(f"  {name:20} " + "   ".join(cells))


if __name__ == "__main__":
    main(sys.argv[1:])
