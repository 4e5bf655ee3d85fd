import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from mixcd.ideas.collateral_damage_estimator import CountEstimator, FactoredEstimator
from mixcd.ideas.sampling_scheduler import draw
from mixcd.words.errors import DataError, SettingError, UnknownSampleError
from mixcd.words.state_json import decode, encode
from mixcd.words.vocabulary import UNCACHED_BIN, Observation, Partition

BY_LOSS = Partition(np.array([0, 0, 0, 1, 1, 2, UNCACHED_BIN]), ("easy", "hard", "rare"))
BY_LABEL = Partition(np.array([0, 1, 1, 0, 1, 1, UNCACHED_BIN]), ("no", "yes"))
RIGHT = np.ones(7, dtype=bool)
FEW = settings(deadline=None, max_examples=60)
STEPS = st.lists(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=6), min_size=1, max_size=8)
DISCOUNTS = st.floats(0, 1)


def estimate(discount=1.0, partitions=(BY_LOSS, BY_LABEL), base_correct=RIGHT):
    return FactoredEstimator(partitions, base_correct, discount)


def observe(*seen):
    sample_ids = np.array([sample_id for sample_id, _ in seen], dtype=np.int64)
    return Observation(sample_ids, np.array([right for _, right in seen], dtype=bool), np.zeros(len(seen)))


def learn(estimator, *steps):
    state = estimator.init()
    for step in steps:
        state = estimator.update(state, observe(*step))
    return state


def probabilities(estimator, *steps, sample_ids=range(7)):
    return estimator.damage_probability(estimator.belief(learn(estimator, *steps)), np.array(sample_ids))


FIRST = [(0, True), (1, False), (3, False)]


def test_every_sample_is_damaged_with_one_half_at_the_start():
    assert probabilities(estimate()).tolist() == [0.5] * 7


def test_every_factor_is_counted_on_its_own_and_all_samples_together():
    state = learn(estimate(), FIRST, [(5, True), (6, False)])  # sample 6 is uncached
    assert state.observed_count.tolist() == [2.0, 1.0, 1.0, 2.0, 2.0, 4.0]
    assert state.damaged_count.tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 2.0]


def test_rates_are_smoothed_as_counts_are():
    (rates,) = estimate().belief(learn(estimate(), FIRST))
    assert rates.tolist() == pytest.approx([1.5 / 3, 1.5 / 2, 0.5, 1.5 / 3, 1.5 / 2, 2.5 / 4])


def test_log_odds_of_the_factors_add_up_less_the_overall_ones():
    rates = np.array([0.1, 0.4, 0.7, 0.2, 0.6, 0.3])
    probability = estimate().damage_probability((rates,), np.array([0, 4, 5]))
    expected = logit([0.1, 0.4, 0.7]) + logit([0.2, 0.6, 0.6]) - logit(0.3)
    np.testing.assert_allclose(probability, expit(expected))


def test_three_factors_take_the_overall_log_odds_off_twice():
    rates = np.array([0.1, 0.4, 0.7, 0.2, 0.6, 0.2, 0.6, 0.3])
    probability = estimate(partitions=(BY_LOSS, BY_LABEL, BY_LABEL)).damage_probability((rates,), np.array([4]))
    np.testing.assert_allclose(probability, expit(logit(0.4) + 2 * logit(0.6) - 2 * logit(0.3)))


def test_a_factor_with_one_bin_changes_nothing():
    one_bin = Partition(np.minimum(BY_LOSS.bin_ids, 0), ("all",))
    with_one_bin = probabilities(estimate(partitions=(BY_LOSS, one_bin)), FIRST)
    np.testing.assert_allclose(with_one_bin, probabilities(estimate(partitions=(BY_LOSS,)), FIRST))


def test_uncached_samples_get_the_mean_rate_of_all_cached_ones_whoever_else_is_asked_for():
    everyone = probabilities(estimate(), FIRST)
    assert everyone[6] == pytest.approx(everyone[:6].mean())
    for sample_ids in ([6], [0, 6], [6, 5, 6]):
        some = probabilities(estimate(), FIRST, sample_ids=sample_ids)
        assert some.tolist() == pytest.approx(everyone[sample_ids].tolist())


def test_only_samples_that_the_base_model_got_right_can_be_damaged():
    base_correct = np.array([True, False, True, True, True, True, True])
    state = learn(estimate(base_correct=base_correct), FIRST)
    assert state.damaged_count.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]


@given(STEPS, DISCOUNTS)
@FEW
def test_probabilities_stay_inside_zero_and_one(steps, discount):
    probability = probabilities(estimate(discount), *steps)
    assert (probability > 0).all()
    assert (probability < 1).all()


@given(STEPS, DISCOUNTS)
@FEW
def test_one_factor_is_the_same_as_counts_draw_for_draw(steps, discount):
    factored, counts = estimate(discount, (BY_LOSS,)), CountEstimator(BY_LOSS, RIGHT, discount)
    factored_belief = factored.belief(learn(factored, *steps))
    counts_belief = counts.belief(learn(counts, *steps))
    everyone = np.arange(7)
    np.testing.assert_allclose(
        factored.damage_probability(factored_belief, everyone), counts.damage_probability(counts_belief, everyone)
    )
    for step in range(5):
        a = draw(lambda ids: factored.damage_probability(factored_belief, ids), 7, 3, seed=0, step=step).sample_ids
        b = draw(lambda ids: counts.damage_probability(counts_belief, ids), 7, 3, seed=0, step=step).sample_ids
        assert a.tolist() == b.tolist()


