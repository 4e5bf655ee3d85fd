import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.lift import DrawSums, LiftSums, estimate_lift, permute_bins, spread_of_damage, sum_draws, sum_window
from mixcd.ideas.sampling_scheduler import draw
from mixcd.words.vocabulary import UNCACHED_BIN, DamageCounts, Observation, Partition, count_damage

EVEN = np.full(10, 100)
RATES = np.array([0.05, 0.1, 0.2, 0.4])
TRUE_LIFT = np.mean(RATES**2) / np.mean(RATES) ** 2  # 1.51
COUNTS = st.lists(
    st.tuples(st.integers(0, 200), st.floats(0, 1), st.integers(1, 1000)).map(
        lambda row: (row[0], round(row[0] * row[1]), row[2])
    ),
    min_size=1,
    max_size=12,
)


def count(observed, damaged):
    return DamageCounts(np.array(observed, dtype=np.float64), np.array(damaged, dtype=np.float64))


def simulate(rates, observed, rng):
    """Return the counts of bins that were observed this often at these true damage rates."""
    return count(np.full(len(rates), observed), rng.binomial(observed, rates))


def uncorrected_lift(counts):
    rate = counts.damaged_count / counts.observed_count
    return np.mean(rate**2) / np.mean(rate) ** 2


def test_a_known_lift_is_recovered_from_many_observations():
    lift = estimate_lift(simulate(RATES, 100_000, np.random.default_rng(0)), np.full(4, 100))
    assert lift.value == pytest.approx(TRUE_LIFT, rel=0.02)
    assert 1.4 < lift.low < lift.value < lift.high < 1.6


def test_the_estimate_of_a_known_lift_has_no_bias_while_the_uncorrected_one_is_too_high():
    rng = np.random.default_rng(1)
    runs = [simulate(RATES, 30, rng) for _ in range(400)]
    corrected = np.mean([estimate_lift(counts, np.full(4, 100)).value for counts in runs])
    assert corrected == pytest.approx(TRUE_LIFT, abs=0.03)
    assert np.mean([uncorrected_lift(counts) for counts in runs]) > TRUE_LIFT + 0.06


@pytest.mark.parametrize("observed", [50, 500])
def test_the_interval_holds_a_known_lift_in_nine_of_ten_runs(observed):
    rng = np.random.default_rng(2)
    lifts = [estimate_lift(simulate(RATES, observed, rng), np.full(4, 100)) for _ in range(200)]
    assert sum(lift.low <= TRUE_LIFT <= lift.high for lift in lifts) >= 180


def test_a_strong_signal_is_told_from_noise():
    rng = np.random.default_rng(3)
    lifts = [estimate_lift(simulate(RATES, 200, rng), np.full(4, 100)) for _ in range(200)]
    assert sum(lift.low > 1 for lift in lifts) >= 180


def test_larger_bins_count_more():
    rates, sizes = np.array([0.1, 0.5]), np.array([900, 100])
    expected = (0.9 * 0.1**2 + 0.1 * 0.5**2) / (0.9 * 0.1 + 0.1 * 0.5) ** 2
    lift = estimate_lift(count([1e7, 1e7], 1e7 * rates), sizes)
    assert lift.value == pytest.approx(expected, rel=1e-4)


def test_the_expected_sampling_variance_is_taken_off_by_hand_computed_numbers():
    lift = estimate_lift(count([5, 5], [1, 3]), np.array([10, 10]))
    noise = 0.2 * 0.8 / 4, 0.6 * 0.4 / 4  # 0.04, 0.06
    between = 0.2**2 - 0.25 * sum(noise)
    assert lift.value == pytest.approx(1 + between / 0.4**2)


@pytest.mark.parametrize(("rate", "observed"), [(0.1, 30), (0.3, 10), (0.05, 60)])
def test_pure_noise_shows_no_lift_in_nine_of_ten_runs_while_uncorrected_it_does(rate, observed):
    rng = np.random.default_rng(4)
    runs = [simulate(np.full(10, rate), observed, rng) for _ in range(200)]
    lifts = [estimate_lift(counts, EVEN) for counts in runs]
    assert sum(lift.low <= 1 <= lift.high for lift in lifts) >= 180
    assert np.mean([lift.value for lift in lifts]) < 1.1
    assert np.mean([uncorrected_lift(counts) for counts in runs]) > 1.2


