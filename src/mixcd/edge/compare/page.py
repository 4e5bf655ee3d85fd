"""The report of a comparison: what broke, where, and what rehearsing would be worth."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from mixcd.edge.compare.comparison import PRIOR_LOSS, Comparison
from mixcd.edge.compare.partition_damage import PartitionDamage
from mixcd.edge.compare.verdict import judge_damage, judge_rehearsal
from mixcd.run.report.change_tables import MARKED_READING, list_bins, list_damaged, tell_scores
from mixcd.run.report.page import Marked, Page, Section, Table, write_page
from mixcd.words.version import __version__

_UNFOLDED_COUNT = 3
_BY_SAMPLE = ("damaged share", "Wilson")
_READING = (
    "Each table splits the samples in one way, the most uneven first. Lift compares two ways to draw samples: in "
    "proportion to the damage rate of their bin, and uniformly. It says how many times as many damaged ones the first "
    "finds, corrected for noise: 1 means that damage is even and that this partition is no use to rehearsal. The bar "
    "is the {bar}, the line on it its 95 % {interval} interval; bins are sorted by the lower bound, and bins of "
    "fewer than 30 samples have none."
)


def write_report(
    comparison: Comparison, path: str | Path, *, overwrite: bool = False, settings: Mapping[str, str] | None = None
) -> None:
    """Write a comparison as one HTML file that needs no network.

    Args:
        comparison: What `mixcd.compare` returned.
        path: The file.
        overwrite: Whether a file that is there may be replaced.
        settings: What to tell of models and data, name by name.

    Raises:
        SettingError: If there is a file and it may not be replaced, or no folder to write to.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from mixcd.edge.compare.comparison import compare_outcomes
        >>> right = np.ones(100, dtype=bool)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(compare_outcomes(right, right, []), folder + "/report.html")
        ...     "Nothing broke" in Path(folder, "report.html").read_text("utf-8")
        True
    """
    write_page(make_comparison_page(comparison, settings or {}), path, overwrite=overwrite)


def make_comparison_page(comparison: Comparison, settings: Mapping[str, str]) -> Page:
    """Lay a comparison out as a report."""
    facts = {
        "tolerance": f"{comparison.tolerance:.1%}",
        **({} if comparison.choices is None else {"options a question": str(comparison.choices)}),
        **({} if comparison.dtype is None else {"weights held in": comparison.dtype}),
        "mixcd": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Page(
        title="What fine-tuning broke",
        verdict=judge_damage(comparison),
        remarks=[judge_rehearsal(comparison), *comparison.notes],
        sections=[
            tell_scores({"all samples": comparison.change}),
            _tell_partitions(comparison),
            *([_tell_samples(comparison)] if comparison.change.lead.damaged_count else []),
        ],
        facts=[*settings.items(), *facts.items()],
    )


def _tell_partitions(comparison: Comparison) -> Section:
    rows = [[one.name, str(len(one.bins)), _tell_lift(one)] for one in comparison.partitions]
    bins = [
        list_bins(f"By {one.name}", {each.name: each.change for each in one.bins}, is_folded=place >= _UNFOLDED_COUNT)
        for place, one in enumerate(comparison.partitions)
    ]
    lifts = Table("Lift", ["partition", "bins", "lift (95 %)"], rows)
    note = f"`{PRIOR_LOSS}` are bins of the base model's own loss, which it has before any fine-tuning."
    bar, interval = ("mean damage by token", "cluster bootstrap") if comparison.change.is_graded else _BY_SAMPLE
    return Section("Damage by bin", _READING.format(bar=bar, interval=interval), tables=[lifts, *bins], remarks=[note])


def _tell_lift(one: PartitionDamage) -> str:
    if one.lift.high == float("inf"):
        return "too little damage to tell"
    return f"{one.lift.value:.2f} ({one.lift.low:.2f}–{one.lift.high:.2f})"


def _tell_samples(comparison: Comparison) -> Section:
    if any(one.answer for one in comparison.most_damaged):
        return _tell_answers(comparison)
    rows = [
        [
            str(one.sample_id),
            one.text,
            one.label or "–",
            one.prediction if one.prediction is not None else "wrong",
            f"{one.loss_before:.3f} → {one.loss_after:.3f}",
        ]
        for one in comparison.most_damaged
    ]
    return list_damaged(
        ["sample", "text", "gold, and before", "after", "loss"],
        rows,
        comparison.change.lead.damaged_count,
        "those first whose loss rose most",
    )


def _tell_answers(comparison: Comparison) -> Section:
    rows: list[list[str | Marked]] = [
        [
            str(one.sample_id),
            one.text or "–",
            Marked(one.answer),
            "–" if one.now is None else one.now,
            f"{100 * (one.damage or 0.0):.0f} %",
            f"{one.loss_before:.3f} → {one.loss_after:.3f}",
        ]
        for one in comparison.most_damaged
    ]
    headings = ["sample", "prompt", "gold answer", "now", "damage", "loss"]
    count = comparison.change.lead.damaged_count
    return list_damaged(headings, rows, count, "the worst first", MARKED_READING)