@given(STEPS, DISCOUNTS)
@FEW
def test_each_factor_counts_as_an_estimator_of_its_own(steps, discount):
    state = learn(estimate(discount), *steps)
    start = 0
    for partition in (BY_LOSS, BY_LABEL):
        own = learn(CountEstimator(partition, RIGHT, discount), *steps)
        stop = start + partition.bin_count
        assert state.observed_count[start:stop].tolist() == own.observed_count.tolist()
        assert state.damaged_count[start:stop].tolist() == own.damaged_count.tolist()
        start = stop


@given(STEPS, st.randoms(use_true_random=False))
@FEW
def test_the_order_of_updates_does_not_matter_when_everything_counts(steps, shuffler):
    a, b = (learn(estimate(), *order) for order in (steps, shuffler.sample(steps, len(steps))))
    assert a.observed_count.tolist() == b.observed_count.tolist()
    assert a.damaged_count.tolist() == b.damaged_count.tolist()


def test_an_update_leaves_the_state_as_it_was():
    state = learn(estimate(0.5), FIRST)
    before = state.observed_count.tolist(), state.damaged_count.tolist()
    estimate(0.5).update(state, observe(*FIRST))
    assert (state.observed_count.tolist(), state.damaged_count.tolist()) == before


@given(STEPS, DISCOUNTS)
@FEW
def test_the_state_comes_back_from_json_bit_for_bit(steps, discount):
    estimator = estimate(discount)
    state = learn(estimator, *steps)
    back = decode(estimator.init(), json.loads(json.dumps(encode(state))))
    assert back.observed_count.tobytes() == state.observed_count.tobytes()
    assert back.damaged_count.tobytes() == state.damaged_count.tobytes()


# --- data in which the factors are independent given damaged, and given undamaged -----------------------------------


def make_independent_data(seed, bins=8, samples=20_000):
    """Two partitions, the damaged samples, and the true damage rate of every cell."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(bins, 2.0), size=(2, 2))  # by partition, by whether damaged
    damaged = rng.random(samples) < 0.2
    bin_ids = [np.where(damaged, *(rng.choice(bins, samples, p=one[state]) for state in (1, 0))) for one in chances]
    partitions = tuple(Partition(ids, tuple(map(str, range(bins)))) for ids in bin_ids)
    ratios = np.log(chances[:, 1]) - np.log(chances[:, 0])
    cell_rates = expit(logit(0.2) + ratios[0][:, None] + ratios[1])
    return partitions, damaged, chances, cell_rates


def test_true_marginal_rates_give_the_true_rate_of_every_cell():
    partitions, _, chances, cell_rates = make_independent_data(0)
    marginal = 0.2 * chances[:, 1] / (0.2 * chances[:, 1] + 0.8 * chances[:, 0])
    estimator = FactoredEstimator(partitions, np.ones(20_000, dtype=bool))
    belief = (np.append(marginal.ravel(), 0.2),)
    found = estimator.damage_probability(belief, np.arange(20_000))
    np.testing.assert_allclose(found, cell_rates[partitions[0].bin_ids, partitions[1].bin_ids], rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_factors_learn_independent_cells_from_fewer_observations_than_the_joint_table(seed):
    partitions, damaged, _, cell_rates = make_independent_data(seed)
    right, everyone = np.ones(damaged.size, dtype=bool), np.arange(damaged.size)
    cells = Partition(partitions[0].bin_ids * 8 + partitions[1].bin_ids, tuple(map(str, range(64))))
    truth = cell_rates[partitions[0].bin_ids, partitions[1].bin_ids]
    ids = np.random.default_rng(seed).choice(damaged.size, 400, replace=False)
    seen = Observation(ids, ~damaged[ids], np.zeros(ids.size))
    errors = []
    for estimator in (FactoredEstimator(partitions, right), CountEstimator(cells, right)):
        belief = estimator.belief(estimator.update(estimator.init(), seen))
        errors.append(np.square(estimator.damage_probability(belief, everyone) - truth).mean())
    assert errors[0] < 0.6 * errors[1]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_no_factors_are_refused():
    with pytest.raises(SettingError) as failure:
        estimate(partitions=())
    assert str(failure.value) == (
        "`FactoredEstimator` was given no partitions. It combines at least one. Pass those that "
        '`ByPriorLoss(10) * ByColumn("label")` is made of.'
    )


@pytest.mark.parametrize("discount", [-0.1, 1.5, float("nan")])
def test_a_discount_outside_zero_to_one_is_refused(discount):
    with pytest.raises(SettingError) as failure:
        estimate(discount)
    assert str(failure.value) == (
        f"`discount` is {discount}, but it must lie between 0 and 1. Pass 1 to count all steps alike."
    )


def test_factors_over_different_samples_are_refused():
    with pytest.raises(DataError) as failure:
        estimate(partitions=(BY_LOSS, Partition(np.array([0, 0]), ("all",))))
    assert str(failure.value) == (
        "The factors cover 2 and 7 samples, but all must cover the same prior data. Assign all partitions on one table."
    )


def test_an_unknown_sample_is_named():
    with pytest.raises(UnknownSampleError, match="names sample 7, but the partition covers samples 0 to 6"):
        learn(estimate(), [(7, True)])
