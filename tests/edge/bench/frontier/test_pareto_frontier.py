import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcd.edge.bench.frontier.pareto_frontier import (
    find_pareto,
    gain_at_matched_score,
    match_prior_score,
    measure_hypervolume,
)

SCORES = st.tuples(st.integers(0, 12), st.integers(0, 12))
POINTS = st.lists(SCORES, min_size=1, max_size=8).map(lambda points: np.array(points, dtype=np.float64))
REFERENCE = np.array([3.0, 2.0])


def count_cells(points, reference):
    """The hypervolume by counting unit squares, for points on whole numbers."""
    new, prior = np.meshgrid(np.arange(12) + 0.5, np.arange(12) + 0.5)
    inside = (new > reference[0]) & (prior > reference[1])
    return (inside & np.any([(new < one[0]) & (prior < one[1]) for one in points], axis=0)).sum()


@given(POINTS)
def test_the_hypervolume_is_the_area_counted_square_by_square(points):
    assert measure_hypervolume(points, REFERENCE) == count_cells(points, REFERENCE)


@given(POINTS, SCORES)
def test_a_further_point_never_lowers_the_hypervolume(points, more):
    wider = np.vstack([points, more])
    assert measure_hypervolume(wider, REFERENCE) >= measure_hypervolume(points, REFERENCE)


@given(POINTS, st.randoms(use_true_random=False))
def test_dominated_points_and_order_do_not_matter_to_the_hypervolume(points, random):
    volume = measure_hypervolume(points, REFERENCE)
    assert measure_hypervolume(points[find_pareto(points)], REFERENCE) == volume
    assert measure_hypervolume(points[random.sample(range(len(points)), len(points))], REFERENCE) == volume
    assert measure_hypervolume(np.vstack([points, points]), REFERENCE) == volume


def test_points_not_above_the_reference_have_no_volume():
    assert measure_hypervolume(np.array([[3.0, 9.0], [9.0, 2.0], [1.0, 1.0]]), REFERENCE) == 0
    assert measure_hypervolume(np.empty((0, 2)), REFERENCE) == 0


@given(POINTS)
def test_pareto_points_do_not_dominate_each_other_and_dominate_the_rest(points):
    kept = find_pareto(points)
    assert kept.any()

    def dominates(one, other):
        return tuple(one) != tuple(other) and one[0] >= other[0] and one[1] >= other[1]

    best = points[kept]
    assert not any(dominates(one, other) for one in best for other in best)
    assert all(any(dominates(one, other) for one in best) for other in points[~kept])


def test_pareto_points_of_many_sets_at_once():
    sets = np.random.default_rng(0).random((5, 6, 2))
    assert (find_pareto(sets) == [find_pareto(points) for points in sets]).all()


@given(POINTS, st.floats(0, 12))
def test_matching_interpolates_the_points_that_are_not_dominated(points, new):
    best = np.unique(points[find_pareto(points)], axis=0)
    matched = match_prior_score(points, np.array(new))
    if new < best[0, 0]:
        assert np.isnan(matched)
    else:
        assert matched == pytest.approx(np.interp(new, best[:, 0], best[:, 1]))  # clamps above, as we do


def test_matching_takes_many_curves_at_once():
    rng = np.random.default_rng(1)
    curves, news = rng.random((50, 4, 2)), rng.random(50)
    at_once = match_prior_score(curves, news)
    one_by_one = [match_prior_score(curve, np.array(new)) for curve, new in zip(curves, news, strict=True)]
    np.testing.assert_array_equal(at_once, one_by_one)
    assert np.isnan(at_once).any()
    assert not np.isnan(at_once).all()


def test_at_equal_new_scores_the_gain_is_the_plain_difference():
    reference = np.array([[[0.9, 0.5], [0.88, 0.52]], [[0.8, 0.7], [0.82, 0.68]]])
    scores = np.column_stack([reference[1, ::-1, 0], [0.75, 0.73]])
    gain = gain_at_matched_score(scores, reference, np.arange(2))
    assert gain == pytest.approx(0.74 - 0.69)


@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(0.5, 2))
def test_the_gain_does_not_change_when_both_scores_are_moved(new_shift, prior_shift, scale):
    reference = np.array([[[0.9, 0.5], [0.88, 0.52]], [[0.8, 0.7], [0.82, 0.68]]])
    scores, seeds = np.array([[0.85, 0.66], [0.84, 0.64]]), np.arange(2)
    moved = np.array([new_shift, prior_shift])
    gain = gain_at_matched_score(scores, reference, seeds)
    assert gain_at_matched_score(scores + moved, reference + moved, seeds) == pytest.approx(gain)
    assert gain_at_matched_score(scores * [scale, 1], reference * [scale, 1], seeds) == pytest.approx(gain)
    assert gain_at_matched_score(scores * [1, scale], reference * [1, scale], seeds) == pytest.approx(scale * gain)


def test_a_method_against_itself_gains_nothing():
    reference = np.array([[[0.9, 0.5]], [[0.8, 0.7]], [[0.7, 0.75]]])
    assert [gain_at_matched_score(one, reference, np.arange(1)) for one in reference] == [0, 0, 0]


def test_a_better_point_of_the_reference_lowers_the_gain_and_a_dominated_one_does_nothing():
    reference = np.array([[[0.9, 0.5]], [[0.8, 0.7]]])
    scores = np.array([[0.85, 0.65]])
    better = np.vstack([reference, [[[0.86, 0.68]]]])
    worse = np.vstack([reference, [[[0.84, 0.45]]]])
    gain = gain_at_matched_score(scores, reference, np.arange(1))
    assert gain_at_matched_score(scores, better, np.arange(1)) < gain
    assert gain_at_matched_score(scores, worse, np.arange(1)) == gain