def test_permuted_bins_show_no_lift_in_nine_of_ten_runs_though_the_real_bins_do():
    rng = np.random.default_rng(5)
    partition = Partition(np.repeat(np.arange(4), 500), tuple("abcd"))
    correct = rng.random(2000) >= RATES[partition.bin_ids]
    seen = rng.choice(2000, 800, replace=False)
    observation = Observation(seen, correct[seen], np.zeros(800))

    def lift_of(bins):
        return estimate_lift(count_damage(bins, np.ones(2000, dtype=bool), observation), bins.bin_sizes)

    assert lift_of(partition).low > 1.15
    permuted = [lift_of(permute_bins(partition, seed)) for seed in range(200)]
    assert sum(lift.low <= 1 <= lift.high for lift in permuted) >= 180


@given(COUNTS)
@settings(deadline=None, max_examples=150)
def test_the_estimate_and_its_bounds_are_ordered_and_never_below_one(rows):
    observed, damaged, sizes = zip(*rows, strict=True)
    lift = estimate_lift(count(observed, damaged), np.array(sizes))
    assert 1 <= lift.low <= lift.high
    assert math.isnan(lift.value) or lift.low <= lift.value <= lift.high


@pytest.mark.parametrize("observed", [[100, 100], [0, 0], [1, 1.9]])
def test_lift_is_not_a_number_while_nothing_damaged_was_observed(observed):
    lift = estimate_lift(count(observed, [0, 0]), np.array([5, 5]))
    assert math.isnan(lift.value)
    assert (lift.low, lift.high) == (1.0, math.inf)


def test_damage_in_bins_observed_less_than_twice_is_not_evidence():
    assert math.isnan(estimate_lift(count([1, 1], [1, 0]), np.array([5, 5])).value)


@pytest.mark.parametrize("observed", [0.0, 1.0, 1.9])
def test_bins_observed_less_than_twice_are_left_out(observed):
    kept = estimate_lift(count([50, 80], [5, 20]), np.array([10, 30]))
    assert estimate_lift(count([50, observed, 80], [5, observed, 20]), np.array([10, 99, 30])) == kept
    assert estimate_lift(count([50, 2.0, 80], [5, 1.0, 20]), np.array([10, 99, 30])) != kept


def test_one_bin_has_a_lift_of_one():
    lift = estimate_lift(count([1000], [300]), np.array([50]))
    assert lift.value == pytest.approx(1, abs=1e-9)


def test_the_interval_narrows_with_more_observations():
    widths = []
    for observed in (100, 1000, 10_000):
        lift = estimate_lift(count(np.full(4, observed), RATES * observed), np.full(4, 10))
        widths.append(lift.high - lift.low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2] > 0


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.integers(0, 2**62))
@settings(deadline=None, max_examples=60)
def test_permuted_bins_keep_their_sizes_and_names(bin_ids, seed):
    partition = Partition(np.array(bin_ids), tuple("abcd"))
    permuted, again = permute_bins(partition, seed), permute_bins(partition, seed)
    assert permuted.bin_sizes.tolist() == partition.bin_sizes.tolist()
    assert (permuted.bin_ids == UNCACHED_BIN).sum() == bin_ids.count(UNCACHED_BIN)
    assert permuted.bin_names == partition.bin_names
    assert partition.bin_ids.tolist() == bin_ids
    assert permuted.bin_ids.tolist() == again.bin_ids.tolist()


def test_every_seed_permutes_the_bins_differently():
    partition = Partition(np.arange(50) % 4, tuple("abcd"))
    permutations = {tuple(permute_bins(partition, seed).bin_ids.tolist()) for seed in range(20)}
    assert len(permutations | {tuple(partition.bin_ids.tolist())}) == 21


def test_the_terms_of_a_window_follow_their_equations_on_hand_computed_numbers():
    sums = sum_window(count([5, 11], [1, 11 * 0.6]), np.array([30, 10]))
    noise = 0.2 * 0.8 / 4, 0.6 * 0.4 / 10  # 0.04, 0.024
    deviation = 0.1**2, 0.3**2  # from the mean rate 0.3
    assert sums.observed_count == 16
    assert sums.mean_square == pytest.approx(16 * 0.3**2)
    assert sums.between == pytest.approx(16 * (0.75 * deviation[0] + 0.25 * deviation[1] - 0.1875 * sum(noise)))
    error_square = 0.75**2 * 2 * noise[0] ** 2 + 0.25**2 * (
        2 * noise[1] ** 2 + 4 * noise[1] * (deviation[1] - noise[1])
    )
    assert sums.error_square == pytest.approx(16**2 * error_square)


def test_windows_add_term_by_term():
    assert LiftSums(1.0, 2.0, 3.0, 4.0) + LiftSums(10.0, 20.0, 30.0, 40.0) == LiftSums(11.0, 22.0, 33.0, 44.0)


def test_the_interval_is_196_standard_errors_either_way():
    lift = LiftSums(observed_count=9.0, between=6.0, mean_square=4.0, error_square=2.25).to_lift()
    assert (lift.value, lift.low, lift.high) == pytest.approx((2.5, 1 + (6 - 1.96 * 1.5) / 4, 1 + (6 + 1.96 * 1.5) / 4))


