"""The run folder: what a run asked for, how far it got, and what came of it."""

import json
import math
import os
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixcd.matter.base_model.prediction_cache import cached_count, list_parts, read_manifest
from mixcd.run.outcome.evaluation import Evaluation, TaskChange
from mixcd.run.outcome.generation import generation_to_json
from mixcd.run.outcome.step_record import read_steps, write_steps
from mixcd.run.outcome.token_totals import TokenTotals
from mixcd.words.errors import RunFolderError, shorten
from mixcd.words.files import LOCK, UNFINISHED, replace_file

FORMAT = 1

PRIOR_PASS, TRAINING, EVALUATING, STOPPED, FINISHED = "prior pass", "training", "evaluating", "stopped", "finished"
"""The states of a run. A run that was killed keeps the state it was in."""
STATES = (PRIOR_PASS, TRAINING, EVALUATING, STOPPED, FINISHED)
_RECORDED = ("state", "go_on", "cache", "steps_done", "total_steps", "processes", "batch_size", "counters")

_JIT_SENTINEL = "checkpoint-is-incomplete.txt"


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        """The resolved config."""
        self.record = path / "run.json"
        """State, versions, hardware, seeds, counters."""
        self.step_lines = path / "steps.jsonl"
        """A line a step, while training."""
        self.steps = path / "steps.parquet"
        """A row a step, when training is done."""
        self.evaluation = path / "evaluation.json"
        """Scores before and after, flips, intervals, tests."""
        self.damaged = path / "damaged.parquet"
        """The held-out prior samples that were lost."""
        self.report = path / "report.html"
        """All of it on one page."""
        self.model = path / "model"
        """The fine-tuned model."""
        self.checkpoints = path / "checkpoints"
        """The trainer's `output_dir`."""

    def read(self) -> dict[str, Any] | None:
        """Read the record of the run; None when there is none, and nothing but a prediction cache, in the folder.

        Raises:
            RunFolderError: If the folder holds something else, or a record that cannot be read.
        """
        if not self.record.exists():
            self._refuse_foreign()
            return None
        try:
            record: dict[str, Any] = json.loads(self.record.read_text("utf-8"))
            if record["format"] > FORMAT:
                raise RunFolderError(
                    f"`{self.record}` has format {record['format']}, but this version of mixcd reads up to {FORMAT}. "
                    "Upgrade mixcd, or choose another run folder."
                )
            missing = [key for key in _RECORDED if key not in record]
            if missing or record["state"] not in STATES:
                raise ValueError(f"it lacks {missing}" if missing else f"its state is {record['state']!r}")
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, RunFolderError):
                raise
            raise RunFolderError(
                f"`{self.record}` cannot be read: {error}. It must be the JSON file that mixcd wrote. Restore it, or "
                "choose another run folder."
            ) from error
        return record

    def require(self) -> dict[str, Any]:
        """Read the record of a run that must be there; a `RunFolderError` if it is not."""
        record = self.read()
        if record is None:
            raise RunFolderError(f"`{self.path}` holds no run. Name the folder of a run that `mixcd train` made.")
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the record with format and time, whole or not at all."""
        dated = {"format": FORMAT, **record, "updated": datetime.now(UTC).isoformat(timespec="seconds")}
        with replace_file(self.record) as unfinished:
            unfinished.write_text(json.dumps(dated, indent=1) + "\n", "utf-8")

    def finish_steps(self) -> None:
        """Turn the lines of the steps into a table."""
        lines = read_steps(self.step_lines)
        if lines:
            write_steps(lines, self.steps)
        self.step_lines.unlink(missing_ok=True)

    def describe_progress(self, record: Mapping[str, Any]) -> str:
        """End a sentence with how far the run got: such as "finished" or "got as far as step 57 of 300"."""
        if record["state"] == FINISHED:
            return "finished"
        if record["state"] == PRIOR_PASS:
            return f"did not finish its prior pass, {_count_parts(Path(record['cache']))}"
        if record["state"] == EVALUATING:
            return "did not finish its evaluation"
        lines, checkpoint = read_steps(self.step_lines), self.find_checkpoint()
        done = lines[-1]["step"] if lines else 0
        kept = f"its last checkpoint is of step {step_of(checkpoint)}" if checkpoint else "it has no checkpoint"
        return f"got as far as step {done} of {record['total_steps']}, and {kept}"

    def find_checkpoint(self) -> Path | None:
        """Find the folder of the last checkpoint that was written to the end, if there is one."""
        found = [path for path in self.checkpoints.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
        return next((path for path in sorted(found, key=step_of, reverse=True) if _is_whole(path)), None)

    def clear(self) -> None:
        """Delete the run, but for the prediction cache and the lock; a half-deleted run does not pass for finished."""
        with suppress(RunFolderError):  # one that cannot be read passes for nothing
            record = self.read()
            if record is not None and record["state"] == FINISHED:
                self.write({**record, "state": STOPPED})
        for path in (self.checkpoints, self.model):  # first whole ones, so that no later run takes what is left of them
            if path.exists():
                unfinished = path.with_name(path.name + UNFINISHED)
                shutil.rmtree(unfinished, ignore_errors=True)
                os.replace(path, unfinished)
        for path in self._own_files():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Undo the start of a run that was refused: what has just been written goes, an empty folder too."""
        for path in (self.config, self.record, self.path / LOCK):
            path.unlink(missing_ok=True)
        self.drop_empty()

    def drop_empty(self) -> None:
        """Remove the folders that a trainer makes when it is built, if nothing came to lie in them."""
        for folder in (self.checkpoints, self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _own_files(self) -> list[Path]:
        files = (self.config, self.step_lines, self.steps, self.evaluation, self.damaged, self.report, self.record)
        unfinished = self.path.glob(f"*{UNFINISHED}")
        return [*(path for path in (self.model, self.checkpoints) if path.exists()), *unfinished, *files]

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(
                f"`{self.path}` is a file, but a run needs a folder. Set `run` to a new or empty folder."
            )
        own = {"cache", LOCK, *(path.name for path in self._own_files())}
        foreign = sorted(path.name for path in self.path.glob("*") if path.name not in own)
        if foreign:
            raise RunFolderError(
                f"`{self.path}` holds no run of mixcd, but {shorten(f'`{name}`' for name in foreign)}. A run needs a "
                "folder of its own. Set `run` to a new or empty folder."
            )


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint's folder, `checkpoint-STEP`."""
    return int(checkpoint.name.rpartition("-")[2])


def write_evaluation(evaluation: Evaluation, scores: Path, damaged: Path) -> None:
    """Write scores as JSON and damaged samples as Parquet, each file whole or not at all."""
    tasks = {"prior": evaluation.prior, "new": evaluation.new}
    values = {name: change_to_json(change) for name, change in tasks.items() if change is not None}
    for name, changes in (("prior_sets", evaluation.prior_sets), ("bins", evaluation.bins)):
        if changes:
            values[name] = {one: change_to_json(change) for one, change in changes.items()}
    if evaluation.columns:
        values["columns"] = {
            name: {one: change_to_json(change) for one, change in bins.items()}
            for name, bins in evaluation.columns.items()
        }
    if evaluation.generation:
        values["generation"] = {task: generation_to_json(one) for task, one in evaluation.generation.items()}
    rows = [vars(sample) for sample in evaluation.damaged]
    number, text = pa.int64(), pa.string()
    kinds = {"sample_id": number, "bin_name": text, "label": number, "prediction": number, "text": text}
    if any(sample.damage is not None for sample in evaluation.damaged):
        kinds |= {"damage": pa.float64(), "answer": pa.list_(text), "now": text}
    with replace_file(damaged) as unfinished:
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(kinds)), unfinished)
    with replace_file(scores) as unfinished:
        unfinished.write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def change_from_json(values: Mapping[str, Any]) -> TaskChange:
    """Return one task's change from the JSON values of an evaluation; older ones have no figures by token."""
    counts = {name: int(values[name]) for name in ("sample_count", "right_before", "damaged_count", "gained_count")}
    tokens = values.get("tokens")
    return TaskChange(**counts, tokens=None if tokens is None else _tokens_from_json(tokens))


