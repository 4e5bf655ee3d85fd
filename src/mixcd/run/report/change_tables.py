"""Tables of what fine-tuning changed, which the reports of a run and of a comparison share."""

from collections.abc import Mapping, Sequence

from scipy.stats import binomtest

from mixcd.run.outcome.evaluation import LEAST_SAMPLES, TaskChange
from mixcd.run.outcome.generation import GenerationChange
from mixcd.run.outcome.token_totals import TokenTotals
from mixcd.run.report.page import Marked, Section, Share, Table

SCORES_READING = (
    "A score is the share of held-out samples that a model gets right; in brackets its 95 % Wilson interval. Damaged "
    "samples went from right to wrong, gained ones from wrong to right: in the scores they cancel, here they do not. "
    "McNemar's p says whether losses and gains balance, not whether there is damage: that is what the interval of the "
    "damaged share says."
)

TOKENS_READING = (
    "By token: token accuracy is the share of the target tokens that a model gets right, each given all true tokens "
    "before it. The damage of a sample is, of its tokens that were right before, the share that is wrong now; the mean "
    "over the samples is shown. Lost tokens went from right to wrong, gained ones from wrong to right. The intervals "
    "are 95 % cluster bootstrap intervals, in which samples are drawn anew with all their tokens; where fewer than six "
    "samples lost any, that of the mean damage is Wilson's, which is wide; there are none where samples are too few. "
    "`lost of all tokens` is the share of all target tokens that went from right to wrong. The sign-flip test's p says "
    "whether the samples' losses and gains of tokens balance."
)
WHOLE_READING = "By sample: a whole sample is right when every target token is. "


GENERATION_READING = (
    "Some held-out samples, evenly spaced, answered by each model alone, always by its likeliest token. Scores and "
    "damage above give the true tokens before each one, so they do not show a model that goes astray or never ends. A "
    "text is exact if it is the gold answer token by token. It ends in a loop if a phrase of two tokens or more stands "
    "three times in a row at its end. In brackets are 95 % Wilson intervals, and the mean length of the gold answers."
)
MARKED_READING = (
    "The gold answer is shown around its first damaged token, which the base model had right. Damaged tokens are in "
    "brackets and underlined; `now` is what the fine-tuned model predicts at the first of them, given the true tokens "
    "before it. Damage is the share of the tokens that were right and are wrong now."
)


def tell_scores(changes: Mapping[str, TaskChange]) -> Section:
    """Show scores before and after, and flips, data set by data set; by sample, and where tokens are known by token."""
    tokens = {name: one.tokens for name, one in changes.items() if one.tokens is not None}
    is_graded = any(one.is_graded for one in tokens.values())
    if not tokens:
        return Section("Scores and flips", SCORES_READING, tables=_list_scores(changes))
    parts = [(TOKENS_READING, _list_token_scores(tokens)), (SCORES_READING, _list_scores(changes, "Whole samples: "))]
    if is_graded:
        parts[1] = (WHOLE_READING + SCORES_READING, parts[1][1])
    else:
        parts = parts[::-1]
    readings, tables = zip(*parts, strict=True)
    return Section("Scores and flips", " ".join(readings), tables=[table for part in tables for table in part])


def _list_token_scores(changes: Mapping[str, TokenTotals]) -> list[Table]:
    scores = [
        [
            name,
            f"{one.target_count:,}",
            f"{one.score_before:.3f}",
            f"{one.score_after:.3f}",
            f"{100 * one.net_change:+.1f}{_bounds(one.net_interval, 100, '+.1f')}",
        ]
        for name, one in changes.items()
    ]
    flips: list[list[str | Share]] = [
        [
            name,
            _damaged_share(one),
            f"{one.lost_count:,}",
            f"{one.gained_count:,}",
            f"{100 * one.lost_share:.1f} %{_bounds(one.lost_interval, 100, '.1f')}",
            one.told_p.removeprefix("= "),
        ]
        for name, one in changes.items()
    ]
    return [
        Table("Token accuracy", ["data", "target tokens", "before", "after", "change, points"], scores),
        Table(
            "Damage by token",
            ["data", "mean damage", "right → wrong", "wrong → right", "lost of all tokens", "sign-flip p"],
            flips,
        ),
    ]


