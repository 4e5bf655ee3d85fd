"""The findings of a run: what its report shows, read from its folder or collected from a trainer."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mixcd.run.outcome.evaluation import MOST_ROWS, DamagedSample, Evaluation, TaskChange
from mixcd.run.outcome.generation import GenerationChange, generation_from_json
from mixcd.run.outcome.run_folder import FINISHED, RunFolder, change_from_json
from mixcd.words.errors import RunFolderError
from mixcd.words.vocabulary import Ids

PRIOR, NEW = "prior task", "new task"
"""What the scores of the two tasks are called."""
_PASSING = ("state", "go_on", "steps_done", "updated")
"""What the record says of a run in progress."""
_ROWS_AT_ONCE = 65_536
_SERIES = ("step", "damage_rate", "yield_rate", "lift")


@dataclass(frozen=True)
class RunFindings:
    """What a run's report shows.

    Args:
        scores: What became of the held-out data, by data set; empty where none were held out.
        columns: The bins of each column that was named.
        generation: What the models wrote by themselves, by task; empty where they did not.
        steps: Step by step `step`, `damage_rate`, `yield_rate` and `lift`, as far as they are known.
        damaged: The damaged held-out samples, or some of them: the first ones where the worst come first, as in
            language models, else evenly spaced.
    """

    title: str
    scores: Mapping[str, TaskChange]
    bins: Mapping[str, TaskChange] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, TaskChange]] = field(default_factory=dict)
    generation: Mapping[str, GenerationChange] = field(default_factory=dict)
    steps: Sequence[Mapping[str, float]] = ()
    damaged: Sequence[DamagedSample] = ()
    damaged_count: int = 0
    class_names: Mapping[int, str] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()


def read_findings(folder: RunFolder) -> RunFindings:
    """Read what the report of a run shows from its folder; no model is run.

    Raises:
        RunFolderError: If it holds no finished run, or a file of it cannot be read.
    """
    record = folder.require()
    if record["state"] not in (FINISHED, "evaluating"):
        raise RunFolderError(
            f"The run in `{folder.path}` {folder.describe_progress(record)}, but a report needs a finished one. Go on "
            f"with `{record['go_on']}`."
        )
    damaged, damaged_count = _read_damaged(folder.damaged)
    try:
        found = json.loads(folder.evaluation.read_text("utf-8")) if folder.evaluation.exists() else {}
        changes = {name: change_from_json(found[name]) for name in ("prior", "new") if name in found}
        sets, bins = (
            {name: change_from_json(one) for name, one in found.get(kind, {}).items()}
            for kind in ("prior_sets", "bins")
        )
        columns = {
            name: {one: change_from_json(change) for one, change in parts.items()}
            for name, parts in found.get("columns", {}).items()
        }
        texts = {task: generation_from_json(one) for task, one in found.get("generation", {}).items()}
        steps = pq.read_table(folder.steps, columns=list(_SERIES)).to_pylist() if folder.steps.exists() else []
        told = {name: value for name, value in record.items() if name not in _PASSING}
        facts = _flatten({"run": told, "config": tomllib.loads(folder.config.read_text("utf-8"))})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"A file of the run in `{folder.path}` cannot be read: {error}. It must be as mixcd wrote it. Restore it, "
            "or run again."
        ) from error
    return RunFindings(
        title=f"Fine-tuning with rehearsal: {folder.path.name}",
        scores=_name_scores(changes.get("prior"), sets, changes.get("new")),
        bins=bins,
        columns=columns,
        generation=_name_tasks(texts),
        steps=steps,
        damaged=damaged,
        damaged_count=damaged_count,
        class_names=_read_class_names(folder.model / "config.json"),
        facts=facts,
    )


def collect_findings(
    evaluation: Evaluation | None,
    log: Sequence[Mapping[str, Any]],
    class_names: Mapping[int, str],
    facts: Mapping[str, Any],
) -> RunFindings:
    """Collect what the report of a trainer's rehearsal shows.

    Args:
        evaluation: What was measured on held-out data; None where none were held out.
        log: The trainer's log history.
    """
    damaged = evaluation.damaged if evaluation else ()
    names = {"step": "step", "damage_rate": "mixcd/damage_rate", "yield_rate": "mixcd/yield", "lift": "mixcd/lift"}
    lines = [line for line in log if "mixcd/damage_rate" in line]
    return RunFindings(
        title="Fine-tuning with rehearsal",
        scores=_name_scores(evaluation.prior, evaluation.prior_sets, evaluation.new) if evaluation else {},
        bins=evaluation.bins if evaluation else {},
        columns=evaluation.columns if evaluation else {},
        generation=_name_tasks(evaluation.generation) if evaluation else {},
        steps=[{own: line.get(key, math.nan) for own, key in names.items()} for line in lines],
        damaged=[damaged[place] for place in _choose_listed(len(damaged), is_ranked=is_ranked(damaged[:1]))],
        damaged_count=len(damaged),
        class_names=class_names,
        facts=_flatten(facts),
    )


def is_ranked(damaged: Sequence[DamagedSample]) -> bool:
    """Whether the worst of the damaged samples come first."""
    return any(one.damage is not None for one in damaged)


def spread(count: int, most: int) -> Ids:
    """Return at most `most` places among `count` things, evenly spaced, the first and the last among them.

    Example:
        >>> spread(9, 3).tolist()
        [0, 4, 8]
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.arange(0)


def _name_scores(
    prior: TaskChange | None, sets: Mapping[str, TaskChange], new: TaskChange | None
) -> dict[str, TaskChange]:
    if prior is None:
        return {}
    named = {f"{PRIOR}: {name}": change for name, change in sets.items()}
    return {PRIOR: prior, **named, **({NEW: new} if new else {})}


def _name_tasks(texts: Mapping[str, GenerationChange]) -> dict[str, GenerationChange]:
    names = {"prior": PRIOR, "new": NEW}
    return {names[task]: texts[task] for task in names if task in texts}


def _choose_listed(count: int, *, is_ranked: bool) -> Ids:
    return np.arange(min(count, MOST_ROWS)) if is_ranked else spread(count, MOST_ROWS)


def _read_damaged(path: Path) -> tuple[list[DamagedSample], int]:
    """The damaged samples to list, and how many there are, without holding all of them at once."""
    if not path.exists():
        return [], 0
    file = pq.ParquetFile(path)
    count = file.metadata.num_rows
    chosen = _choose_listed(count, is_ranked="damage" in file.schema_arrow.names)
    start, found = 0, []
    for batch in file.iter_batches(_ROWS_AT_ONCE):
        inside = chosen[(chosen >= start) & (chosen < start + len(batch))] - start
        found += [DamagedSample(**row) for row in batch.take(inside).to_pylist()]
        start += len(batch)
    return found, count


def _read_class_names(path: Path) -> dict[int, str]:
    names = json.loads(path.read_text("utf-8")).get("id2label") if path.exists() else None
    return {int(number): str(name) for number, name in (names or {}).items()}


def _flatten(values: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines, name by name."""
    if isinstance(values, Mapping):
        return [line for key, one in values.items() for line in _flatten(one, f"{name}.{key}" if name else str(key))]
    if isinstance(values, list) and any(isinstance(one, Mapping) for one in values):
        return [line for number, one in enumerate(values) for line in _flatten(one, f"{name}[{number}]")]
    return [(name, "–" if values is None else str(values))]
