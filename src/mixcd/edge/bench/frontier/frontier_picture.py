"""Pictures of a frontier: a PNG, and an HTML page that needs no network."""

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as plotly
from matplotlib.figure import Figure

from mixcd.edge.bench.frontier.frontier_report import FrontierReport, MethodReport, PointReport
from mixcd.edge.bench.frontier.seed_interval import Estimate
from mixcd.words.errors import plain_name
from mixcd.words.files import replace_file

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind people tell apart; yellow is too light on white."""
MARKERS = (  # of matplotlib and of plotly; 11 markers and 7 colours meet again after 77 methods
    ("o", "circle"),
    ("s", "square"),
    ("D", "diamond"),
    ("^", "triangle-up"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("X", "x"),
    ("p", "pentagon"),
    ("h", "hexagon"),
    ("<", "triangle-left"),
    (">", "triangle-right"),
)
LINES = (("-", "solid"), ("--", "dash"), ("-.", "dashdot"))
"""The next one whenever the colours begin anew."""
_SMALL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": "#555555"}
_NEW, _PRIOR = "score on the new task", "score on the prior task"


def draw_png(report: FrontierReport, path: Path) -> None:
    """Draw every method's line over its mix ratios, with 95 % intervals of both scores."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.add_subplot()
    handles: list[Any] = [axes.axhline(report.base[1].value, color="#777777", linestyle=":")]
    for method, color, (marker, _), (line, _) in _styles(report.methods):
        new, prior = [point.new for point in method.points], [point.prior for point in method.points]
        handles.append(
            axes.errorbar(
                [one.value for one in new],
                [one.value for one in prior],
                xerr=reach(new),
                yerr=reach(prior),
                color=color,
                marker=marker,
                linestyle=line,
                linewidth=1.2,
                elinewidth=0.8,
                capsize=2,
                alpha=0.85,
            )
        )
        if method.name == report.against:
            for point in method.points:
                axes.annotate(f"β {point.mix_ratio:g}", (point.new.value, point.prior.value), (5, 5), **_SMALL)
    axes.set(xlabel=_NEW, ylabel=_PRIOR)
    axes.set_title(_describe(report), parse_math=False)
    axes.grid(alpha=0.3)
    names = [" " + plain_name(method.name) for method in report.methods]  # an underscore in front would hide it
    legend = axes.legend(
        handles, [_describe_base(report), *names], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    with replace_file(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=150)


def write_html(report: FrontierReport, path: Path) -> None:
    """Write the same picture as a page to point at, in one file that holds all it needs."""
    figure = plotly.Figure()
    figure.add_hline(y=report.base[1].value, line_dash="dot", annotation_text=_describe_base(report))
    for method, color, (_, symbol), (_, dash) in _styles(report.methods):
        new, prior = [point.new for point in method.points], [point.prior for point in method.points]
        figure.add_scatter(
            x=[one.value for one in new],
            y=[one.value for one in prior],
            error_x=_error_bars(new),
            error_y=_error_bars(prior),
            name=html.escape(plain_name(method.name)),
            mode="lines+markers",
            marker={"color": color, "symbol": symbol, "size": 9},
            line={"dash": dash},
            text=[_describe_point(plain_name(method.name), point) for point in method.points],
            hoverinfo="text",
        )
    figure.update_layout(
        title=html.escape(_describe(report)), xaxis_title=_NEW, yaxis_title=_PRIOR, template="plotly_white"
    )
    page = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
    with replace_file(path) as unfinished:
        unfinished.write_text(page, "utf-8")


def _styles(methods: Sequence[MethodReport]) -> Iterator[tuple[MethodReport, str, tuple[str, str], tuple[str, str]]]:
    for number, method in enumerate(methods):
        line = LINES[number // len(COLORS) % len(LINES)]
        yield method, COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)], line


def _describe_base(report: FrontierReport) -> str:
    return f"base model, prior score (new: {report.base[0].value:.3f})"


def _describe(report: FrontierReport) -> str:
    seeds = "1 seed" if report.seeds_a_point == "1" else f"{report.seeds_a_point} seeds, 95 % intervals"
    return f"{plain_name(report.task)}: {report.half} half, {seeds}"


def _describe_point(name: str, point: PointReport) -> str:
    scores = (f"{what} {_tell(one)}" for what, one in (("new", point.new), ("prior", point.prior)))
    return "<br>".join(html.escape(line) for line in (name, f"β {point.mix_ratio:g}", *scores))


def _tell(one: Estimate) -> str:
    bounds = f" ({one.interval[0]:.3f} to {one.interval[1]:.3f})" if one.interval else ""
    return f"{one.value:.3f}{bounds}"


def reach(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Return how far the intervals reach below and above the values, two lists."""
    bounds = [one.interval or (one.value, one.value) for one in estimates]
    return [
        [max(one.value - low, 0.0) for one, (low, _) in zip(estimates, bounds, strict=True)],
        [max(high - one.value, 0.0) for one, (_, high) in zip(estimates, bounds, strict=True)],
    ]


def _error_bars(estimates: Sequence[Estimate]) -> dict[str, Any]:
    below, above = reach(estimates)
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3}
