"""The step record: what one training step showed, in a line of the run folder."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import TrainerCallback

from mixcd.matter.fine_tuned_model.prediction_observer import NEW_SAMPLE
from mixcd.run.rehearsal_loop.rehearsal_health import Vitals
from mixcd.words.files import naming_file, replace_file
from mixcd.words.vocabulary import DamageCounts, Floats, Observation


@dataclass(frozen=True)
class StepRecord:
    """What one step's training forward showed.

    Args:
        step: Completed optimizer steps, this one included.
        new_loss: Mean loss of its new samples, in nats; NaN where it was not read, as the model's loss shows no logits.
        prior_loss: Mean loss of its rehearsed samples, in nats; NaN in a step without any.
        prior_share: Share of its samples that were rehearsed.
        observed: Rehearsed samples with a cached base prediction.
        damaged: Those of them found damaged; by token the sum of their damage, each in [0, 1].
    """

    step: int
    new_loss: float
    prior_loss: float
    prior_share: float
    observed: int
    damaged: float


def summarise_step(step: int, trained: Observation, counts: DamageCounts) -> StepRecord:
    """Summarise one step by all that it trained on, where new samples have the id `NEW_SAMPLE`, and by its counts."""
    rehearsed, damaged = trained.sample_ids != NEW_SAMPLE, counts.damaged_count.sum()
    return StepRecord(
        step=step,
        new_loss=_mean(trained.loss[~rehearsed]),
        prior_loss=_mean(trained.loss[rehearsed]),
        prior_share=float(rehearsed.mean()),
        observed=int(counts.observed_count.sum()),
        damaged=float(damaged) if trained.tokens is not None else int(damaged),
    )


class StepRecorder(TrainerCallback):
    """Writes each step's record and the vitals after it, a line of JSON a step, where a kill loses nothing.

    Add it to a trainer after `attach`. A resumed run drops the lines of steps that it does again.
    """

    def __init__(self, path: Path, read_step: Callable[[], StepRecord], read_vitals: Callable[[], Vitals]) -> None:
        self._path = path
        self._read_step = read_step
        self._read_vitals = read_vitals

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the lines of the steps that the checkpoint has."""
        kept = [line for line in read_steps(self._path) if line["step"] <= state.global_step]
        with replace_file(self._path) as unfinished:
            unfinished.write_text("".join(map(_to_line, kept)), "utf-8")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Append a line."""
        line = _to_line({**asdict(self._read_step()), **asdict(self._read_vitals())})
        with naming_file(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line)


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's steps, none if there is no file; a line that a kill cut short is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]


def write_steps(lines: list[dict[str, Any]], path: Path) -> None:
    """Write a run's steps as Parquet."""
    with replace_file(path) as unfinished:
        pq.write_table(pa.Table.from_pylist(lines), unfinished)


def _mean(values: Floats) -> float:
    return float(np.mean(values)) if values.size else float("nan")


def _to_line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
