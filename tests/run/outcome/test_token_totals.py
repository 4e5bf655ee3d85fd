import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcd.run.outcome.cluster_statistics import LEAST_SAMPLES, LEAST_WEIGHTED
from mixcd.run.outcome.evaluation import compare_bins, compare_correctness
from mixcd.run.outcome.run_folder import change_from_json, change_to_json
from mixcd.run.outcome.token_totals import total_tokens
from mixcd.words.vocabulary import UNCACHED_BIN, Partition, TokenChange

COUNTS = st.lists(
    st.tuples(*[st.integers(0, 5)] * 4).map(lambda kinds: (sum(kinds), kinds[0] + kinds[1], kinds[0], kinds[2])),
    min_size=1,
    max_size=20,
)
"""Of each sample its target tokens, and which of them were right before, lost and gained."""


def change_of(counts):
    return TokenChange(*np.array(counts, dtype=np.int64).T)


def make_change(count, seed=0):
    kinds = np.random.default_rng(seed).integers(0, 6, (4, count))
    return TokenChange(kinds.sum(0), kinds[0] + kinds[1], kinds[0], kinds[2])


@given(counts=COUNTS)
def test_totals_are_sums_over_samples_and_net_is_gained_less_lost(counts):
    totals = total_tokens(change_of(counts), is_graded=True)
    target, right, lost, gained = (sum(column) for column in zip(*counts, strict=True))
    assert (totals.target_count, totals.right_before, totals.lost_count, totals.gained_count) == (
        target,
        right,
        lost,
        gained,
    )
    assert totals.damaged_count == sum(one[2] > 0 for one in counts)
    assert totals.net_change == ((gained - lost) / target if target else 0)
    assert totals.score_after == ((right - lost + gained) / target if target else 0)
    assert totals.damaged_share == pytest.approx(np.mean([one[2] / max(one[1], 1) for one in counts]))
    assert 0 <= totals.damaged_share <= 1
    assert 0 < totals.sign_flip_p <= 1


@pytest.mark.parametrize(("count", "known"), [(LEAST_SAMPLES - 1, 0), (LEAST_SAMPLES, 1), (LEAST_WEIGHTED, 3)])
def test_few_samples_have_no_interval(count, known):
    totals = total_tokens(make_change(count), is_graded=True)
    intervals = (totals.damaged_interval, totals.lost_interval, totals.net_interval)
    assert [interval is not None for interval in intervals] == [place < known for place in range(3)]
    for interval, value in zip(intervals, (totals.damaged_share, totals.lost_share, totals.net_change), strict=True):
        assert interval is None or interval[0] < value < interval[1]


def test_a_damaged_sample_of_one_token_is_damaged_as_a_whole():
    right = np.random.default_rng(0).random((2, 100)) < 0.7
    flags = (np.ones(100, dtype=bool), right[0], right[0] & ~right[1], ~right[0] & right[1])
    tokens = TokenChange(*(one.astype(np.int64) for one in flags))
    change = compare_correctness(*right, tokens, is_graded=True)
    assert change.tokens.damaged_share == change.damaged_share
    assert change.tokens.score_before == change.score_before
    assert change.tokens.net_change == change.net_change


def test_figures_by_token_lead_only_where_damage_is_counted_so():
    right = np.ones(50, dtype=bool)
    graded, whole = (compare_correctness(right, right, make_change(50), is_graded=one) for one in (True, False))
    assert graded.lead is graded.tokens
    assert whole.lead is whole
    assert str(graded).startswith("token accuracy ")
    assert "; every target token right: score 1.000 → 1.000" in str(graded)
    assert str(whole).startswith("score 1.000 → 1.000")
    assert "; token accuracy " in str(whole)


def test_bins_have_the_figures_of_their_samples_alone():
    change, bins = make_change(120), np.random.default_rng(1).integers(UNCACHED_BIN, 3, 120)
    before, after = np.random.default_rng(2).random((2, 120)) < 0.5
    found = compare_bins(Partition(bins, ("a", "b", "c", "empty")), before, after, change, is_graded=True)
    for number, one in enumerate(found):
        own = bins == number
        assert one == compare_correctness(before[own], after[own], change[own], is_graded=True)
    assert found[3].tokens.target_count == found[3].tokens.sample_count == 0


def test_a_change_comes_back_from_json_with_its_figures_by_token():
    right = np.ones(250, dtype=bool)
    for change in (make_change(250), make_change(10)):
        count = len(change.target_count)
        one = compare_correctness(right[:count], right[:count], change, is_graded=True)
        assert change_from_json(change_to_json(one)) == one


def test_whole_samples_are_written_as_they_always_were():
    right = np.ones(50, dtype=bool)
    assert list(change_to_json(compare_correctness(right, right))) == [
        "sample_count",
        "right_before",
        "damaged_count",
        "gained_count",
        "score_before",
        "score_after",
        "net_change",
        "damaged_share",
        "damaged_share_low",
        "damaged_share_high",
        "mcnemar_p",
    ]
