"""The report of a run: what rehearsal kept, what was lost, and how damage went while it trained."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes

from mixcd.errors import RunFolderError
from mixcd.evaluation import DamagedSample, Evaluation, TaskChange
from mixcd.report.change_tables import MOST_ROWS, list_bins, list_damaged, tell_scores
from mixcd.report.page import Page, Picture, Section
from mixcd.report.svg_picture import SERIES, SOFT, draw_svg
from mixcd.run_folder import FINISHED, RunFolder, change_from_json

MOST_BINS = 100
"""Bins that a page lists, the hardest hit ones."""
_MOST_POINTS = 400
_ROWS_AT_ONCE = 65_536
_BINS_READING = (
    "The bins of the run's partition, on held-out prior samples. The bar is the damaged share, the line on it its "
    "95 % Wilson interval; bins of fewer than 30 samples have none. Hardest hit first, by the lower bound."
)
_STEPS_READING = (
    "Seen in the training forward passes, without a pass more, over the last 50 to 100 steps. The damage rate is an "
    "estimate for the whole prior data; the yield is the damaged share of what was rehearsed. Yield above the damage "
    "rate means that rehearsal finds the samples that are being lost; lift is how many times as often a drawn sample "
    "is damaged as one drawn uniformly. In training mode dropout makes a model look a little worse than it is."
)


@dataclass(frozen=True)
class RunFindings:
    """What a run's report shows.

    Args:
        title: What was run.
        scores: What became of the held-out data, by data set; empty where none were held out.
        bins: What became of the bins of the held-out prior data.
        steps: Step by step `step`, `damage_rate`, `yield_rate` and `lift`, as far as they are known.
        damaged: The damaged held-out samples, or some of them, evenly spaced.
        damaged_count: How many there are.
        class_names: Names of the classes that samples are predicted.
        facts: Settings and provenance.
    """

    title: str
    scores: Mapping[str, TaskChange]
    bins: Mapping[str, TaskChange] = field(default_factory=dict)
    steps: Sequence[Mapping[str, float]] = ()
    damaged: Sequence[DamagedSample] = ()
    damaged_count: int = 0
    class_names: Mapping[int, str] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()


def read_findings(folder: RunFolder) -> RunFindings:
    """Read what the report of a run shows from its folder; no model is run.

    Args:
        folder: The folder of a finished run.

    Returns:
        The findings.

    Raises:
        RunFolderError: If it holds no finished run, or a file of it cannot be read.
    """
    record = folder.read()
    if record is None:
        raise RunFolderError(f"`{folder.path}` holds no run. Name the folder of a run that `mixcd train` made.")
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
        class_names: Names of the classes that samples are predicted.
        facts: Settings and provenance.

    Returns:
        The findings.
    """
    damaged = evaluation.damaged if evaluation else ()
    names = {"step": "step", "damage_rate": "mixcd/damage_rate", "yield_rate": "mixcd/yield", "lift": "mixcd/lift"}
    lines = [line for line in log if "mixcd/damage_rate" in line]
    return RunFindings(
        title="Fine-tuning with rehearsal",
        scores=_name_scores(evaluation.prior, evaluation.prior_sets, evaluation.new) if evaluation else {},
        bins=evaluation.bins if evaluation else {},
        steps=[{own: line.get(key, math.nan) for own, key in names.items()} for line in lines],
        damaged=[damaged[place] for place in _spread(len(damaged), MOST_ROWS)],
        damaged_count=len(damaged),
        class_names=class_names,
        facts=_flatten(facts),
    )


def make_run_page(found: RunFindings) -> Page:
    """Lay the findings of a run out as a report.

    Args:
        found: What it shows.

    Returns:
        The page.
    """
    sections = []
    if found.scores:
        sections.append(tell_scores(found.scores))
    if found.bins:
        sections.append(_tell_bins(found.bins))
    if found.steps:
        sections.append(Section("While it trained", _STEPS_READING, pictures=_draw_steps(found.steps)))
    if found.damaged:
        sections.append(_tell_damaged(found))
    return Page(found.title, judge_run(found.scores), (), sections, found.facts)


def judge_run(scores: Mapping[str, TaskChange]) -> str:
    """Say in one sentence what a run kept and lost.

    Args:
        scores: What became of the held-out data, the prior task first; empty where none were held out.

    Returns:
        The sentence.

    Example:
        >>> judge_run({"prior task": TaskChange(1000, 800, 50, 10)})
        'Damaged: 5.0 % (3.8–6.5) of the held-out prior samples went from right to wrong; prior score 0.800 → 0.760.'
    """
    if not scores:
        return "Damage was not measured: no prior data are held out."
    prior, new = next(iter(scores.values())), scores.get(_NEW)
    low, high = prior.damaged_interval
    told = f"new score {new.score_before:.3f} → {new.score_after:.3f}" if new else ""
    return (
        f"Damaged: {100 * prior.damaged_share:.1f} % ({100 * low:.1f}–{100 * high:.1f}) of the held-out prior samples "
        f"went from right to wrong; prior score {prior.score_before:.3f} → {prior.score_after:.3f}"
        f"{', ' + told if told else ''}."
    )


