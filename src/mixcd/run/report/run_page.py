"""The report of a run: what rehearsal kept, what was lost, and how damage went while it trained."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from mixcd.run.outcome.evaluation import TaskChange
from mixcd.run.report.change_tables import MARKED_READING, list_bins, list_damaged, tell_generation, tell_scores
from mixcd.run.report.page import Marked, Page, Picture, Section
from mixcd.run.report.run_findings import NEW, RunFindings, is_ranked, spread
from mixcd.run.report.svg_picture import SERIES, SOFT, draw_svg

MOST_BINS = 100
"""Bins that a page lists, the hardest hit ones."""
_MOST_POINTS = 400
_BINS_READING = (
    "The run's partition, made anew of the held-out prior samples. The bar is the damaged share, the line on it its "
    "95 % Wilson interval; bins of fewer than 30 samples have none. Hardest hit first, by the lower bound."
)
_GRADED_BINS_READING = (
    "The run's partition, made anew of the held-out prior samples. The bar is the samples' mean damage by token, the "
    "line on it its 95 % cluster bootstrap interval, or Wilson's where fewer than six samples lost any token; bins of "
    "fewer than 30 samples have none. Hardest hit first, by the lower bound."
)
_NO_TEXTS = (
    "No tokenizer is known, so there are no texts: give it to the trainer as `processing_class=`, or to `rehearse` as "
    "`tokenizer=`. Damage is the share of the tokens that were right and are wrong now."
)
_COLUMNS_READING = (
    "As above, by the values of columns of the held-out prior data: the most frequent ones have a bin each, fractions "
    "are cut into ranges. The hardest hit first."
)
_STEPS_READING = (
    "Seen in the training forward passes, without a pass more, over the last 50 to 100 steps. The damage rate is an "
    "estimate for the whole prior data; the yield is the damaged share of what was rehearsed. Yield above the damage "
    "rate means that rehearsal finds the samples that are being lost; lift is how many times as often a drawn sample "
    "is damaged as one drawn uniformly. In training mode dropout makes a model look a little worse than it is."
)


def make_run_page(found: RunFindings) -> Page:
    """Lay the findings of a run out as a report."""
    sections = []
    if found.scores:
        sections.append(tell_scores(found.scores))
    if found.generation:
        sections.append(tell_generation(found.generation))
    if found.bins:
        sections.append(_tell_bins(found.bins))
    if found.columns:
        sections.append(_tell_columns(found.columns))
    if found.steps:
        sections.append(Section("While it trained", _STEPS_READING, pictures=_draw_steps(found.steps)))
    if found.damaged:
        sections.append(_tell_damaged(found))
    return Page(found.title, judge_run(found.scores), (), sections, found.facts)


def judge_run(scores: Mapping[str, TaskChange]) -> str:
    """Say in one sentence what a run kept and lost.

    Args:
        scores: What became of the held-out data, the prior task first; empty where none were held out.

    Example:
        >>> judge_run({"prior task": TaskChange(1000, 800, 50, 10)})
        'Damaged: 5.0 % (3.8–6.5) of the held-out prior samples went from right to wrong; prior score 0.800 → 0.760.'
    """
    if not scores:
        return "Damage was not measured: no prior data are held out."
    prior, new = next(iter(scores.values())), scores.get(NEW)
    score = "token accuracy" if prior.is_graded else "score"
    told = [f"prior {score} {prior.lead.score_before:.3f} → {prior.lead.score_after:.3f}"]
    if new:
        told.append(f"new {score} {new.lead.score_before:.3f} → {new.lead.score_after:.3f}")
    interval = prior.lead.damaged_interval
    bounds = f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else ""
    share = f"{100 * prior.lead.damaged_share:.1f} %{bounds}"
    if prior.is_graded:
        return (
            f"Damaged: a held-out prior sample lost {share} of the tokens it had right, on average; {', '.join(told)}."
        )
    return f"Damaged: {share} of the held-out prior samples went from right to wrong; {', '.join(told)}."


def _tell_bins(bins: Mapping[str, TaskChange]) -> Section:
    left_out = len(bins) - MOST_BINS
    remarks = [f"{left_out:,} bins more are in `evaluation.json`."] if left_out > 0 else []
    table = list_bins("Held-out prior samples by bin", _rank(bins))
    is_graded = any(one.is_graded for one in bins.values())
    reading = _GRADED_BINS_READING if is_graded else _BINS_READING
    return Section("Damage by bin", reading, tables=[table], remarks=remarks)


def _tell_columns(columns: Mapping[str, Mapping[str, TaskChange]]) -> Section:
    tables = [list_bins(f"Held-out prior samples by {name}", _rank(bins)) for name, bins in columns.items()]
    return Section("Damage by column", _COLUMNS_READING, tables=tables)


def _rank(bins: Mapping[str, TaskChange]) -> dict[str, TaskChange]:
    """The hardest hit bins, the worst first."""
    ranked = sorted(bins.items(), key=lambda one: (*one[1].hardness, one[0]))
    return dict(ranked[:MOST_BINS])


def _draw_steps(steps: Sequence[Mapping[str, float]]) -> list[Picture]:
    shown = [steps[place] for place in spread(len(steps), _MOST_POINTS)]
    numbers = [line["step"] for line in shown]
    names = ("damage_rate", "yield_rate", "lift")
    values = {name: [math.nan if line[name] is None else line[name] for line in shown] for name in names}

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
    if is_ranked(found.damaged):
        return _tell_damaged_tokens(found)
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


def _tell_damaged_tokens(found: RunFindings) -> Section:
    rows: list[list[str | Marked]] = [
        [
            str(one.sample_id),
            one.text or "–",
            Marked(one.answer or ["–"]),
            "–" if one.now is None else one.now,
            f"{100 * (one.damage or 0.0):.0f} %",
            one.bin_name or "–",
        ]
        for one in found.damaged
    ]
    headings = ["sample", "prompt", "gold answer", "now", "damage", "bin"]
    reading = MARKED_READING if any(one.answer for one in found.damaged) else _NO_TEXTS
    return list_damaged(headings, rows, found.damaged_count, "the worst first", reading)
