from dataclasses import replace
from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.lift import DrawSums, LiftSums, sum_draws, sum_window
from mixcd.run.rehearsal_loop.rehearsal_health import (
    Seen,
    Vitals,
    add_step,
    empty_history,
    find_failure_signs,
    measure_vitals,
)
from mixcd.words.vocabulary import UNCACHED_BIN, DamageCounts, Partition

SIZES = np.array([100, 100, 100])
HEALTHY = Vitals(damage_rate=0.1, yield_rate=0.2, lift=1.5, lift_high=2.0, effective_bins=2.8, top_share=0.02)


def count(observed, damaged):
    return DamageCounts(np.array(observed, dtype=np.float64), np.array(damaged, dtype=np.float64))


def draw_evenly(counts):
    """Return the sums of draws that are all as likely as uniform ones."""
    observed, damaged = counts.observed_count.sum(), counts.damaged_count.sum()
    return DrawSums(observed, *[damaged, observed] * 2, *[damaged] * 4)


def watch(*steps, bin_count=3):
    history = empty_history(bin_count)
    for step in steps:
        history = add_step(history, Seen(step, draw_evenly(step), step.damaged_count), np.full(bin_count, 100))
    return history


def read(seen):
    counts = seen.counts
    assert seen.draws == draw_evenly(counts)
    return counts.observed_count.tolist(), counts.damaged_count.tolist()


def observe_windows(earlier_damaged, recent_damaged, step_count=100):
    """Return a history of 10 observations a step and bin, with so many damaged in each window."""
    steps = [count([10, 10, 10], [0, 0, 0]) for _ in range(step_count)]
    steps[0] = count([10, 10, 10], [earlier_damaged, 0, 0])
    steps[50] = count([10, 10, 10], [recent_damaged, 0, 0])
    return watch(*steps)


def find(history=None, vitals=HEALTHY, bin_sizes=SIZES):
    return find_failure_signs(history or empty_history(bin_sizes.size), vitals, bin_sizes)


def test_vitals_are_told_in_words_without_what_is_not_known():
    assert str(Vitals(0.1, 0.2, 1.5, 2.0, 2.8, 0.02)) == (
        "damage rate 10.0% of the prior data; yield 20.0% of the rehearsed samples, both over the last steps; "
        "lift 1.50 over all steps; effective bins 2.8; the likeliest 1 % of the samples get 2.0% of the draws"
    )
    unknown = float("nan")
    assert str(Vitals(unknown, unknown, unknown, float("inf"), 9.0, 0.01)).startswith("effective bins 9.0; ")


def test_the_history_is_empty_at_first():
    history = empty_history(2)
    assert history.step_count == 0
    assert [read(seen) for seen in (history.total, history.recent, history.earlier)] == [([0, 0], [0, 0])] * 3


@pytest.mark.parametrize(
    ("step_count", "recent", "earlier"),
    [(1, 1, 0), (49, 49, 0), (50, 50, 0), (51, 1, 50), (99, 49, 50), (100, 50, 50), (101, 1, 50), (151, 1, 50)],
)
def test_windows_roll_every_fifty_steps(step_count, recent, earlier):
    history = watch(*[count([1], [0.5])] * step_count, bin_count=1)
    assert history.step_count == step_count
    assert read(history.total) == ([step_count], [step_count / 2])
    assert read(history.recent) == ([recent], [recent / 2])
    assert read(history.earlier) == ([earlier], [earlier / 2])


def test_the_earlier_window_holds_the_fifty_steps_before_the_recent_one():
    history = watch(*[count([step], [0]) for step in range(103)], bin_count=1)
    assert read(history.recent)[0] == [100 + 101 + 102]
    assert read(history.earlier)[0] == [sum(range(50, 100))]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=120))
@settings(deadline=None, max_examples=40)
def test_the_total_is_the_sum_of_all_steps_and_no_history_changes(steps):
    histories = [empty_history(1)]
    for observed, damaged in steps:
        counts = count([observed], [damaged])
        histories.append(
            add_step(histories[-1], Seen(counts, draw_evenly(counts), counts.damaged_count), np.array([100]))
        )
    for step, history in enumerate(histories):
        assert history.step_count == step
        assert read(history.total) == ([sum(row[0] for row in steps[:step])], [sum(row[1] for row in steps[:step])])