def _list_scores(changes: Mapping[str, TaskChange], prefix: str = "") -> list[Table]:
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
    names = [f"{prefix}scores", f"{prefix}flips"] if prefix else ["Scores", "Flips"]
    return [
        Table(names[0], ["data", "samples", "before", "after", "change, points"], scores),
        Table(names[1], ["data", "right → wrong", "damaged share", "wrong → right", "McNemar p"], flips),
    ]


def tell_generation(changes: Mapping[str, GenerationChange]) -> Section:
    """Show what the models wrote by themselves, task by task."""
    rows = [
        [
            name,
            f"{one.sample_count:,}",
            *[_count_share(count, one.sample_count) for count in (one.exact_before, one.exact_after)],
            f"{one.length_before:.1f} → {one.length_after:.1f} ({one.length_gold:.1f})",
            *[_count_share(count, one.sample_count) for count in (one.looping_before, one.looping_after)],
        ]
        for name, one in changes.items()
    ]
    headings = [
        "data", "samples", "exact before", "exact after", "tokens (gold)", "in a loop before", "in a loop after",
    ]  # fmt: skip
    return Section("Written by itself", GENERATION_READING, tables=[Table("Written by itself", headings, rows)])


def list_bins(caption: str, bins: Mapping[str, TaskChange], *, is_folded: bool = False) -> Table:
    """List the bins of a partition with their sizes and damaged shares; by token where damage is counted so.

    Args:
        bins: The change of each bin, by name, in the order to show.

    Returns:
        The table; all bars have one scale.
    """
    leads = {name: one.lead for name, one in bins.items()}
    is_graded = any(one.is_graded for one in bins.values())
    scale = max((_interval(one) or (0.0, one.damaged_share))[1] for one in leads.values()) if bins else 1.0
    rows: list[list[str | Share]] = [
        [name, f"{one.sample_count:,}", _damaged_share(one, scale), f"{one.score_before:.3f} → {one.score_after:.3f}"]
        for name, one in leads.items()
    ]
    headings = ["mean damage", "token accuracy"] if is_graded else ["damaged share", "score"]
    return Table(caption, ["bin", "samples", *headings], rows, is_folded=is_folded)


def list_damaged(
    headings: Sequence[str], rows: Sequence[Sequence[str | Marked]], damaged_count: int, order: str, reading: str = ""
) -> Section:
    """List damaged samples in a table that can be searched.

    Args:
        rows: The samples that are listed, at most `MOST_ROWS`.
        damaged_count: How many there are in all.
        order: Which ones come first, or how they were chosen, as the end of a sentence.
        reading: How to read the table, in more sentences.
    """
    is_cut = len(rows) < damaged_count
    count = f"{len(rows):,} of {damaged_count:,} damaged samples" if is_cut else "All damaged samples"
    told = f"{reading} " if reading else ""
    return Section(
        "Damaged samples",
        f"{count}, {order}. {told}Control characters are written as code points, and long texts are cut.",
        tables=[Table("Damaged samples", headings, rows, text_columns=len(headings), is_searchable=True)],
    )


def _score(right_count: int, change: TaskChange) -> str:
    return _count_share(right_count, change.sample_count)


def _count_share(count: int, total: int) -> str:
    low, high = binomtest(count, total).proportion_ci(0.95, method="wilson")
    bounds = f" ({low:.3f}–{high:.3f})" if total >= LEAST_SAMPLES else ""
    return f"{count / total:.3f}{bounds}"


def _bounds(interval: tuple[float, float] | None, scale: float, form: str) -> str:
    return "" if interval is None else f" ({scale * interval[0]:{form}} to {scale * interval[1]:{form}})"


def _interval(change: TaskChange | TokenTotals) -> tuple[float, float] | None:
    return change.damaged_interval if change.sample_count >= LEAST_SAMPLES else None


def _damaged_share(change: TaskChange | TokenTotals, scale: float = 1.0) -> Share:
    return Share(change.damaged_share, _interval(change), scale)
