import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq
from scipy.stats import norm, t, ttest_rel

from mixcd.edge.bench.frontier.seed_interval import bound_ratio, capture_headroom, estimate, estimate_mean

SEEDS = st.integers(2, 9)


def values(count):
    return arrays(np.float64, count, elements=st.floats(-1, 1).map(lambda value: round(value, 3)))


@given(SEEDS.flatmap(lambda count: st.tuples(values(count), values(count))))
def test_a_mean_of_few_seeds_has_the_paired_t_interval(pair):
    one, other = pair
    mean = estimate_mean(one - other)
    assert mean.value == pytest.approx((one - other).mean())
    if np.ptp(one - other) > 1e-9:
        bounds = ttest_rel(one, other).confidence_interval(0.95)
        assert mean.interval == pytest.approx((bounds.low, bounds.high), abs=1e-9)


def test_one_seed_has_no_interval():
    assert estimate_mean(np.array([0.5])).interval is None
    assert bound_ratio(np.array([0.5]), np.array([1.0])) is None
    assert capture_headroom(np.array([0.5]), np.array([1.0])).is_there is None


def test_from_ten_seeds_on_the_interval_is_bootstrapped_and_no_narrower_than_t():
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(40):
        drawn = rng.normal(size=10)
        low, high = estimate_mean(drawn).interval
        ratios.append((high - low) / (2 * t.ppf(0.975, 9) * drawn.std(ddof=1) / 10**0.5))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)
    skewed = rng.exponential(size=30)
    low, high = estimate_mean(skewed).interval
    assert high - skewed.mean() > skewed.mean() - low  # a t interval would be symmetric


def test_the_bootstrap_is_the_same_every_time():
    drawn = np.random.default_rng(1).normal(size=12)
    assert estimate_mean(drawn) == estimate_mean(drawn)


def test_a_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    for count, trials in ((4, 2000), (10, 300)):
        bounds = np.array([estimate_mean(rng.normal(size=count)).interval for _ in range(trials)])
        covered = ((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)).mean()
        assert covered == pytest.approx(0.95, abs=0.03 if trials < 1000 else 0.015)


def test_an_undefined_statistic_has_no_interval():
    few = np.array([1.0, 2.0, np.nan])
    assert estimate(lambda chosen: few[chosen].mean(-1), 3).interval is None
    many = np.where(np.arange(12) == 3, np.nan, 1.0)
    assert estimate(lambda chosen: many[chosen].mean(-1), 12).interval is None


@given(SEEDS.flatmap(lambda count: st.tuples(values(count), values(count))))
def test_fieller_bounds_are_where_the_paired_t_test_turns(pair):
    gain, oracle_gain = pair
    if np.ptp(gain) < 0.01 or np.ptp(oracle_gain) < 0.01:
        return
    bounds = bound_ratio(gain, oracle_gain)
    low, high = estimate_mean(oracle_gain).interval
    if min(abs(low), abs(high)) < 1e-6:
        return
    assert (bounds is None) == (low < 0 < high)
    if bounds is None or np.diff(bounds) < 1e-6:
        return

    def excess(ratio):
        rest = gain - ratio * oracle_gain
        return abs(rest.mean()) - t.ppf(0.975, len(rest) - 1) * rest.std(ddof=1) / len(rest) ** 0.5

    middle, width = gain.mean() / oracle_gain.mean(), np.ptp(bounds)
    assert bounds[0] - 1e-9 <= middle <= bounds[1] + 1e-9
    for bound, beyond in zip(bounds, (bounds[0] - width, bounds[1] + width), strict=True):
        assert brentq(excess, middle, beyond) == pytest.approx(bound, abs=1e-6, rel=1e-6)


def test_fieller_agrees_with_the_delta_method_when_the_oracle_is_sure():
    rng = np.random.default_rng(3)
    count = 9
    oracle_gain = 1 + 0.01 * rng.normal(size=count)
    gain = 0.5 + 0.01 * rng.normal(size=count)
    ratio = gain.mean() / oracle_gain.mean()
    error = (gain - ratio * oracle_gain).std(ddof=1) / count**0.5 / oracle_gain.mean()
    reach = t.ppf(0.975, count - 1) * error
    assert bound_ratio(gain, oracle_gain) == pytest.approx((ratio - reach, ratio + reach), abs=1e-4)


def test_fieller_covers_the_true_ratio():
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(2000):
        oracle_gain = rng.normal(0.03, 0.015, size=5)
        gain = 0.4 * oracle_gain + rng.normal(0, 0.01, size=5)
        bounds = bound_ratio(gain, oracle_gain)
        covered.append(bounds is None or bounds[0] <= 0.4 <= bounds[1])  # None bounds nothing: it holds every ratio
    assert norm.cdf(-3) < 1 - np.mean(covered) < 0.065


@pytest.mark.parametrize(
    ("oracle_gain", "is_there"), [([0.1, 0.11, 0.12], True), ([-0.1, 0.1, 0.2], False), ([-0.1, -0.11, -0.12], False)]
)
def test_headroom_is_there_only_if_the_oracle_gains(oracle_gain, is_there):
    oracle_gain = np.array(oracle_gain)
    headroom = capture_headroom(oracle_gain / 4, oracle_gain)
    assert headroom.is_there is is_there
    assert headroom.oracle_gain.value == pytest.approx(oracle_gain.mean())
    if is_there:
        assert headroom.captured.value == pytest.approx(0.25)
        assert headroom.captured.interval == pytest.approx((0.25, 0.25))
    else:
        assert headroom.captured is None


def test_a_ratio_of_means_is_not_a_mean_of_ratios():
    oracle_gain, gain = np.array([0.1, 0.2, 0.15]), np.array([0.1, 0.05, 0.075])
    assert capture_headroom(gain, oracle_gain).captured.value == pytest.approx(0.5)
