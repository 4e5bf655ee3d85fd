"""Tables of what fine-tuning changed, which the reports of a run and of a comparison share."""

from collections.abc import Mapping, Sequence

from scipy.stats import binomtest

from mixcd.run.outcome.evaluation import LEAST_SAMPLES, TaskChange
from mixcd.run.report.page import Section, Share, Table

SCORES_READING = (
    "A score is the share of held-out samples that a model gets right; in brackets its 95 % Wilson interval. Damaged "
    "samples went from right to wrong, gained ones from wrong to right: in the scores they cancel, here they do not. "
    "McNemar's p says whether losses and gains balance, not whether there is damage: that is what the interval of the "
    "damaged share says."
)


def tell_scores(changes: Mapping[str, TaskChange]) -> Section:
    """Show scores before and after, and flips, data set by data set."""
    scores = [
        [
            name,
            f"{one.sample_count:,}",
            _score(one.right_before, one),
            _score(one.right_before - one.damaged_count + one.gained_count, one),
            f"{100 * one.net_change:+.1f}",
        ]
        for name, one in changes.items()
    ]
    flips: list[list[str | Share]] = [
        [name, f"{one.damaged_count:,}", _damaged_share(one), f"{one.gained_count:,}", f"{one.mcnemar_p:.2g}"]
        for name, one in changes.items()
    ]
    return Section(
        "Scores and flips",
        SCORES_READING,
        tables=[
            Table("Scores", ["data", "samples", "before", "after", "change, points"], scores),
            Table("Flips", ["data", "right → wrong", "damaged share", "wrong → right", "McNemar p"], flips),
        ],
    )


def list_bins(caption: str, bins: Mapping[str, TaskChange], *, is_folded: bool = False) -> Table:
    """List the bins of a partition with their sizes and damaged shares.

    Args:
        bins: The change of each bin, by name, in the order to show.

    Returns:
        The table; all bars have one scale.
    """
    scale = max((_interval(one) or (0.0, one.damaged_share))[1] for one in bins.values()) if bins else 1.0
    rows: list[list[str | Share]] = [
        [name, f"{one.sample_count:,}", _damaged_share(one, scale), f"{one.score_before:.3f} → {one.score_after:.3f}"]
        for name, one in bins.items()
    ]
    return Table(caption, ["bin", "samples", "damaged share", "score"], rows, is_folded=is_folded)


def list_damaged(headings: Sequence[str], rows: Sequence[Sequence[str]], damaged_count: int, order: str) -> Section:
    """List damaged samples in a table that can be searched.

    Args:
        rows: The samples that are listed, at most `MOST_ROWS`.
        damaged_count: How many there are in all.
        order: Which ones come first, or how they were chosen, as the end of a sentence.
    """
    is_cut = len(rows) < damaged_count
    count = f"{len(rows):,} of {damaged_count:,} damaged samples" if is_cut else "All damaged samples"
    return Section(
        "Damaged samples",
        f"{count}, {order}. Control characters are written as code points, and long texts are cut.",
        tables=[Table("Damaged samples", headings, rows, text_columns=len(headings), is_searchable=True)],
    )


def _score(right_count: int, change: TaskChange) -> str:
    low, high = binomtest(right_count, change.sample_count).proportion_ci(0.95, method="wilson")
    bounds = f" ({low:.3f}–{high:.3f})" if change.sample_count >= LEAST_SAMPLES else ""
    return f"{right_count / change.sample_count:.3f}{bounds}"


def _interval(change: TaskChange) -> tuple[float, float] | None:
    return change.damaged_interval if change.sample_count >= LEAST_SAMPLES else None


def _damaged_share(change: TaskChange, scale: float = 1.0) -> Share:
    return Share(change.damaged_share, _interval(change), scale)