def test_the_damage_rate_weighs_bins_by_their_size_and_the_yield_by_their_draws():
    partition = Partition(np.repeat([0, 1], [90, 10]), ("large", "small"))
    history = watch(count([10, 30], [1, 15]), bin_count=2)
    vitals = measure_vitals(history, partition, np.arange(100), np.full(100, 0.01))
    assert vitals.damage_rate == pytest.approx(0.9 * 0.1 + 0.1 * 0.5)
    assert vitals.yield_rate == pytest.approx(16 / 40)


def test_rates_look_back_over_both_windows_and_lift_over_all_steps():
    steps = [count([10, 10], [9, 9])] * 50 + [count([10, 10], [1, 0])] * 50 + [count([10, 10], [0, 3])]
    partition = Partition(np.array([0, 1]), ("a", "b"))
    history = watch(*steps, bin_count=2)
    vitals = measure_vitals(history, partition, np.arange(2), np.full(2, 0.5))
    assert vitals.damage_rate == pytest.approx((50 / 510 + 3 / 510) / 2)
    assert vitals.yield_rate == pytest.approx(53 / 1020)
    windows = [count([500, 500], [450, 450]), count([500, 500], [50, 0]), count([10, 10], [0, 3])]
    lift = sum((sum_window(window, np.array([100, 100])) for window in windows), LiftSums()).to_lift()
    assert (vitals.lift, vitals.lift_high) == (lift.value, lift.high)


def test_bins_that_were_not_observed_do_not_dilute_the_damage_rate():
    partition = Partition(np.repeat([0, 1, 2], 10), ("a", "b", "c"))
    vitals = measure_vitals(watch(count([10, 10, 0], [4, 2, 0])), partition, np.arange(30), np.full(30, 1 / 30))
    assert vitals.damage_rate == pytest.approx(0.3)


def test_rates_are_not_a_number_while_nothing_was_observed():
    partition = Partition(np.array([0, 1]), ("a", "b"))
    vitals = measure_vitals(empty_history(2), partition, np.arange(2), np.full(2, 0.5))
    assert isnan(vitals.damage_rate)
    assert isnan(vitals.yield_rate)
    assert isnan(vitals.lift)
    assert vitals.lift_high == inf


@pytest.mark.parametrize(
    ("shares", "effective_bins"),
    [([0.25, 0.25, 0.25, 0.25], 4), ([0.5, 0.5, 0, 0], 2), ([1, 0, 0, 0], 1), ([0.7, 0.1, 0.1, 0.1], 1 / 0.52)],
)
def test_effective_bins_are_the_inverse_simpson_index_of_the_bins_shares(shares, effective_bins):
    partition = Partition(np.arange(400) % 4, tuple("abcd"))
    weights = np.array(shares)[partition.bin_ids] / 100
    vitals = measure_vitals(empty_history(4), partition, np.arange(400), weights)
    assert vitals.effective_bins == pytest.approx(effective_bins)


def test_effective_bins_follow_the_candidates_that_were_weighed_and_uncached_samples_are_one_more_bin():
    partition = Partition(np.array([0, 0, 1, 1, UNCACHED_BIN, UNCACHED_BIN]), ("a", "b"))
    vitals = measure_vitals(empty_history(2), partition, np.array([5, 0, 3]), np.array([0.5, 0.25, 0.25]))
    assert vitals.effective_bins == pytest.approx(1 / (0.25 + 0.125))


@pytest.mark.parametrize(("candidate_count", "top_count"), [(300, 3), (250, 2), (100, 1), (40, 1)])
def test_the_top_share_is_what_the_likeliest_one_percent_take(candidate_count, top_count):
    weights = np.random.default_rng(0).permutation(np.arange(1.0, candidate_count + 1))
    weights /= weights.sum()
    partition = Partition(np.zeros(candidate_count, dtype=int), ("all",))
    vitals = measure_vitals(empty_history(1), partition, np.arange(candidate_count), weights)
    assert vitals.top_share == pytest.approx(sorted(weights)[-top_count:] @ np.ones(top_count))


