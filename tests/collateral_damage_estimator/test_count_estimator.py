import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.collateral_damage_estimator import CountEstimator
from mixcd.errors import SettingError, UnknownSampleError
from mixcd.vocabulary import UNCACHED_BIN, Observation, Partition

PARTITION = Partition(np.array([0, 0, 0, 1, 1, 2, UNCACHED_BIN]), ("easy", "hard", "rare"))
RIGHT = np.ones(7, dtype=bool)
FEW = settings(deadline=None, max_examples=60)
STEPS = st.lists(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=6), min_size=1, max_size=8)


def estimate(discount=1.0, smoothing="beta", base_correct=RIGHT):
    return CountEstimator(PARTITION, base_correct, discount, smoothing)


def observe(*seen):
    sample_ids = np.array([sample_id for sample_id, _ in seen], dtype=np.int64)
    return Observation(sample_ids, np.array([right for _, right in seen], dtype=bool), np.zeros(len(seen)))


def learn(estimator, *observations):
    state = estimator.init()
    for observation in observations:
        state = estimator.update(state, observation)
    return state


def rates(estimator, *observations):
    (damage_rate,) = estimator.belief(learn(estimator, *observations))
    return damage_rate.tolist()


# bin "easy": 2 observed, 1 damaged; then 2 observed, 2 damaged; bin "hard" is observed in the first step only
FIRST = observe((0, True), (1, False), (3, False))
SECOND = observe((0, False), (2, False))


@pytest.mark.parametrize("smoothing", ["beta", "raw"])
def test_every_damage_rate_is_one_half_at_the_start(smoothing):
    assert rates(estimate(smoothing=smoothing)) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("discount", "observed", "damaged"),
    [
        (1.0, [4.0, 1.0, 0.0], [3.0, 1.0, 0.0]),
        (0.5, [3.0, 1.0, 0.0], [2.5, 1.0, 0.0]),
        (0.0, [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]),
    ],
    ids=["cumulative", "discounted", "last step"],
)
def test_the_window_discounts_the_earlier_counts_of_a_bin_that_is_observed_again(discount, observed, damaged):
    state = learn(estimate(discount), FIRST, SECOND)
    assert state.observed_count.tolist() == observed
    assert state.damaged_count.tolist() == damaged


@pytest.mark.parametrize(("discount", "easy"), [(1.0, 3 / 4), (0.5, 2.5 / 3), (0.0, 1.0)])
def test_raw_rates_are_damaged_over_observed_and_one_half_where_nothing_was_observed(discount, easy):
    assert rates(estimate(discount, "raw"), FIRST, SECOND) == [easy, 1.0, 0.5]


@pytest.mark.parametrize(("discount", "easy"), [(1.0, 3.5 / 5), (0.5, 3 / 4), (0.0, 2.5 / 3)])
def test_beta_rates_are_posterior_means(discount, easy):
    assert rates(estimate(discount), FIRST, SECOND) == pytest.approx([easy, 0.75, 0.5])


def test_discount_counts_how_often_the_bin_was_observed_not_how_many_steps_passed():
    state = learn(estimate(0.5), FIRST, SECOND, SECOND, SECOND)
    assert state.observed_count.tolist() == [2 / 8 + 2 / 4 + 2 / 2 + 2, 1.0, 0.0]


def test_everything_is_counted_and_smoothed_by_default():
    assert rates(CountEstimator(PARTITION, RIGHT), FIRST, SECOND) == rates(estimate(1.0, "beta"), FIRST, SECOND)


def test_the_raw_rule_starves_a_bin_whose_first_draws_come_out_clean():
    estimator = estimate(smoothing="raw")
    belief = estimator.belief(learn(estimator, observe((0, True), (1, True))))
    assert estimator.damage_probability(belief, np.array([0, 1, 2, 3])).tolist() == [0.0, 0.0, 0.0, 0.5]


@given(STEPS, st.floats(0, 1))
@FEW
def test_beta_rates_stay_inside_zero_and_one(steps, discount):
    damage_rate = np.array(rates(estimate(discount), *(observe(*step) for step in steps)))
    assert (damage_rate > 0).all()
    assert (damage_rate < 1).all()


