import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from mixcd.ideas.collateral_damage_estimator import CountEstimator, damage_intervals
from mixcd.words.errors import SettingError, UnknownSampleError
from mixcd.words.vocabulary import UNCACHED_BIN, DamageCounts, Observation, Partition

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


@pytest.mark.parametrize("smoothing", ["beta", "shrunk", "raw"])
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


# --- shrinkage ----------------------------------------------------------------------------------------------------

BINS = st.lists(st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1, max_size=12)


def tally(bins):
    observed, damaged = np.array(bins, dtype=float).T
    return DamageCounts(observed, damaged)


def shrink(counts):
    bin_count = counts.observed_count.size
    partition = Partition(np.arange(bin_count), tuple(map(str, range(bin_count))))
    (damage_rate,) = CountEstimator(partition, np.ones(bin_count, dtype=bool), smoothing="shrunk").belief(counts)
    return damage_rate


def overall_rate(counts):
    return (counts.damaged_count.sum() + 0.5) / (counts.observed_count.sum() + 1)


@given(BINS)
@FEW
def test_shrunk_rates_lie_between_the_bins_own_rate_and_the_overall_one(bins):
    counts = tally(bins)
    observed, overall = counts.observed_count, overall_rate(counts)
    own = np.divide(counts.damaged_count, observed, out=np.full_like(observed, overall), where=observed > 0)
    damage_rate = shrink(counts)
    assert (damage_rate >= np.minimum(own, overall) - 1e-12).all()
    assert (damage_rate <= np.maximum(own, overall) + 1e-12).all()
    assert (damage_rate > 0).all()
    assert (damage_rate < 1).all()


@given(BINS, st.integers(1, 20), st.integers(0, 20), st.integers(2, 5))
@FEW
def test_a_bin_keeps_more_of_its_own_rate_the_more_it_was_observed(bins, observed, damaged, times):
    damaged = min(observed, damaged)
    thin, thick = shrink(tally([*bins, (observed, damaged), (times * observed, times * damaged)]))[-2:]
    own = damaged / observed
    assert abs(thick - own) <= abs(thin - own) + 1e-12


def test_bins_that_do_not_differ_beyond_chance_all_get_the_overall_rate():
    counts = tally([(50, 10), (10, 2), (5, 1), (0, 0)])
    np.testing.assert_allclose(shrink(counts), overall_rate(counts), rtol=1e-3)


def test_bins_that_differ_clearly_keep_their_own_rates():
    counts = tally([(1000, 10), (1000, 500)])
    np.testing.assert_allclose(shrink(counts), [0.01, 0.5], atol=0.002)


def test_shrunk_rates_are_nearer_the_truth_than_beta_ones_in_thin_bins():
    rng = np.random.default_rng(0)
    errors = np.zeros(2)
    for _ in range(50):
        truth = rng.beta(2, 18, size=40)  # bins that differ somewhat around 0.1
        observed = rng.integers(0, 20, size=40)
        counts = DamageCounts(observed.astype(float), rng.binomial(observed, truth).astype(float))
        beta = (counts.damaged_count + 0.5) / (counts.observed_count + 1)
        errors += [np.square(shrink(counts) - truth).mean(), np.square(beta - truth).mean()]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("bin_count", [2, 10, 160])
@pytest.mark.parametrize("damage_rate", [0.02, 0.3])
def test_bins_that_mean_nothing_are_drawn_more_evenly_than_under_beta(bin_count, damage_rate):
    unevenness = {
        smoothing: np.mean([draw_noise(smoothing, bin_count, damage_rate, seed) for seed in range(10)])
        for smoothing in ("beta", "shrunk")
    }
    assert unevenness["shrunk"] < 0.7 * unevenness["beta"]


def draw_noise(smoothing, bin_count, damage_rate, seed, steps=100):
    """Rehearse by the belief where all bins are alike; return how unevenly, CV² of the rates, on average."""
    rng = np.random.default_rng(seed)
    partition = Partition(np.arange(bin_count), tuple(map(str, range(bin_count))))
    estimator = CountEstimator(partition, np.ones(bin_count, dtype=bool), smoothing=smoothing)
    state, unevenness = estimator.init(), 0.0
    for _ in range(steps):
        (rates,) = estimator.belief(state)
        unevenness += rates.var() / rates.mean() ** 2 / steps
        ids = rng.choice(bin_count, 4, p=rates / rates.sum())
        state = estimator.update(state, Observation(ids, rng.random(4) >= damage_rate, np.zeros(4)))
    return unevenness


# --- intervals ----------------------------------------------------------------------------------------------------


@given(BINS, st.sampled_from([0.9, 0.95, 0.99]))
@FEW
def test_intervals_contain_the_smoothed_rate(bins, level):
    counts = tally(bins)
    low, high = damage_intervals(counts, level)
    smoothed = (counts.damaged_count + 0.5) / (counts.observed_count + 1)
    assert (low >= 0).all()
    assert (low < smoothed).all()
    assert (smoothed < high).all()
    assert (high <= 1).all()


@given(BINS)
@FEW
def test_a_higher_level_gives_wider_intervals(bins):
    (low, high), (lower, higher) = (damage_intervals(tally(bins), level) for level in (0.8, 0.95))
    assert (lower < low).all()
    assert (high < higher).all()


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("observed", [0, 5, 60])
def test_intervals_cover_true_rates_drawn_from_the_prior_as_often_as_they_say(observed, level):
    rng = np.random.default_rng(0)
    truth = rng.beta(0.5, 0.5, size=20_000)
    counts = DamageCounts(np.full(truth.size, float(observed)), rng.binomial(observed, truth).astype(float))
    low, high = damage_intervals(counts, level)
    assert ((low <= truth) & (truth <= high)).mean() == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("observed", [60, 300])
def test_intervals_cover_any_one_true_rate_nearly_as_often(observed):
    damaged = np.arange(observed + 1.0)
    low, high = damage_intervals(DamageCounts(np.full(observed + 1, float(observed)), damaged))
    for truth in np.linspace(0.05, 0.95, 91):  # whole numbers of damaged samples make the coverage swing
        assert binom.pmf(damaged, observed, truth)[(low <= truth) & (truth <= high)].sum() > 0.91


def test_intervals_narrow_with_observations():
    low, high = damage_intervals(DamageCounts(np.array([10.0, 100.0, 1000.0]), np.array([1.0, 10.0, 100.0])))
    assert (np.diff(high - low) < 0).all()


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_outside_zero_to_one_is_refused(level):
    with pytest.raises(SettingError) as failure:
        damage_intervals(tally([(1, 0)]), level)
    assert str(failure.value) == f"`level` is {level}, but it must lie between 0 and 1. Pass a value such as 0.95."
