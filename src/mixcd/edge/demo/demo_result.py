"""What the demo found: its table, its picture, and one honest sentence."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from mixcd.run.outcome.evaluation import TaskChange, compare_correctness
from mixcd.words.vocabulary import Flags

SIGNIFICANT = 0.05
"""The McNemar p-value below which a difference between two runs is called one."""
HEADINGS = ["run", "prior before", "prior after", "new", "yield", "lift", "damaged (95 %)", "s/step", "forward passes"]
"""The columns of the demo's table."""
LEAST_DAMAGE = 0.01
"""The damaged share, at its lower bound, below which there is nothing to mend."""


@dataclass(frozen=True)
class DemoRun:
    """One fine-tuning run of the demo.

    Args:
        prior: How the held-out prior tweets fared.
        new: How the held-out new tweets fared.
        yield_rate: Share of all rehearsed samples that were damaged; None without rehearsal.
        lift: How much likelier a drawn sample was damaged than a uniform draw; None without rehearsal.
        seconds_a_step: Training time over steps.
        forward_count: Forward passes of the model in training.
    """

    name: str
    prior: TaskChange
    new: TaskChange
    yield_rate: float | None
    lift: float | None
    seconds_a_step: float
    forward_count: int


@dataclass(frozen=True)
class CorrectFlags:
    """Which held-out tweets a model gets right.

    Args:
        prior: Of the prior task, shape (held-out tweets,).
        new: Of the new task, shape (held-out tweets,).
    """

    prior: Flags
    new: Flags


@dataclass(frozen=True)
class JudgedRun:
    """A run: what is reported of it, and what its model gets right, tweet by tweet."""

    numbers: DemoRun
    correct: CorrectFlags


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Args:
        runs: No rehearsal, uniform, mix-cd.
        verdict: One honest sentence.
        prior_pass_forward_count: Forward passes of the one prior pass, which mix-cd needs on top.
    """

    seed: int
    runs: tuple[DemoRun, ...]
    verdict: str
    prior_pass_forward_count: int


def judge(without: JudgedRun, uniform: JudgedRun, mixcd: JudgedRun) -> str:
    """Say in one sentence what one seed can say about mix-cd against uniform rehearsal.

    Returns:
        A sentence: a gain, "undecided", or "not worth it here".
    """
    damage = without.numbers.prior
    if damage.damaged_interval[0] < LEAST_DAMAGE:
        return f"Not worth it here: without rehearsal only {damage.damaged_share:.1%} of the prior task is damaged."
    prior = compare_correctness(uniform.correct.prior, mixcd.correct.prior)
    new = compare_correctness(uniform.correct.new, mixcd.correct.new)
    numbers = f"against uniform rehearsal, mix-cd's prior score is {_points(prior)} and its new score {_points(new)}"
    if prior.mcnemar_p >= SIGNIFICANT:
        return f"Undecided: {numbers}, and the prior difference is within the noise of one seed."
    if prior.net_change < 0:
        return f"Not worth it here: {numbers}."
    if new.mcnemar_p < SIGNIFICANT and new.net_change < 0:
        return f"Undecided: {numbers}, so what it keeps is paid for on the new task."
    return f"Worth it in this run, of one seed: {numbers}."


def make_table(result: DemoResult) -> Table:
    """Lay the runs out as a table for the terminal."""
    table = Table(title=f"Seed {result.seed}: one seed, an illustration", box=None, padding=(0, 0, 0, 1))
    for heading in HEADINGS:
        table.add_column(heading.replace(" ", "\n", 1), justify="left" if heading == "run" else "right", no_wrap=True)
    for run in result.runs:
        table.add_row(*_cells(run))
    return table


def to_markdown(result: DemoResult) -> str:
    """Lay the runs out as a Markdown table."""
    lines = [HEADINGS, ["---"] + ["---:"] * (len(HEADINGS) - 1), *(_cells(run) for run in result.runs)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_picture(result: DemoResult, path: Path) -> None:
    """Draw prior against new score, one point a run, with the base model."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    base = result.runs[0]
    axes.plot(base.new.score_before, base.prior.score_before, "k*", markersize=12, label="base model")
    for run, marker in zip(result.runs, ("s", "o", "D"), strict=True):
        axes.plot(run.new.score_after, run.prior.score_after, marker, markersize=9, label=run.name)
    axes.set(xlabel="score on the new task", ylabel="score on the prior task", title="One seed, an illustration")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def _cells(run: DemoRun) -> list[str]:
    low, high = run.prior.damaged_interval
    return [
        run.name,
        f"{run.prior.score_before:.3f}",
        f"{run.prior.score_after:.3f}",
        f"{run.new.score_after:.3f}",
        "–" if run.yield_rate is None else f"{run.yield_rate:.3f}",
        "–" if run.lift is None else f"{run.lift:.2f}",
        f"{run.prior.damaged_share:.1%} ({100 * low:.1f}–{100 * high:.1f})",
        f"{run.seconds_a_step:.3f}",
        str(run.forward_count),
    ]


def _points(change: TaskChange) -> str:
    points = round(100 * change.net_change, 1) + 0.0  # no "-0.0"
    return f"{points:+.1f} points (p = {change.mcnemar_p:.2g})"