@given(STEPS, st.randoms(use_true_random=False))
@FEW
def test_the_order_of_updates_does_not_matter_when_everything_counts(steps, shuffler):
    shuffled = shuffler.sample(steps, len(steps))
    estimator = estimate()
    a, b = (learn(estimator, *(observe(*step) for step in order)) for order in (steps, shuffled))
    assert a.observed_count.tolist() == b.observed_count.tolist()
    assert a.damaged_count.tolist() == b.damaged_count.tolist()


@given(STEPS)
@FEW
def test_only_the_last_observation_of_a_bin_counts_when_the_discount_is_zero(steps):
    state = learn(estimate(0.0), *(observe(*step) for step in steps))
    for bin_id in range(3):
        seen = [[right for i, right in step if PARTITION.bin_ids[i] == bin_id] for step in steps]
        last = next((step for step in reversed(seen) if step), [])
        assert state.observed_count[bin_id] == len(last)
        assert state.damaged_count[bin_id] == last.count(False)


@pytest.mark.parametrize("discount", [1.0, 0.5, 0.0])
def test_an_update_leaves_the_state_as_it_was(discount):
    estimator = estimate(discount)
    state = learn(estimator, FIRST)
    estimator.belief(estimator.update(state, SECOND))
    assert state.observed_count.tolist() == [2.0, 1.0, 0.0]
    assert state.damaged_count.tolist() == [1.0, 1.0, 0.0]


def test_a_belief_is_not_changed_by_later_updates():
    estimator = estimate(smoothing="raw")
    state = learn(estimator, FIRST)
    (damage_rate,) = estimator.belief(state)
    estimator.belief(estimator.update(state, SECOND))
    assert damage_rate.tolist() == [0.5, 1.0, 0.5]


def test_only_samples_that_the_base_model_got_right_can_be_damaged():
    base_correct = np.array([True, False, True, True, True, True, True])
    assert rates(estimate(smoothing="raw", base_correct=base_correct), FIRST) == [0.0, 1.0, 0.5]


def test_uncached_samples_are_never_counted():
    state = learn(estimate(), observe((6, False), (6, True)))
    assert state.observed_count.tolist() == state.damaged_count.tolist() == [0.0, 0.0, 0.0]


def test_a_samples_damage_probability_is_the_rate_of_its_bin():
    probability = estimate().damage_probability((np.array([0.1, 0.4, 0.7]),), np.array([5, 0, 3, 0]))
    assert probability.tolist() == [0.7, 0.1, 0.4, 0.1]


def test_an_uncached_sample_gets_the_mean_rate_of_the_cached_samples():
    probability = estimate().damage_probability((np.array([0.1, 0.4, 0.7]),), np.array([6, 5]))
    assert probability.tolist() == pytest.approx([(3 * 0.1 + 2 * 0.4 + 1 * 0.7) / 6, 0.7])


def test_an_unknown_sample_is_named_with_what_the_partition_covers():
    with pytest.raises(UnknownSampleError) as failure:
        learn(estimate(), observe((0, True), (7, False)))
    assert str(failure.value) == (
        "`observation` names sample 7, but the partition covers samples 0 to 6. "
        "Build the partition from the same prior dataset that training draws from."
    )


@pytest.mark.parametrize("discount", [-0.1, 1.5, float("nan")])
def test_a_discount_outside_zero_to_one_is_refused(discount):
    with pytest.raises(SettingError) as failure:
        estimate(discount)
    assert str(failure.value) == (
        f"`discount` is {discount}, but it must lie between 0 and 1. Pass 1 to count all steps alike, "
        "0 to count only the last, or a value such as 0.98 between them."
    )
    assert isinstance(failure.value, ValueError)


def test_an_unknown_smoothing_is_refused():
    with pytest.raises(SettingError) as failure:
        estimate(smoothing="laplace")
    assert str(failure.value) == (
        '`smoothing` is \'laplace\', but only "beta", "shrunk" and "raw" exist. Pass one of them.'
    )