def test_windows_add_up_so_that_time_is_no_lift():
    early, late = count([100, 100], [2, 2]), count([20, 400], [10, 200])  # both bins alike, later both far worse
    sizes = np.array([50, 50])
    assert estimate_lift(early + late, sizes).low > 1.15
    assert (sum_window(early, sizes) + sum_window(late, sizes)).to_lift().value < 1.01


def test_a_window_without_observations_adds_nothing():
    assert sum_window(count([0, 1], [0, 1]), np.array([5, 5])) == LiftSums()


def observe_draws(damage, weigh, step_count, *, draw_count=4, seed=0):
    """Return the sums of so many steps that draw with these weights from samples of which these are damaged."""
    sums = DrawSums()
    for step in range(step_count):
        drawn = draw(weigh, damage.size, draw_count, seed=seed, step=step)
        sums += sum_draws(damage[drawn.sample_ids], drawn.chances)
    return sums


def test_uniform_draws_have_a_lift_of_one_exactly():
    damage = np.arange(5000) % 7 == 0
    sums = observe_draws(damage, lambda ids: np.ones(ids.size), 50)
    assert sums.damage_rate == pytest.approx(sums.damaged / sums.observed, abs=1e-3)
    assert sums.to_lift().value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("sample_count", [40, 5000])
@pytest.mark.parametrize("draw_count", [1, 4, 16])
def test_weighted_draws_recover_the_damage_rate_however_unevenly_they_fall(sample_count, draw_count):
    rng = np.random.default_rng(0)
    damage = rng.random(sample_count) < 0.1
    weights = np.where(damage, 6.0, 1.0) * rng.uniform(0.2, 2, sample_count)
    sums = observe_draws(damage, lambda ids: weights[ids], 3000, draw_count=draw_count)
    assert sums.damage_rate == pytest.approx(damage.mean(), abs=4 * sums.damage_rate_error)
    assert sums.damage_rate == pytest.approx(damage.mean(), rel=0.1)
    assert sums.damaged / sums.observed > 1.5 * damage.mean()


def test_the_interval_of_the_lift_and_of_the_rate_hold_the_truth_in_nine_of_ten_runs():
    rng = np.random.default_rng(1)
    damage = rng.random(5000) < 0.1
    weights = np.where(damage, 4.0, 1.0) * rng.uniform(0.2, 2, 5000)
    true_lift = 0.05 + 0.95 * (weights @ damage) / weights.sum() / damage.mean()
    held_rate = held_lift = 0
    for seed in range(100):
        sums = observe_draws(damage, lambda ids: weights[ids], 100, seed=seed)
        lift = sums.to_lift()
        held_rate += abs(sums.damage_rate - damage.mean()) < 1.96 * sums.damage_rate_error
        held_lift += lift.low < true_lift < lift.high
    assert held_rate >= 90
    assert held_lift >= 90


def test_draws_away_from_the_damage_have_a_lift_below_one():
    damage = np.arange(5000) % 5 == 0
    lift = observe_draws(damage, lambda ids: np.where(damage[ids], 0.2, 1.0), 500).to_lift()
    assert lift.value < lift.high < 0.5


def test_the_lift_of_draws_is_not_a_number_while_no_damage_was_seen():
    assert math.isnan(DrawSums().damage_rate)
    assert math.isnan(DrawSums().damage_rate_error)
    lift = sum_draws(np.array([False, False]), np.ones(2)).to_lift()
    assert math.isnan(lift.value)
    assert (lift.low, lift.high) == (0, math.inf)


def test_a_sample_drawn_for_want_of_others_stands_for_no_other():
    sums = sum_draws(np.array([True, True, False]), np.array([0.0, 2.0, 1.0]))
    assert (sums.observed, sums.damaged, sums.weight, sums.damaged_weight) == (3, 2, 1.5, 0.5)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 20)), min_size=1, max_size=40), st.integers(0, 40))
def test_draws_add_up(rows, cut):
    damaged, chances = (np.array(column) for column in zip(*rows, strict=True))
    parts = sum_draws(damaged[:cut], chances[:cut]) + sum_draws(damaged[cut:], chances[cut:])
    whole = sum_draws(damaged, chances)
    assert parts.weight == pytest.approx(whole.weight)
    assert parts.damaged_square == pytest.approx(whole.damaged_square)
    assert (parts.observed, parts.damaged) == (whole.observed, whole.damaged)
    assert whole.weight == 0 or 0 <= whole.damage_rate <= 1


