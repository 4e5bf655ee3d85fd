"""A comparison for the terminal: scores, damage by bins, the most damaged samples, the verdict."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcd.edge.compare.comparison import MOST_SHOWN, Comparison
from mixcd.edge.compare.partition_damage import PartitionDamage
from mixcd.edge.compare.verdict import judge_damage, judge_rehearsal
from mixcd.run.outcome.evaluation import TaskChange
from mixcd.run.outcome.token_totals import TokenTotals
from mixcd.words.errors import plain_name

_MOST_BINS = 8
"""Bins of a partition that are printed; the JSON has all."""
_NAME_START, _CLASS_START, _TEXT_START = 40, 20, 60
_TEXT_COLUMNS = ("bin", "label", "now", "text")


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a comparison; the verdict comes last, where it is read first."""
    for line in make_summary(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for table in make_tables(comparison):
        console.print()
        console.print(table)
    console.print()
    for line in (*comparison.notes, judge_damage(comparison), judge_rehearsal(comparison)):
        console.print(plain_name(line), markup=False, highlight=False, soft_wrap=True)


def make_summary(comparison: Comparison) -> Iterator[str]:
    """Put score, damage, flips, the weights' dtype and net change in a line each."""
    change, bounds = comparison.change, _tell_bounds(comparison.damaged_interval)
    if change.tokens is not None and change.is_graded:
        yield from _summarise_tokens(change.tokens)
        if comparison.dtype is not None:
            yield f"weights  {comparison.dtype}"
        yield f"whole    {_tell_whole(change)}"
        return
    yield f"score    {change.score_before:.3f} → {change.score_after:.3f} on {change.sample_count:,} samples"
    yield f"damaged  {comparison.damaged_share:.1%}{bounds}"
    if comparison.choices is not None:
        chance = f"{comparison.damaged_by_chance:.1%} that guessing among {comparison.choices} choices explains"
        yield f"         less {chance}"
    yield f"flips    {change.damaged_count:,} right→wrong, {change.gained_count:,} wrong→right"
    if comparison.dtype is not None:
        yield f"weights  {comparison.dtype}"
    yield f"net      {change.net_change:+.1%} (McNemar p = {change.mcnemar_p:.2g})"
    if change.tokens is not None:
        yield f"tokens   {change.tokens}"


def _summarise_tokens(tokens: TokenTotals) -> Iterator[str]:
    scores = f"{tokens.score_before:.3f} → {tokens.score_after:.3f}"
    yield f"score    {scores} of {tokens.target_count:,} target tokens on {tokens.sample_count:,} samples"
    damaged = f"{tokens.damaged_share:.1%}{_tell_bounds(tokens.damaged_interval)}"
    yield f"damaged  {damaged} of the tokens that a sample had right, on average"
    yield f"flips    {tokens.lost_count:,} tokens right→wrong, {tokens.gained_count:,} wrong→right"
    net = f"{tokens.net_change:+.1%}{_tell_bounds(tokens.net_interval, '+.1%')}"
    yield f"net      {net} (sign-flip p {tokens.told_p})"


def _tell_whole(change: TaskChange) -> str:
    scores = f"{change.score_before:.3f} → {change.score_after:.3f}"
    flips = f"{change.damaged_count:,} right→wrong, {change.gained_count:,} wrong→right"
    return f"{scores} of the samples have every target token right: {flips} (McNemar p = {change.mcnemar_p:.2g})"


def _tell_bounds(interval: tuple[float, float] | None, form: str = ".1%") -> str:
    return f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else ""


def make_tables(comparison: Comparison) -> Iterator[Table]:
    """Lay out damage by bins, a table a partition, and the most damaged samples; nothing where nothing is damaged."""
    if comparison.change.lead.damaged_count:
        yield from (_make_partition_table(one) for one in comparison.partitions)
    if comparison.most_damaged:
        yield _make_sample_table(comparison)


def _make_partition_table(partition: PartitionDamage) -> Table:
    lift = partition.lift
    told = f"lift {lift.value:.2f} ({lift.low:.2f} to {lift.high:.2f})" if lift.high < float("inf") else "lift unknown"
    more = len(partition.bins) - _MOST_BINS
    table = _make_table(
        f"By {plain_name(partition.name, _NAME_START)}: {told}",
        ("bin", "samples", "before", "after", "damaged (95 %)"),
        f"and {more:,} bins more" if more > 0 else None,
    )
    for one in partition.bins[:_MOST_BINS]:
        change = one.change.lead
        table.add_row(
            Text(plain_name(one.name, _NAME_START)),
            f"{change.sample_count:,}",
            f"{change.score_before:.3f}",
            f"{change.score_after:.3f}",
            f"{change.damaged_share:.1%}{_tell_bounds(change.damaged_interval)}",
        )
    return table


def _make_sample_table(comparison: Comparison) -> Table:
    samples = comparison.most_damaged[:MOST_SHOWN]
    names = ("label", "prediction", "now")
    told = [name for name in names if any(getattr(sample, name) is not None for sample in samples)]
    table = _make_table(
        f"The {len(samples)} most damaged of {comparison.change.lead.damaged_count:,} samples",
        ("sample", *({"label": "label"}.get(name, "now") for name in told), "loss", "text"),
    )
    for sample in samples:
        classes = [Text(plain_name(getattr(sample, name) or "–", _CLASS_START)) for name in told]
        table.add_row(
            str(sample.sample_id),
            *classes,
            f"{sample.loss_before:.2f} → {sample.loss_after:.2f}",
            Text(plain_name(sample.text, _TEXT_START), no_wrap=True, overflow="ellipsis"),
        )
    return table


def _make_table(title: str, headings: Sequence[str], caption: str | None = None) -> Table:
    table = Table(
        title=Text(title),
        caption=Text(caption) if caption else None,
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 0, 0, 1),
    )
    for heading in headings:
        table.add_column(
            heading,
            justify="left" if heading in _TEXT_COLUMNS else "right",
            overflow="fold",
            no_wrap=heading not in ("bin", "text"),
        )
    return table