def test_the_log_holds_every_metric_that_is_known():
    assert HEALTHY.to_log() == {
        "mixcd/damage_rate": 0.1,
        "mixcd/yield": 0.2,
        "mixcd/lift": 1.5,
        "mixcd/effective_bins": 2.8,
        "mixcd/top_1_percent_share": 0.02,
    }


def test_the_log_leaves_out_what_is_not_a_finite_number():
    vitals = replace(HEALTHY, damage_rate=nan, lift=nan, top_share=inf)
    assert vitals.to_log() == {"mixcd/yield": 0.2, "mixcd/effective_bins": 2.8}


def test_a_healthy_run_shows_no_sign():
    assert find(observe_windows(20, 20)) == {}
    assert find(empty_history(3)) == {}


def test_no_signal_says_after_how_many_observations_and_what_to_try():
    signs = find(watch(count([200, 200, 100], [1, 1, 1])), replace(HEALTHY, lift=1.01, lift_high=1.042))
    assert signs == {
        "no signal": (
            "No signal: after 500 observations the lift of the 3 bins is at most 1.04, so damage falls evenly on them. "
            "Try another `partition`, such as a column of the data; uniform rehearsal would do as well."
        )
    }


@pytest.mark.parametrize(
    ("observed", "lift_high", "shown"),
    [(500, 1.09, True), (499, 1.09, False), (500, 1.1, False), (5000, 1.3, False), (5000, inf, False)],
)
def test_no_signal_needs_500_observations_and_a_lift_surely_below_one_tenth(observed, lift_high, shown):
    signs = find(watch(count([observed, 0, 0], [5, 0, 0])), replace(HEALTHY, lift_high=lift_high))
    assert ("no signal" in signs) is shown


def test_too_aggressive_says_how_few_bins_the_draws_fall_on_and_what_to_try():
    assert find(vitals=replace(HEALTHY, effective_bins=1.2)) == {
        "too aggressive": ("Too aggressive: the draws fall on 1.2 of 3 bins. Try fewer bins, or a larger `mix_ratio`.")
    }


@pytest.mark.parametrize(
    ("bin_sizes", "effective_bins", "shown"),
    [
        ([100] * 10, 1.99, True),
        ([100] * 10, 2.0, False),
        ([100] * 3, 1.49, True),
        ([100] * 3, 1.5, False),
        ([100] * 2, 1.0, False),
        ([970, 10, 10, 10], 1.0, False),
    ],
)
def test_too_aggressive_means_less_than_two_bins_or_half_of_what_uniform_draws_fall_on(
    bin_sizes, effective_bins, shown
):
    signs = find(vitals=replace(HEALTHY, effective_bins=effective_bins), bin_sizes=np.array(bin_sizes))
    assert ("too aggressive" in signs) is shown


def test_too_aggressive_says_what_one_percent_of_the_samples_take():
    assert find(vitals=replace(HEALTHY, top_share=0.62)) == {
        "too aggressive": (
            "Too aggressive: 1 % of the prior samples take 62% of the draws. Try fewer bins, or a larger `mix_ratio`."
        )
    }
    assert find(vitals=replace(HEALTHY, top_share=0.5)) == {}


def test_a_single_bin_shows_neither_no_signal_nor_too_aggressive():
    history = watch(count([10_000], [100]), bin_count=1)
    vitals = Vitals(0.01, 0.01, lift=1.0, lift_high=1.0, effective_bins=1.0, top_share=0.9)
    assert find(history, vitals, np.array([300])) == {}


def test_unstable_says_from_where_to_where_damage_rose_and_what_to_try():
    assert find(observe_windows(15, 45)) == {
        "unstable": (
            "Unstable: the damage rate rose from 1.0% to 3.0% within 100 steps. Try a lower learning rate or a larger "
            "`mix_ratio`."
        )
    }


