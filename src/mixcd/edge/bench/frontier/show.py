"""What `mixcd frontier` shows: what a sweep found, as tables and pictures."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcd.edge.bench.frontier.frontier_comparison import MatchedGain
from mixcd.edge.bench.frontier.frontier_report import ORACLE, PLAIN, FrontierReport, report_frontier
from mixcd.edge.bench.frontier.frontier_runs import join_results, judge_by, keep_methods, require_half
from mixcd.edge.bench.frontier.seed_interval import Estimate, Headroom
from mixcd.edge.bench.sweep.sweep_results import read_results
from mixcd.words.errors import DataError, SettingError, plain_name
from mixcd.words.files import require_free


def show_frontier(
    files: Sequence[Path],
    half: str,
    measure: str | None,
    against: str,
    oracle: str | None,
    only: Sequence[str],
    png: Path | None,
    html: Path | None,
    page: Path | None,
    output_format: str,
    overwrite: bool,
) -> None:
    """Print what the results of a sweep say, and draw the pictures that are wanted.

    Args:
        half: "test" or "validation".
        measure: What to judge by in the place of accuracy, such as "f1".
        oracle: The oracle; None for the default.
        only: Methods to show beside those that are compared with; all when empty.
        page: An HTML file for the whole report.
        output_format: "table" or "json".

    Raises:
        SettingError: If a name is unknown, a run was not measured so, or a picture would replace a file.
        DataError: If the results do not fit together.
        OSError: If a picture cannot be written.
    """
    chosen = require_half(half)
    require_free((png, html, page), "a picture", overwrite=overwrite, read=files)
    rows = join_results(map(_read, files))
    if only:
        rows = keep_methods(rows, only, (against, oracle or ORACLE, PLAIN))
    if measure is not None:
        if chosen != "test":
            raise SettingError(
                "`--measure` goes with the test half only: the other is judged by accuracy. Leave out one."
            )
        rows = judge_by(rows, measure)
    report = report_frontier(rows, chosen, against, oracle)
    if png is not None:
        from mixcd.edge.bench.frontier.frontier_picture import draw_png

        draw_png(report, png)
    if html is not None:
        from mixcd.edge.bench.frontier.frontier_picture import write_html

        write_html(report, html)
    if page is not None:
        from mixcd.edge.bench.frontier.frontier_page import make_frontier_page
        from mixcd.run.report.page import write_page

        write_page(make_frontier_page(report, files), page, overwrite=overwrite)
    if output_format == "json":
        sys.stdout.write(json.dumps(asdict(report), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        return
    console = Console()
    for table in make_tables(report):
        console.print(table)
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def make_tables(report: FrontierReport) -> Iterator[Table]:
    """Lay a report out as three tables: scores, comparison with the reference method, volumes."""
    against = plain_name(report.against)
    yield _make_table(
        f"{plain_name(report.task)}, {report.half} half: scores in %, 95 % intervals over seeds; * on the frontier",
        ("method", "β", "seeds", "prior", "new", "damaged", "yield", "extra\ncompute"),
        (
            (
                plain_name(method.name),
                f"{point.mix_ratio:g}{'*' if point.is_pareto else ''}",
                str(point.new.seed_count),
                *(_scaled(one) for one in (point.prior, point.new, point.damaged_share)),
                "–" if point.yield_rate is None else f"{100 * point.yield_rate:.1f}",
                f"{100 * point.extra_compute:.0f} %{'' if point.is_charged else ', free'}",
            )
            for method in report.methods
            for point in method.points
        ),
    )
    yield _make_table(
        f"Less {against}, in points, seed by seed; † new score beyond {against}'s: less its highest",
        ("method", "β", "pairs", "prior", "new", "prior at\nequal new", "headroom\ncaptured"),
        (
            (
                plain_name(method.name),
                f"{point.mix_ratio:g}",
                str(point.prior_difference.seed_count if point.prior_difference else 0),
                _scaled(point.prior_difference, "+"),
                _scaled(point.new_difference, "+"),
                _matched(point.matched),
                _captured(point.headroom),
            )
            for method in report.methods
            if method.name != report.against
            for point in method.points
        ),
    )
    yield _make_table(
        "Hypervolume ×10⁴ above the base model's new score and plain fine-tuning's prior score",
        ("method", "mix ratios", "seeds", "volume", f"less {against}", "pairs"),
        (
            (
                plain_name(method.name),
                str(len(method.points)),
                str(method.volume.seed_count if method.volume else 0),
                _scaled(method.volume, scale=1e4),
                _scaled(method.volume_difference, "+", 1e4),
                str(method.volume_difference.seed_count if method.volume_difference else 0),
            )
            for method in report.methods
        ),
    )


def _make_table(title: str, headings: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 0, 0, 1))
    for heading in headings:
        table.add_column(Text(heading), justify="left" if heading == "method" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _scaled(one: Estimate | None, sign: str = "", scale: float = 100) -> str:
    """The value, and its interval below it."""
    if one is None:
        return "–"
    value, *bounds = (
        f"{round(scale * number, 1) + 0.0:{sign}.1f}" for number in (one.value, *(one.interval or ()))
    )  # no "-0.0"
    return f"{value}\n{'…'.join(bounds)}" if bounds else value


def _matched(matched: MatchedGain | None) -> str:
    if matched is None:
        return "–"
    if matched.gain is None:
        return "no match"
    value, *rest = _scaled(matched.gain, "+").split("\n")
    return "\n".join([value + ("†" if matched.match == "clamped" else ""), *rest])


def _captured(headroom: Headroom | None) -> str:
    if headroom is None or headroom.is_there is None:
        return "–"
    if headroom.captured is None:
        return "no headroom"
    return _scaled(headroom.captured).replace("\n", " %\n")


def _read(path: Path) -> list[dict[str, object]]:
    rows = read_results(path)
    if not rows:
        raise DataError(f"`{path}` holds no runs, but a frontier needs at least one. Run `mixcd sweep` first.")
    return rows
