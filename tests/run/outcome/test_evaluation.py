from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.run.outcome.evaluation import DamagedSample, Evaluation, TaskChange, compare_correctness

FLIPS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
CHANGE = TaskChange(sample_count=200, right_before=150, damaged_count=8, gained_count=1)


def compare(flips):
    before, after = np.array(flips, dtype=bool).T
    return compare_correctness(before, after), before, after


def wilson(part, whole, z=1.959963984540054):
    share, spread = part / whole, z**2 / whole
    centre = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / whole + spread / (4 * whole)) / (1 + spread)
    return centre - half, centre + half


@given(FLIPS)
@settings(deadline=None, max_examples=80)
def test_scores_are_the_shares_that_are_right_and_their_difference_is_gained_minus_damaged(flips):
    change, before, after = compare(flips)
    assert change.score_before == before.mean()
    assert change.score_after == pytest.approx(after.mean())
    assert change.net_change == pytest.approx(change.score_after - change.score_before)
    assert change.net_change * len(flips) == pytest.approx(change.gained_count - change.damaged_count)
    assert change.damaged_share == change.damaged_count / len(flips)


@given(FLIPS)
@settings(deadline=None, max_examples=80)
def test_flips_are_counted_sample_by_sample(flips):
    change, *_ = compare(flips)
    assert change == TaskChange(
        sample_count=len(flips),
        right_before=sum(before for before, _ in flips),
        damaged_count=flips.count((True, False)),
        gained_count=flips.count((False, True)),
    )


@given(FLIPS)
@settings(deadline=None, max_examples=80)
def test_exchanging_the_models_exchanges_damaged_and_gained(flips):
    change, before, after = compare(flips)
    mirrored = compare_correctness(after, before)
    assert (mirrored.damaged_count, mirrored.gained_count) == (change.gained_count, change.damaged_count)
    assert mirrored.net_change == -change.net_change
    assert mirrored.mcnemar_p == pytest.approx(change.mcnemar_p)


@pytest.mark.parametrize(("damaged", "sample_count"), [(8, 200), (1, 10), (50, 50), (0, 30)])
def test_the_damaged_interval_is_wilsons(damaged, sample_count):
    change = TaskChange(sample_count, sample_count, damaged, 0)
    assert change.damaged_interval == pytest.approx(wilson(damaged, sample_count), abs=1e-12)


def test_no_damage_has_an_interval_from_zero_up():
    low, high = TaskChange(100, 90, 0, 3).damaged_interval
    assert low == 0
    assert high == pytest.approx(1.96**2 / (100 + 1.96**2), rel=1e-3)


@pytest.mark.parametrize(("damaged", "gained"), [(8, 1), (1, 8), (5, 0), (3, 3), (20, 7)])
def test_mcnemars_p_is_the_exact_two_sided_binomial(damaged, gained):
    flips = damaged + gained
    tail = sum(comb(flips, k) for k in range(min(damaged, gained) + 1)) / 2**flips
    assert TaskChange(100, 50, damaged, gained).mcnemar_p == pytest.approx(min(1, 2 * tail))


def test_mcnemars_p_is_one_when_nothing_flipped():
    assert TaskChange(100, 50, 0, 0).mcnemar_p == 1.0


def test_equal_losses_and_gains_are_damage_though_they_balance():
    change = TaskChange(100, 50, 20, 20)
    assert change.net_change == 0
    assert change.mcnemar_p == 1.0
    assert change.damaged_interval[0] > 0.1


def test_a_change_reads_as_one_line():
    assert str(CHANGE) == (
        "score 0.750 → 0.715, damaged 4.0% (2.0% to 7.7%): 8 right→wrong, 1 wrong→right, net -3.5% "
        "(McNemar p = 0.039), 200 held-out samples"
    )


def test_a_gain_reads_with_its_sign():
    assert "net +1.0% (McNemar p = 1), 100" in str(TaskChange(100, 50, 0, 1))


def test_an_evaluation_reads_as_a_line_a_task():
    damaged = [DamagedSample(3, "easy", 0, 1, "text")]
    new = TaskChange(100, 50, 0, 1)
    assert str(Evaluation(CHANGE, None, damaged)) == f"prior task: {CHANGE}"
    assert str(Evaluation(CHANGE, new, damaged)) == f"prior task: {CHANGE}\nnew task:   {new}"