@pytest.mark.parametrize(
    ("earlier", "recent", "shown"),
    [(10, 21, True), (10, 20, False), (10, 5, False), (4, 10, True), (4, 9, False), (0, 10, True), (0, 9, False)],
)
def test_unstable_needs_more_than_twice_the_damage_rate_and_ten_damaged_samples(earlier, recent, shown):
    assert ("unstable" in find(observe_windows(earlier, recent))) is shown


@pytest.mark.parametrize(("step_count", "shown"), [(99, False), (100, True), (101, False), (149, False)])
def test_unstable_is_judged_when_a_window_is_full(step_count, shown):
    history = observe_windows(10, 40, step_count)
    assert ("unstable" in find(history)) is shown


def test_the_first_window_is_compared_with_nothing():
    assert find(watch(*[count([10, 10, 10], [9, 9, 9])] * 50)) == {}


def test_unstable_shows_with_a_single_bin_too():
    steps = [count([10], [0])] * 50 + [count([10], [5])] * 50
    assert set(find(watch(*steps, bin_count=1), bin_sizes=np.array([300]))) == {"unstable"}


def test_several_signs_show_together():
    history = observe_windows(10, 40)
    vitals = replace(HEALTHY, lift_high=1.01, effective_bins=1.0)
    assert set(find(history, vitals)) == {"no signal", "too aggressive", "unstable"}


def watch_draws(*windows):
    """Return a history of windows of 50 steps, of so many draws a step: (chances, damaged)."""
    history, counts = empty_history(1), count([0], [0])
    for chances, damaged in windows:
        draws = sum_draws(np.array(damaged, dtype=bool), np.array(chances, dtype=np.float64))
        for _ in range(50):
            history = add_step(history, Seen(counts, draws, counts.damaged_count), np.array([100]))
    return history


def judge(history):
    sizes = np.array([100])
    partition = Partition(np.zeros(100, dtype=int), ("all",))
    vitals = measure_vitals(history, partition, np.arange(100), np.full(100, 0.01), draws_by_bins=False)
    return vitals, find_failure_signs(history, vitals, sizes, draws_by_bins=False)


def test_draws_by_sample_are_weighed_by_their_chances():
    vitals, signs = judge(watch_draws(([4, 4, 1, 0.25], [1, 1, 0, 0])))
    assert vitals.damage_rate == pytest.approx(0.5 / 5.5)
    assert vitals.yield_rate == pytest.approx(0.5)
    assert vitals.lift == pytest.approx(5.5)
    assert vitals.lift < vitals.lift_high < 9
    assert signs == {}


def test_draws_by_sample_that_find_no_more_damage_than_uniform_ones_show_no_signal():
    history = watch_draws(*[([1, 1, 1, 1], [1, 0, 0, 0])] * 3)
    assert set(judge(history)[1]) == {"no signal"}
    vitals, signs = judge(watch_draws(*[([4, 4, 0.25, 0.25], [0, 0, 1, 0])] * 3))
    assert vitals.lift < vitals.lift_high < 1
    assert "at most" in signs["no signal"]
    assert "uniform" in signs["no signal"]


def test_draws_by_sample_are_unstable_when_weighted_damage_doubles_and_not_when_only_the_yield_does():
    calm, picked, risen = ([1, 1, 1, 1], [1, 0, 0, 0]), ([4, 4, 4, 0.5], [1, 1, 1, 0]), ([1, 1, 1, 1], [1, 1, 1, 0])
    assert "unstable" not in judge(watch_draws(calm, picked))[1]
    assert "25.0% to 75.0%" in judge(watch_draws(calm, risen))[1]["unstable"]


def test_a_few_heavy_draws_do_not_make_a_run_unstable():
    light = ([4] * 4, [1, 0, 0, 0])
    history = watch_draws(light)
    for step in range(50):
        chances, damaged = ([4, 4, 4, 0.04 if step in (3, 30) else 4]), [0, step < 12, 0, step in (3, 30)]
        draws = sum_draws(np.array(damaged, dtype=bool), np.array(chances))
        history = add_step(history, Seen(count([0], [0]), draws, np.zeros(1)), np.array([100]))
    assert history.recent.draws.damage_rate > 2 * history.earlier.draws.damage_rate
    assert history.recent.draws.damaged >= 10
    assert judge(history)[1] == {}