def change_to_json(change: TaskChange) -> dict[str, Any]:
    """Return one task's change as JSON values; `tokens` is there where target tokens are known."""
    low, high = change.damaged_interval
    values = {
        **{name: value for name, value in vars(change).items() if name != "tokens"},
        "score_before": change.score_before,
        "score_after": change.score_after,
        "net_change": change.net_change,
        "damaged_share": change.damaged_share,
        "damaged_share_low": low,
        "damaged_share_high": high,
        "mcnemar_p": change.mcnemar_p,
    }
    return values if change.tokens is None else {**values, "tokens": _tokens_to_json(change.tokens)}


def _tokens_to_json(tokens: TokenTotals) -> dict[str, Any]:
    derived = ("score_before", "score_after", "net_change", "lost_share")
    return {**vars(tokens), **{name: getattr(tokens, name) for name in derived}}


def _tokens_from_json(values: Mapping[str, Any]) -> TokenTotals:
    found: dict[str, Any] = {name: values[name] for name in TokenTotals.__dataclass_fields__}
    intervals = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return TokenTotals(**(found | intervals))


def _count_parts(cache: Path) -> str:
    manifest = read_manifest(cache)
    if manifest is None:
        return "of which nothing is cached yet"
    part_count = math.ceil(cached_count(manifest) / manifest.part_size)
    return f"of which {len(list_parts(cache, manifest))} of {part_count} parts are cached"


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to the end: the trainer writes its state last, each process its own before."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
        step = state["global_step"]
        processes = state["stateful_callbacks"]["RehearsalCallback"]["attributes"]["processes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    own = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    return (
        step == step_of(checkpoint)
        and not (checkpoint / _JIT_SENTINEL).exists()
        and all(zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt", *own))
    )