_NEW = "new task"
_PASSING = ("state", "go_on", "steps_done", "updated")
"""What the record says of a run in progress."""
_SERIES = ("step", "damage_rate", "yield_rate", "lift")


def _name_scores(
    prior: TaskChange | None, sets: Mapping[str, TaskChange], new: TaskChange | None
) -> dict[str, TaskChange]:
    if prior is None:
        return {}
    named = {f"prior task: {name}": change for name, change in sets.items()}
    return {"prior task": prior, **named, **({_NEW: new} if new else {})}


def _tell_bins(bins: Mapping[str, TaskChange]) -> Section:
    ranked = sorted(bins.items(), key=lambda one: (-one[1].damaged_interval[0], one[0]))
    left_out = len(ranked) - MOST_BINS
    remarks = [f"{left_out:,} bins more are in `evaluation.json`."] if left_out > 0 else []
    table = list_bins("Held-out prior samples by bin", dict(ranked[:MOST_BINS]))
    return Section("Damage by bin", _BINS_READING, tables=[table], remarks=remarks)


def _draw_steps(steps: Sequence[Mapping[str, float]]) -> list[Picture]:
    shown = [steps[place] for place in _spread(len(steps), _MOST_POINTS)]
    numbers = [line["step"] for line in shown]
    values = {name: [_finite(line[name]) for line in shown] for name in _SERIES[1:]}

    def draw_rates(axes: Axes) -> None:
        axes.plot(numbers, values["yield_rate"], color=SERIES[1], linestyle="-", label="yield")
        axes.plot(numbers, values["damage_rate"], color=SERIES[0], linestyle="--", label="damage rate")
        axes.set(xlabel="step", ylabel="share", ylim=(0, None))
        axes.legend(loc="best")

    def draw_lift(axes: Axes) -> None:
        axes.axhline(1.0, color=SOFT, linestyle=":", linewidth=1)
        axes.plot(numbers, values["lift"], color=SERIES[0])
        axes.set(xlabel="step", ylabel="lift over all steps so far")

    last = {name: next(filter(math.isfinite, reversed(series)), math.nan) for name, series in values.items()}
    return [
        Picture(
            draw_svg("rates", draw_rates),
            f"Damage rate and yield over steps. At the end {100 * last['damage_rate']:.1f} % of all prior samples are "
            f"estimated to be damaged, and {100 * last['yield_rate']:.1f} % of the rehearsed ones were.",
        ),
        Picture(
            draw_svg("lift", draw_lift),
            f"Lift over steps; at 1, the dotted line, draws find no more damage than uniform ones. At the end: "
            f"{last['lift']:.2f}.",
        ),
    ]


def _tell_damaged(found: RunFindings) -> Section:
    rows = [
        [
            str(one.sample_id),
            one.text,
            one.bin_name or "–",
            "right" if one.label is None else found.class_names.get(one.label, str(one.label)),
            "wrong" if one.prediction is None else found.class_names.get(one.prediction, str(one.prediction)),
        ]
        for one in found.damaged
    ]
    order = "evenly spaced by their ids" if len(rows) < found.damaged_count else "in the order of their ids"
    headings = ["sample", "text", "bin", "gold, and before", "after"]
    return list_damaged(headings, rows, found.damaged_count, order)


def _read_damaged(path: Path) -> tuple[list[DamagedSample], int]:
    """Evenly spaced damaged samples, and how many there are, without holding all of them at once."""
    if not path.exists():
        return [], 0
    file = pq.ParquetFile(path)
    count = file.metadata.num_rows
    chosen, start, found = _spread(count, MOST_ROWS), 0, []
    for batch in file.iter_batches(_ROWS_AT_ONCE):
        inside = chosen[(chosen >= start) & (chosen < start + len(batch))] - start
        found += [DamagedSample(**row) for row in batch.take(inside).to_pylist()]
        start += len(batch)
    return found, count


def _spread(count: int, most: int) -> Any:
    """Places of at most so many of `count` things, evenly spaced, the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.arange(0)


def _read_class_names(path: Path) -> dict[int, str]:
    if not path.exists():
        return {}
    names = json.loads(path.read_text("utf-8")).get("id2label") or {}
    return {int(number): str(name) for number, name in names.items()}


def _finite(value: float | None) -> float:
    return math.nan if value is None else value


def _flatten(values: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines, name by name."""
    if isinstance(values, Mapping):
        return [line for key, one in values.items() for line in _flatten(one, f"{name}.{key}" if name else str(key))]
    if isinstance(values, list) and any(isinstance(one, Mapping) for one in values):
        return [line for number, one in enumerate(values) for line in _flatten(one, f"{name}[{number}]")]
    return [(name, "–" if values is None else str(values))]
