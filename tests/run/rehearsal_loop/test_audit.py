import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.lift import DrawSums
from mixcd.run.rehearsal_loop.audit import compare_rates
from mixcd.run.rehearsal_loop.rehearsal_health import WINDOW, Seen, add_step, empty_history
from mixcd.words.vocabulary import DamageCounts

FEW = settings(deadline=None, max_examples=60)
SIZES = np.array([100, 200, 300, 400])


def history_of(*steps, sizes=SIZES):
    """The history of steps, each a pair of observed and damaged counts a bin."""
    history = empty_history(sizes.size)
    for observed, damaged in steps:
        counts = DamageCounts(np.asarray(observed, dtype=np.float64), np.asarray(damaged, dtype=np.float64))
        history = add_step(history, Seen(counts, DrawSums(), counts.damaged_count), sizes)
    return history


def sample_history(rates, count, rng, sizes=SIZES):
    return history_of((np.full(len(rates), count), rng.binomial(count, rates)), sizes=sizes)


def test_equal_counts_have_no_error_and_the_same_ranks():
    history = history_of(([10, 20, 30, 40], [1, 4, 9, 16]))
    audit = compare_rates(history, history, SIZES)
    assert (audit.error, audit.bias) == (0, 0)
    assert audit.rank_correlation == pytest.approx(1)
    np.testing.assert_allclose(audit.free, [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(audit.free_count, audit.probed_count)


def test_bins_weigh_what_they_hold_of_the_prior_data():
    free, probed = history_of(([10] * 4, [5, 0, 0, 0])), history_of(([20] * 4, [0, 0, 0, 20]))
    audit = compare_rates(free, probed, SIZES)
    assert audit.error == pytest.approx(0.1 * 0.5 + 0.4 * 1.0)
    assert audit.bias == pytest.approx(0.1 * 0.5 - 0.4 * 1.0)


def test_with_equal_rates_the_error_falls_as_chance_says_and_the_ranks_agree_at_last():
    rng, rates = np.random.default_rng(0), np.array([0.1, 0.2, 0.4, 0.7])
    errors, noises = [], []
    for count in (25, 100, 400, 1600, 6400):
        audits = [
            compare_rates(sample_history(rates, count, rng), sample_history(rates, count, rng), SIZES)
            for _ in range(60)
        ]
        errors.append(np.mean([audit.error for audit in audits]))
        noises.append(np.mean([audit.noise for audit in audits]))
        assert abs(np.mean([audit.bias for audit in audits])) < errors[-1]
    np.testing.assert_allclose(errors, noises, rtol=0.15)
    assert errors[-1] < 0.007
    assert errors[-1] < errors[0] / 10
    assert np.mean([audit.rank_correlation for audit in audits]) == pytest.approx(1)


def test_the_bias_has_the_sign_of_free_less_probed():
    free, probed = history_of(([10] * 4, [6, 6, 6, 6])), history_of(([10] * 4, [1, 1, 1, 1]))
    assert compare_rates(free, probed, SIZES).bias == pytest.approx(0.5)
    assert compare_rates(probed, free, SIZES).bias == pytest.approx(-0.5)


def test_opposite_ranks_correlate_negatively():
    free, probed = history_of(([10] * 4, [1, 2, 3, 4])), history_of(([10] * 4, [9, 5, 3, 0]))
    assert compare_rates(free, probed, SIZES).rank_correlation == pytest.approx(-1)


@pytest.mark.parametrize(
    ("observed", "damaged"),
    [([10, 10, 0, 0], [1, 2, 0, 0]), ([10, 10, 10, 10], [3, 3, 3, 3])],
    ids=["two bins", "equal rates"],
)
def test_ranks_of_too_few_or_equal_rates_are_unknown(observed, damaged):
    history = history_of((observed, damaged))
    assert math.isnan(compare_rates(history, history, SIZES).rank_correlation)


def test_bins_that_one_side_never_observed_are_left_out():
    free, probed = history_of(([10, 10, 10, 0], [1, 2, 3, 0])), history_of(([10, 10, 0, 10], [3, 2, 0, 9]))
    audit = compare_rates(free, probed, SIZES)
    assert math.isnan(audit.free[3])
    assert math.isnan(audit.probed[2])
    assert audit.error == pytest.approx(0.2 / 3)


def test_nothing_observed_is_unknown_not_zero():
    audit = compare_rates(empty_history(4), empty_history(4), SIZES)
    for name in ("error", "bias", "noise", "rank_correlation", "free_change", "probed_change"):
        assert math.isnan(getattr(audit, name)), name
    assert "error nan" in str(audit)


def test_change_is_told_from_the_second_window_on():
    step = ([4] * 4, [1] * 4)
    first = history_of(*[step] * WINDOW)
    assert math.isnan(compare_rates(first, first, SIZES).free_change)
    steady = history_of(*[step] * 2 * WINDOW)
    changed = history_of(*[step] * WINDOW, *[([4] * 4, [3] * 4)] * WINDOW)
    audit = compare_rates(changed, steady, SIZES)
    assert audit.free_change == pytest.approx(0.5)
    assert audit.probed_change == 0


def test_the_audit_is_told_in_one_line():
    audit = compare_rates(history_of(([10] * 4, [1, 2, 3, 4])), history_of(([20] * 4, [2, 4, 6, 8])), SIZES)
    assert str(audit) == (
        "free against probed damage rates: error 0.000 (chance alone 0.137), bias +0.000, rank correlation 1.00 over 4 "
        "bins; change from window to window: free nan, probed nan"
    )


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=8))
@FEW
def test_whatever_was_observed_the_audit_stays_inside_its_bounds(bins):
    sizes = np.arange(1, len(bins) + 1)
    free, probed = (
        history_of(([one[side] for one in bins], [round(one[side] * one[2]) for one in bins]), sizes=sizes)
        for side in (0, 1)
    )
    audit = compare_rates(free, probed, sizes)
    if math.isnan(audit.error):
        assert not ((free.total.counts.observed_count > 0) & (probed.total.counts.observed_count > 0)).any()
    else:
        assert 0 <= abs(audit.bias) <= audit.error + 1e-12
        assert audit.error <= 1
        assert 0 <= audit.noise <= 1
