from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.edge.compare.comparison import Comparison, compare_outcomes, expect_lost_guesses, rank_damaged
from mixcd.edge.compare.partition_damage import measure_damage, rank_partitions
from mixcd.ideas.lift import permute_bins
from mixcd.run.outcome.evaluation import LEAST_SAMPLES, TaskChange
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Partition
from outcomes import make_uneven

ROWS = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=120)


def unpack(rows):
    before, after, a, b = np.array(rows).T
    names = [("a", Partition(a, tuple(f"a={k}" for k in range(5)))), ("b", Partition(b, ("b=0", "b=1", "b=2")))]
    return before.astype(bool), after.astype(bool), names


@given(ROWS)
@settings(deadline=None)
def test_the_change_of_the_score_is_gained_minus_damaged_exactly(rows):
    change = compare_outcomes(*unpack(rows)).change
    n = change.sample_count
    before, after = (Fraction(sum(row[which] for row in rows), n) for which in (0, 1))
    assert after - before == Fraction(change.gained_count, n) - Fraction(change.damaged_count, n)
    assert change.net_change == float(after - before)


@given(ROWS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_nothing_depends_on_the_order_of_the_rows(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert repr(compare_outcomes(*unpack(rows))) == repr(compare_outcomes(*unpack(shuffled)))


@given(ROWS)
@settings(deadline=None)
def test_bins_add_up_to_the_whole(rows):
    comparison = compare_outcomes(*unpack(rows))
    for partition in comparison.partitions:
        changes = [one.change for one in partition.bins]
        names = ("sample_count", "right_before", "damaged_count", "gained_count")
        totals = [sum(getattr(change, name) for change in changes) for name in names]
        assert TaskChange(*totals) == comparison.change


@given(ROWS)
@settings(deadline=None)
def test_a_model_against_itself_lost_nothing(rows):
    before, _, partitions = unpack(rows)
    comparison = compare_outcomes(before, before, partitions)
    assert comparison.change.damaged_count == comparison.change.gained_count == 0
    assert not comparison.is_damaged
    assert comparison.is_damaged is None or len(rows) >= LEAST_SAMPLES
    assert all(np.isnan(one.lift.value) for one in comparison.partitions)


@given(ROWS)
@settings(deadline=None)
def test_bins_are_ranked_by_the_lower_bound_of_their_damage(rows):
    for partition in compare_outcomes(*unpack(rows)).partitions:
        lows = [one.change.damaged_interval[0] for one in partition.bins]
        assert lows == sorted(lows, reverse=True)


def test_damage_on_one_bin_has_the_lift_that_it_was_made_with():
    before, after, topic = make_uneven()
    rates = np.array([0.04, 0.04, 0.4])
    made = np.mean(rates**2) / np.mean(rates) ** 2
    found = measure_damage("topic", topic, before, after)
    assert found.lift.low < made < found.lift.high
    assert found.bins[0].name == "topic=2"


@pytest.mark.parametrize("seed", range(5))
def test_permuted_columns_have_a_lift_of_about_one(seed):
    before, after, topic = make_uneven(seed=seed)
    assert measure_damage("topic", permute_bins(topic, seed), before, after).lift.value < 1.01


def test_the_most_uneven_partition_comes_first_and_the_unknown_last():
    before, after, topic = make_uneven()
    uneven = measure_damage("z", topic, before, after)
    even = measure_damage("a", permute_bins(topic, 0), before, after)
    unknown = measure_damage("0", topic, before, before)
    assert [one.name for one in rank_partitions([unknown, even, uneven])] == ["z", "a", "0"]


def test_bins_without_samples_are_left_out():
    right = np.ones(3, dtype=bool)
    found = measure_damage("a", Partition(np.array([0, 0, 2]), ("x", "y", "z")), right, right)
    assert [one.name for one in found.bins] == ["x", "z"]


def test_damaged_samples_are_ranked_by_the_rise_of_their_loss():
    before, after = np.array([1.0, 0.0, 0.5, 0.0]), np.array([2.0, 5.0, 4.0, 9.0])
    assert rank_damaged(np.array([True, True, True, False]), before, after).tolist() == [1, 2, 0]
    assert rank_damaged(np.array([True, True, True, True]), before, after, most=2).tolist() == [3, 1]


@pytest.mark.parametrize("choices", [2, 4])
def test_guessing_explains_all_that_is_lost_when_nothing_is_known(choices):
    rng = np.random.default_rng(choices)
    before, after = rng.random((2, 200_000)) < 1 / choices
    comparison = compare_outcomes(before, after, [], choices=choices)
    assert comparison.change.damaged_share > 0.1
    assert comparison.damaged_share < 0.003
    assert comparison.is_damaged is False
    assert compare_outcomes(before, after, []).is_damaged is True


@pytest.mark.parametrize("choices", [2, 4])
def test_guessing_explains_no_more_than_is_lost_where_both_models_guess_on_the_same_questions(choices):
    rng = np.random.default_rng(choices)
    known = rng.random(200_000) < 0.3
    before, after = known | (rng.random((2, known.size)) < 1 / choices)
    comparison = compare_outcomes(before, after, [], choices=choices)
    assert 0.4 * comparison.change.damaged_share < comparison.damaged_by_chance < comparison.change.damaged_share


def test_what_guessing_explains_is_taken_off_the_interval_too():
    change = TaskChange(1000, 500, 200, 100)
    chance = expect_lost_guesses(change, 3)
    assert chance == pytest.approx(0.5 * 0.6 / 2)
    low, high = Comparison(change, (), choices=3).damaged_interval
    assert (low, high) == pytest.approx([bound - chance for bound in change.damaged_interval])


def test_few_samples_have_no_interval():
    comparison = Comparison(TaskChange(LEAST_SAMPLES - 1, 20, 10, 0), ())
    assert comparison.damaged_interval is None
    assert comparison.is_damaged is None
    with pytest.raises(SettingError, match="There are 29 samples, but a bound of the damaged share needs at least 30"):
        comparison.exceeds(0.01)


def test_a_rate_is_exceeded_by_the_lower_bound():
    comparison = Comparison(TaskChange(1000, 900, 50, 0), ())
    low, high = comparison.damaged_interval
    assert comparison.exceeds(low - 1e-9)
    assert not comparison.exceeds(low)
    assert not comparison.exceeds(high)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_is_no_share_is_refused(tolerance):
    with pytest.raises(SettingError, match="`tolerance` is .* a share of the samples, from 0 to below 1"):
        compare_outcomes(np.ones(2, bool), np.ones(2, bool), [], tolerance=tolerance)


def test_a_question_of_one_choice_is_refused():
    with pytest.raises(SettingError, match="`choices` is 1, but a multiple-choice question has at least 2 options"):
        compare_outcomes(np.ones(2, bool), np.ones(2, bool), [], choices=1)


def test_a_million_samples_are_quick():
    before, after, topic = make_uneven(1_000_000)
    assert compare_outcomes(before, after, [("topic", topic)] * 20).change.sample_count == 1_000_000
