from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binomtest, permutation_test

from mixcd.run.outcome.cluster_statistics import LEAST_WEIGHTED, bootstrap_ratios, bound_mean, flip_signs
from mixcd.run.outcome.token_totals import total_tokens
from mixcd.words.vocabulary import TokenChange

RUNS = 1000


def make_texts(count, rng, *, lost=(0.3, 6.0), gained=(0.3, 6.0), hit_share=1.0):
    """Make samples of log-normal lengths, each with its own chances to lose and to gain a token."""
    target = np.maximum(1, np.round(np.exp(rng.normal(3.5, 1.0, count)))).astype(np.int64)
    right = rng.binomial(target, rng.beta(3, 2, count))
    hit = rng.random(count) < hit_share
    losses = rng.binomial(right, np.where(hit, rng.beta(*lost, count), 0.0))
    return TokenChange(target, right, losses, rng.binomial(target - right, rng.beta(*gained, count)))


@cache
def find_truth(**settings):
    change = make_texts(1_000_000, np.random.default_rng(10**6), **settings)
    target, lost = change.target_count.sum(), change.lost_count.sum()
    return change.damage.mean(), lost / target, (change.gained_count.sum() - lost) / target


def count_covered(count, runs, **settings):
    """Say how often the intervals of damage, lost share and net change hold the truth, and how often they are known."""
    covered, known = np.zeros(3), np.zeros(3)
    for run in range(runs):
        totals = total_tokens(make_texts(count, np.random.default_rng(run), **settings), is_graded=True)
        intervals = (totals.damaged_interval, totals.lost_interval, totals.net_interval)
        for place, (truth, interval) in enumerate(zip(find_truth(**settings), intervals, strict=True)):
            known[place] += interval is not None
            covered[place] += interval is not None and interval[0] <= truth <= interval[1]
    return covered / np.maximum(known, 1), known / runs


@pytest.mark.parametrize("settings", [{}, {"lost": (1.0, 6.0), "hit_share": 0.1}])
@pytest.mark.parametrize(("count", "runs"), [(30, 1000), (LEAST_WEIGHTED, 1000), (1500, 200)])
def test_intervals_cover_the_truth_where_samples_are_of_very_different_lengths(count, runs, settings):
    covered, known = count_covered(count, runs, **settings)
    assert known[0] == 1
    assert covered[0] >= 0.92
    if count < LEAST_WEIGHTED:
        assert not known[1:].any()
    else:
        assert (known >= 0.99).all()
        assert (covered >= 0.92).all()


def test_intervals_are_no_wider_than_they_need_be():
    """Against those of normal theory, which hold at many samples."""
    change = make_texts(20_000, np.random.default_rng(3))
    damage = change.damage
    low, high = total_tokens(change, is_graded=True).damaged_interval
    assert (high - low) / (2 * 1.96 * damage.std() / len(damage) ** 0.5) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("damaged_count", [0, 1, 3, 5])
def test_the_interval_of_a_few_damaged_samples_is_wilsons(damaged_count):
    damage = np.zeros(200, dtype=np.int64)
    damage[:damaged_count] = 4
    change = TokenChange(np.full(200, 8), np.full(200, 4), damage, np.zeros(200, dtype=np.int64))
    wilson = binomtest(damaged_count, 200).proportion_ci(0.95, method="wilson")
    assert total_tokens(change, is_graded=True).damaged_interval == pytest.approx((wilson.low, wilson.high))


def test_bounding_a_mean_of_whole_shares_is_wilsons_interval():
    for damaged in (0, 3, 50, 100):
        wilson = binomtest(damaged, 100).proportion_ci(0.95, method="wilson")
        assert bound_mean(damaged / 100, 100) == pytest.approx((wilson.low, wilson.high))


def test_intervals_are_the_same_each_time_and_keep_the_order_of_columns():
    change = make_texts(700, np.random.default_rng(0))
    columns = np.stack([change.damage, change.lost_count], axis=1), np.stack([np.ones(700), change.target_count], 1)
    both = bootstrap_ratios(*columns)
    assert both == bootstrap_ratios(*columns)
    assert both[0] == pytest.approx(bootstrap_ratios(*(one[:, :1] for one in columns))[0])
    for (low, high), top, bottom in zip(both, *(one.T for one in columns), strict=True):
        assert low < top.sum() / bottom.sum() < high


def test_samples_that_are_all_alike_leave_no_doubt():
    assert bootstrap_ratios(np.full((50, 1), 0.25), np.ones((50, 1))) == [(0.25, 0.25)]


@given(changes=hnp.arrays(np.int64, st.integers(0, 9), elements=st.integers(-5, 5)))
def test_few_flips_are_tested_exactly_as_scipy_does(changes):
    changed = changes[changes != 0]
    found = flip_signs(changes)
    if changed.size < 2:
        assert found == 1
    else:
        oracle = permutation_test((changed,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert found == pytest.approx(min(1.0, oracle.pvalue))


def test_many_flips_are_tested_as_scipy_does():
    change = make_texts(400, np.random.default_rng(4))
    net = change.gained_count - change.lost_count + 1
    oracle = permutation_test((net,), np.sum, permutation_type="samples", rng=np.random.default_rng(0))
    assert flip_signs(net) == pytest.approx(oracle.pvalue, abs=0.02)
    assert flip_signs(net) == flip_signs(net)


def test_a_shift_of_all_samples_shows():
    assert flip_signs(np.full(5000, 2)) == 1e-4


@pytest.mark.parametrize("count", [20, 1500])
def test_the_sign_flip_test_keeps_its_size_where_losses_and_gains_balance(count):
    rejected = 0
    for run in range(400):
        rng = np.random.default_rng(run)
        change = make_texts(count, rng)
        net = (change.lost_count - change.right_before // 20) * rng.choice([-1, 1], count)
        rejected += flip_signs(net) <= 0.05
    assert rejected / 400 <= 0.065


def test_the_sign_flip_test_keeps_its_size_where_rare_heavy_losses_balance_small_gains():
    rejected = 0
    for run in range(RUNS):
        rng = np.random.default_rng(run)
        heavy = rng.random(300) < 0.1
        rejected += flip_signs(np.where(heavy, -9, 1) * (1 + rng.binomial(3, 0.5, 300))) <= 0.05
    assert rejected / RUNS <= 0.065