def test_the_error_of_the_lift_follows_its_equation_term_by_term():
    damaged, chances = np.array([True, False, True, False, False]), np.array([2.0, 1.0, 0.5, 4.0, 0.25])
    weights, sums = 1 / chances, sum_draws(damaged, chances)
    influence = damaged / 2 - 1 / 5 - weights * damaged / (weights @ damaged) + weights / weights.sum()
    lift = sums.to_lift()
    assert np.log(lift.high / lift.value) == pytest.approx(1.96 * np.sqrt(influence @ influence))
    deviation = weights * (damaged - sums.damage_rate)
    assert sums.damage_rate_error == pytest.approx(np.sqrt(deviation @ deviation) / weights.sum())


GRADED = st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 5)), min_size=1, max_size=30)


@given(draws=GRADED)
def test_graded_draws_are_summed_as_written(draws):
    damage, chances = np.array(draws).T
    weights = 1 / chances
    sums = sum_draws(damage, chances)
    expected = [
        len(draws),
        damage.sum(),
        weights.sum(),
        (weights * damage).sum(),
        (weights**2).sum(),
        (weights**2 * damage).sum(),
        (damage**2).sum(),
        (weights * damage**2).sum(),
        (weights**2 * damage**2).sum(),
    ]
    assert list(vars(sums).values()) == pytest.approx(expected)
    rate = (weights * damage).sum() / weights.sum()
    assert sums.damage_rate == pytest.approx(rate)
    error = (weights**2 * (damage - rate) ** 2).sum() ** 0.5 / weights.sum()
    assert sums.damage_rate_error == pytest.approx(error, abs=1e-6)


@given(flags=st.lists(st.tuples(st.booleans(), st.floats(0.01, 5)), min_size=1, max_size=30))
def test_draws_that_are_damaged_or_not_are_a_case_of_graded_ones(flags):
    damaged, chances = np.array([one for one, _ in flags]), np.array([chance for _, chance in flags])
    assert sum_draws(damaged, chances) == sum_draws(damaged.astype(np.float64), chances)


def test_graded_lift_is_that_of_a_long_simulation_with_its_interval():
    """Draws in proportion to a belief, against all samples: the lift's interval holds the truth in nine of ten runs."""
    rng = np.random.default_rng(5)
    damage = np.clip(rng.beta(0.5, 4, 2000), 0, 1)
    belief = 0.2 + damage
    chances = belief / belief.mean()
    truth, held = (damage * chances).mean() / damage.mean(), 0
    for _ in range(300):
        drawn = rng.choice(2000, 400, p=belief / belief.sum())
        lift = sum_draws(damage[drawn], chances[drawn]).to_lift()
        held += lift.low <= truth <= lift.high
    assert held >= 270


@given(bins=st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=12), min_size=1, max_size=6))
def test_a_window_of_graded_damage_is_summed_as_written(bins):
    damage = [np.array(one) for one in bins]
    counts = count([len(one) for one in damage], [one.sum() for one in damage])
    sizes = np.arange(1, len(bins) + 1)
    found = sum_window(counts, sizes, np.array([(one**2).sum() for one in damage]))
    share = sizes / sizes.sum()
    rates = np.array([one.mean() for one in damage])
    noise = np.array([one.var(ddof=1) / len(one) for one in damage])
    between = share @ (rates - share @ rates) ** 2 - (share * (1 - share)) @ noise
    observed = counts.observed_count.sum()
    values = [observed, observed * between, observed * (share @ rates) ** 2]
    assert list(vars(found).values())[:3] == pytest.approx(values, abs=1e-6)


@given(bins=st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=12), min_size=1, max_size=6))
def test_the_spread_of_graded_damage_is_its_variance(bins):
    counts = count([len(one) for one in bins], [sum(one) for one in bins])
    found = spread_of_damage(counts, np.array([sum(d**2 for d in one) for one in bins]))
    assert found == pytest.approx(np.array([np.var(one) for one in bins]), abs=1e-9)


def test_graded_damage_that_differs_a_little_between_bins_shows_only_with_its_squares():
    """Damage inside [0, 1] varies less than whole damage, so less of the difference is taken for noise."""
    rng = np.random.default_rng(6)
    damage = np.stack([rng.beta(200 * rate, 200 * (1 - rate), 30) for rate in np.linspace(0.2, 0.3, 40)])
    counts, sizes = count(np.full(40, 30), damage.sum(1)), np.full(40, 100)
    rates = np.linspace(0.2, 0.3, 40)
    truth = (rates**2).mean() / rates.mean() ** 2
    graded = estimate_lift(counts, sizes, (damage**2).sum(1))
    assert graded.value == pytest.approx(truth, abs=0.002)
    assert graded.low > 1 == estimate_lift(counts, sizes).value
