"""A moving average of each sample's own damage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcd.edge.bench.ema_estimator import Ema, EmaEstimator
from mixcd.ideas.collateral_damage_estimator import CountEstimator
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Observation, Partition

PARTITION = Partition(np.array([0, 0, 0, 1, 1, -1]), ("easy", "hard"))
RIGHT = np.array([True, True, True, True, True, False])
EVERYONE = np.arange(6)


def observe(ids, correct):
    return Observation(np.array(ids), np.array(correct), np.zeros(len(ids)))


def weigh(estimator, *steps):
    state = estimator.init()
    for step in steps:
        state = estimator.update(state, step)
    return estimator.damage_probability(estimator.belief(state), EVERYONE)


def test_a_sample_that_was_never_seen_has_the_rate_of_its_bin():
    steps = [observe([0, 3], [True, False]), observe([1], [False])]
    counts = CountEstimator(PARTITION, RIGHT)
    np.testing.assert_allclose(weigh(EmaEstimator(PARTITION, RIGHT), *steps)[[2, 4]], weigh(counts, *steps)[[2, 4]])


def test_its_own_observations_count_the_more_the_larger_the_weight():
    steps = [observe([0], [False]), observe([0], [False])]
    rate = weigh(CountEstimator(PARTITION, RIGHT), *steps)[0]
    for weight in (0.1, 0.5, 1.0):
        own = weigh(EmaEstimator(PARTITION, RIGHT, weight), *steps)[0]
        assert own == pytest.approx((1 - weight) ** 2 * rate + 1 - (1 - weight) ** 2)


def test_a_sample_without_a_prediction_has_the_mean_rate_even_when_it_was_seen():
    weights = weigh(EmaEstimator(PARTITION, RIGHT), observe([5, 3], [False, False]))
    assert weights[5] == pytest.approx((3 * 0.5 + 2 * 0.75) / 5)


def test_a_sample_that_is_twice_in_a_step_counts_once_with_its_mean():
    twice = weigh(EmaEstimator(PARTITION, RIGHT, 0.5), observe([0, 0], [True, False]))
    assert twice[0] == pytest.approx(0.5 * (1 + 0.5) / (2 + 1) + 0.5 * 0.5)


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=4), max_size=8))
def test_weights_are_rates(steps):
    weights = weigh(EmaEstimator(PARTITION, RIGHT), *(observe(*zip(*step, strict=True)) for step in steps))
    assert ((weights >= 0) & (weights <= 1)).all()


@pytest.mark.parametrize("weight", [0, -0.1, 1.1])
def test_weights_outside_what_makes_sense_are_refused(weight):
    with pytest.raises(SettingError, match=f"`weight` is {weight}"):
        Ema(weight)
