import numpy as np
import pytest

from mixcd.edge.demo.demo_result import (
    HEADINGS,
    CorrectFlags,
    DemoResult,
    DemoRun,
    JudgedRun,
    draw_picture,
    judge,
    make_table,
    to_markdown,
)
from mixcd.run.outcome.evaluation import TaskChange

COUNT = 1000
CHANGE = TaskChange(sample_count=COUNT, right_before=750, damaged_count=260, gained_count=60)
UNDAMAGED = TaskChange(sample_count=COUNT, right_before=750, damaged_count=12, gained_count=30)


def right(share):
    return np.arange(COUNT) < share * COUNT


def run(name="uniform", prior=0.7, new=0.8, change=CHANGE, **numbers):
    values = {"yield_rate": 0.14, "lift": 2.0, "seconds_a_step": 0.2, "forward_count": 300, **numbers}
    return JudgedRun(DemoRun(name, change, change, **values), CorrectFlags(right(prior), right(new)))


@pytest.mark.parametrize(
    ("mixcd", "verdict"),
    [
        (run(prior=0.703), "Undecided: against uniform rehearsal, mix-cd's prior score is +0.3 points (p = 0.25)"),
        (run(prior=0.75), "Worth it in this run, of one seed: against uniform rehearsal, mix-cd's prior score is +5.0"),
        (run(prior=0.65), "Not worth it here: against uniform rehearsal, mix-cd's prior score is -5.0 points"),
        (run(prior=0.75, new=0.7), "so what it keeps is paid for on the new task."),
    ],
)
def test_the_verdict_follows_the_numbers(mixcd, verdict):
    assert verdict in judge(run("no rehearsal"), run(), mixcd)


def test_no_damage_is_not_worth_it():
    sentence = judge(run("no rehearsal", change=UNDAMAGED), run(), run(prior=0.75))
    assert sentence == "Not worth it here: without rehearsal only 1.2% of the prior task is damaged."


def test_equal_scores_show_no_minus_zero():
    assert "prior score is +0.0 points (p = 1) and its new score +0.0 points (p = 1)" in judge(run(), run(), run())


def test_table_and_picture_show_every_run(tmp_path):
    runs = tuple(
        run(name, **numbers).numbers
        for name, numbers in (
            ("no rehearsal", {"yield_rate": None, "lift": None}),
            ("uniform", {"lift": 1.0}),
            ("mix-cd", {}),
        )
    )
    result = DemoResult(0, runs, "Undecided.", 601)
    lines = to_markdown(result).splitlines()
    assert lines[0] == f"| {' | '.join(HEADINGS)} |"
    assert lines[2] == "| no rehearsal | 0.750 | 0.550 | 0.550 | – | – | 26.0% (23.4–28.8) | 0.200 | 300 |"
    assert make_table(result).row_count == len(lines) - 2 == 3
    assert "one seed, an illustration" in str(make_table(result).title)
    draw_picture(result, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
