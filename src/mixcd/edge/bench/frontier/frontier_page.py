"""The report of a sweep: its frontier, and how each method compares with the reference, seed by seed."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from mixcd.edge.bench.frontier.frontier_picture import LINES, MARKERS, reach
from mixcd.edge.bench.frontier.frontier_report import PLAIN, FrontierReport, MethodReport, PointReport
from mixcd.edge.bench.frontier.seed_interval import Estimate
from mixcd.run.report.page import Page, Picture, Section, Table
from mixcd.run.report.shown_text import show_text
from mixcd.run.report.svg_picture import RULE, SERIES, SOFT, draw_svg
from mixcd.words.errors import plain_name
from mixcd.words.version import __version__

_MOST_NAMED = 8
_NAME_START = 34
_FRONTIER_READING = (
    "Each line is a method over its mix ratios β: to the right is better on the new task, up is better on the prior "
    "task. Bars are 95 % intervals over seeds. Named are the reference, plain fine-tuning, the oracle, and the methods "
    "with most points that no other method beats on both scores; the rest are grey, where they are near. WiSE-FT "
    "points average the weights of base and fine-tuned model after training."
)
_TABLE_READING = (
    "Differences are paired, seed by seed, at the same mix ratio, in points. The column “at equal new score” asks what "
    "the reference would have kept at a mix ratio that gives the same new score: a gain that vanishes there was paid "
    "for on the new task. Yield is the damaged share of what was rehearsed. A star marks points that no other method's "
    "mean beats on both scores; ‡ methods that look at the prior data with the current model, free of charge."
)


def make_frontier_page(report: FrontierReport, files: Sequence[Path]) -> Page:
    """Lay a frontier out as a report."""
    facts = [
        ("task", report.task),
        ("half of the held-out data", report.half),
        ("compared with", report.against),
        ("oracle", report.oracle or "–"),
        ("seeds a point", report.seeds_a_point),
        ("base model, new score", _tell(report.base[0])),
        ("base model, prior score", _tell(report.base[1])),
        *((f"results {number}", str(path)) for number, path in enumerate(files, 1)),
        ("mixcd", __version__),
    ]
    return Page(
        title=f"Prior against new score: {report.task}",
        verdict=judge_frontier(report),
        remarks=report.notes,
        sections=[
            Section("Frontier", _FRONTIER_READING, pictures=[_draw(report)]),
            Section("Methods", _TABLE_READING, tables=[_list_points(report), _list_volumes(report)]),
        ],
        facts=facts,
    )


def judge_frontier(report: FrontierReport) -> str:
    """Say in one sentence which charged methods beat the reference at equal new score, beyond their intervals."""
    ahead, behind, count = [], [], 0
    for method in report.methods:
        for point in method.points:
            gain = point.matched.gain if point.matched and point.is_charged else None
            if gain is None or gain.interval is None or method.name == report.against:
                continue
            count += 1
            name = f"{plain_name(method.name)} at β {point.mix_ratio:g} ({100 * gain.value:+.1f} points)"
            if gain.interval[0] > 0:
                ahead.append((gain.value, name))
            elif gain.interval[1] < 0:
                behind.append((gain.value, name))
    against = plain_name(report.against)
    if not count:
        return f"These runs do not tell whether a method is ahead of {against} at equal new score."
    best = f", the most {max(ahead)[1]}" if ahead else ""
    return (
        f"At equal new score, {len(ahead)} of {count} points are ahead of {against} beyond their 95 % intervals{best}; "
        f"{len(behind)} are behind."
    )


def _draw(report: FrontierReport) -> Picture:
    named = _choose_named(report)

    def draw(axes: Axes) -> None:
        axes.axhline(report.base[1].value, color=SOFT, linestyle=":", linewidth=1, label="base model, prior score")
        for method in report.methods:
            if method.name not in named:
                x, y = _means(method)
                axes.plot(x, y, color=RULE, marker=".", linestyle="none", zorder=1)
        for place, name in enumerate(named):
            method = next(one for one in report.methods if one.name == name)
            x, y = _means(method)
            axes.errorbar(
                x,
                y,
                xerr=reach([point.new for point in method.points]),
                yerr=reach([point.prior for point in method.points]),
                color=SERIES[place % len(SERIES)],
                marker=MARKERS[place % len(MARKERS)][0],
                linestyle=LINES[place // len(SERIES) % len(LINES)][0],
                linewidth=1.2,
                elinewidth=0.7,
                markersize=5,
                label=" " + show_text(plain_name(name), _NAME_START),
            )
        axes.set(xlabel="score on the new task", ylabel="score on the prior task")
        _look_at(axes, [point for method in report.methods if method.name in named for point in method.points])
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=9)

    described = f"Prior against new score of {len(report.methods)} methods; every number is in the table below."
    return Picture(draw_svg("frontier", draw, height=4.9), described)


def _look_at(axes: Axes, points: Sequence[PointReport]) -> None:
    """Show where these points are: others may lie far off."""
    for values, limit in (([one.new for one in points], axes.set_xlim), ([one.prior for one in points], axes.set_ylim)):
        bounds = [bound for one in values for bound in (one.interval or (one.value, one.value))]
        margin = 0.05 * (max(bounds) - min(bounds)) or 0.01
        limit(min(bounds) - margin, max(bounds) + margin)


def _choose_named(report: FrontierReport) -> list[str]:
    """The methods that the picture names, in its order."""
    best = sorted(report.methods, key=lambda one: (-sum(point.is_pareto for point in one.points), one.name))
    wanted = [report.against, PLAIN, report.oracle, *(one.name for one in best if any(p.is_pareto for p in one.points))]
    known = {method.name for method in report.methods}
    return [name for name in dict.fromkeys(wanted) if name is not None and name in known][:_MOST_NAMED]


def _list_points(report: FrontierReport) -> Table:
    rows = [
        [
            f"{plain_name(method.name)}{'' if point.is_charged else ' ‡'}{' ★' if point.is_pareto else ''}",
            f"{point.mix_ratio:g}" if point.mix_ratio else "–",
            _tell(point.prior),
            _tell(point.new),
            _scaled(point.prior_difference),
            _scaled(point.new_difference),
            _scaled(point.matched.gain) if point.matched else "–",
            f"{100 * point.yield_rate:.1f} %" if point.yield_rate is not None else "–",
            str(point.new.seed_count),
        ]
        for method in report.methods
        for point in method.points
    ]
    headings = ["method", "β", "prior", "new", "Δ prior", "Δ new", "at equal new score", "yield", "seeds"]
    return Table(f"Every method, against {plain_name(report.against)}", headings, rows, is_searchable=True)


def _list_volumes(report: FrontierReport) -> Table:
    rows = [
        [plain_name(method.name), _scaled(method.volume, 1e4), _scaled(method.volume_difference, 1e4)]
        for method in report.methods
        if method.volume is not None
    ]
    caption = "Hypervolume ×10⁴, above the base model's new score and plain fine-tuning's prior score"
    return Table(caption, ["method", "volume", "less the reference's"], rows, is_folded=True)


def _means(method: MethodReport) -> tuple[list[float], list[float]]:
    return [point.new.value for point in method.points], [point.prior.value for point in method.points]


def _tell(one: Estimate) -> str:
    return f"{one.value:.3f}" + (f" ({one.interval[0]:.3f}–{one.interval[1]:.3f})" if one.interval else "")


def _scaled(one: Estimate | None, scale: float = 100) -> str:
    if one is None:
        return "–"
    bounds = f" ({scale * one.interval[0]:+.2f} … {scale * one.interval[1]:+.2f})" if one.interval else ""
    return f"{scale * one.value:+.2f}{bounds}"
