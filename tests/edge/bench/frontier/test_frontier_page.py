from pathlib import Path

from frontier_rows import make_row, make_sweep
from mixcd.edge.bench.frontier.frontier_page import judge_frontier, make_frontier_page
from mixcd.edge.bench.frontier.frontier_report import report_frontier
from mixcd.run.report.page import render_page

ALL = ("uniform", "drift", "none", "oracle-hard")


def test_every_point_is_in_the_table_and_the_picture_names_the_reference():
    report = report_frontier(make_sweep(methods=ALL))
    page = make_frontier_page(report, [Path("toy.parquet")])
    frontier, methods = page.sections
    assert len(methods.tables[0].rows) == sum(len(method.points) for method in report.methods)
    assert "> uniform</text>" in frontier.pictures[0].svg
    assert dict(page.facts)["results 1"] == "toy.parquet"


def test_the_verdict_counts_points_ahead_at_equal_new_score():
    verdict = judge_frontier(report_frontier(make_sweep(methods=("uniform", "drift", "none"))))
    assert verdict.startswith("At equal new score, 2 of 3 points")
    assert "the most drift at β 0.1" in verdict


def test_one_seed_tells_nothing():
    report = report_frontier(make_sweep(seeds=1))
    assert "do not tell" in judge_frontier(report)
    assert "±" not in render_page(make_frontier_page(report, []))


def test_wise_ft_points_are_methods_of_the_page_and_names_are_inert():
    rows = [*make_sweep(), *(make_row("<b>$x$", 0.1, seed, wise_ft=0.5, new=0.9, prior=0.9) for seed in range(3))]
    html = render_page(make_frontier_page(report_frontier(rows), []))
    assert "&lt;b&gt;$x$ + WiSE-FT 0.5" in html
    assert "<b>$x$" not in html
