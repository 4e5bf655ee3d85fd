import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from mixcd.ideas.collateral_damage_estimator import CountEstimator
from mixcd.ideas.sampling_scheduler import (
    CANDIDATE_COUNT,
    FLOOR,
    draw,
    inclusion_probability,
    line_up,
    mix_with_floor,
    weigh_candidates,
)
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Partition

LARGE = 20_000  # more samples than candidates
FEW = settings(deadline=None, max_examples=60)
SEEDS, STEPS = st.integers(0, 2**62), st.integers(0, 10**9)
WEIGHTS = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=30)


def weigh_equally(ids):
    return np.ones(ids.size)


def weigh(weights):
    return lambda ids: np.asarray(weights, dtype=np.float64)[ids]


def draw_steps(damage_probability, sample_count, draw_count, step_count, **options):
    return np.concatenate(
        [
            draw(damage_probability, sample_count, draw_count, seed=11, step=step, **options).sample_ids
            for step in range(step_count)
        ]
    )


@given(WEIGHTS, st.integers(0, 40), SEEDS, STEPS)
@FEW
def test_a_draw_is_a_pure_function_of_seed_and_step(weights, draw_count, seed, step):
    first, again = (draw(weigh(weights), len(weights), draw_count, seed=seed, step=step).sample_ids for _ in range(2))
    assert first.tolist() == again.tolist()


def test_another_seed_or_step_draws_other_samples():
    draws = {
        tuple(draw(weigh_equally, sample_count, 20, seed=seed, step=step).sample_ids.tolist())
        for sample_count in (1000, LARGE)
        for seed in (0, 1)
        for step in (0, 1, 2)
    }
    assert len(draws) == 2 * 2 * 3


def test_another_seed_or_step_makes_another_generator():
    numbers = {keyed_generator(seed, step, Stream.DRAWS).random() for seed in range(10) for step in range(10)}
    assert len(numbers) == 100


@given(st.integers(1, 9000), st.integers(1, 64), st.integers(0, 20), SEEDS, STEPS)
@settings(deadline=None, max_examples=40)
def test_a_partition_of_one_bin_draws_as_uniform_rehearsal_does(sample_count, draw_count, damaged_count, seed, step):
    estimator = CountEstimator(Partition(np.zeros(sample_count, np.int32), ("all",)), np.ones(sample_count, bool))
    belief = (np.array([damaged_count / 20]),)
    counted = draw(
        lambda ids: estimator.damage_probability(belief, ids), sample_count, draw_count, seed=seed, step=step
    ).sample_ids
    assert counted.tolist() == draw(weigh_equally, sample_count, draw_count, seed=seed, step=step).sample_ids.tolist()


@pytest.mark.parametrize("floor", [0.0, FLOOR, 1.0])
@pytest.mark.parametrize("sample_count", [50, LARGE])
def test_zero_weights_draw_as_equal_weights_do(floor, sample_count):
    for step in range(20):
        zero = draw(np.zeros_like, sample_count, 8, seed=1, step=step, floor=floor).sample_ids
        equal = draw(weigh_equally, sample_count, 8, seed=1, step=step, floor=0.0).sample_ids
        assert zero.tolist() == equal.tolist()


@given(st.integers(1, 9000), st.data(), SEEDS, STEPS)
@FEW
def test_drawn_samples_are_distinct_while_they_last(sample_count, data, seed, step):
    draw_count = data.draw(st.integers(1, min(sample_count, 500)))
    drawn = draw(lambda ids: ids % 3 + 1.0, sample_count, draw_count, seed=seed, step=step).sample_ids
    assert drawn.size == draw_count == np.unique(drawn).size
    assert drawn.dtype == np.int64
    assert 0 <= drawn.min() <= drawn.max() < sample_count


@given(WEIGHTS, st.integers(0, 100), SEEDS)
@FEW
def test_a_prior_set_smaller_than_the_draw_is_taken_whole_as_often_as_it_fits(weights, draw_count, seed):
    sample_count = len(weights)
    drawn = draw(weigh(weights), sample_count, draw_count, seed=seed, step=0).sample_ids
    times = np.bincount(drawn, minlength=sample_count)
    whole_count = draw_count // sample_count
    assert drawn.size == draw_count
    assert set(times.tolist()) <= {whole_count, whole_count + 1}


@given(st.integers(2, 9000), st.integers(1, 5), SEEDS)
@FEW
def test_draws_come_from_the_one_bin_that_has_weight(sample_count, draw_count, seed):
    bin_ids = np.arange(sample_count) % 2
    draw_count = min(draw_count, int(bin_ids.sum()))
    drawn = draw(
        lambda ids: (bin_ids[ids] == 1) * 0.01, sample_count, draw_count, seed=seed, step=0, floor=0.0
    ).sample_ids
    assert (bin_ids[drawn] == 1).all()


@pytest.mark.parametrize("sample_count", [24, LARGE])
def test_bins_are_drawn_in_proportion_to_their_weight(sample_count):
    weight = np.array([0.05, 0.15, 0.3, 0.5])
    drawn = draw_steps(lambda ids: weight[ids % 4], sample_count, 1, 3000, floor=0.0)
    assert chisquare(np.bincount(drawn % 4, minlength=4), 3000 * weight).pvalue > 0.001


def test_single_samples_of_a_small_set_are_drawn_in_proportion_to_their_weight():
    weight = np.arange(1.0, 9.0)
    drawn = draw_steps(weigh(weight), 8, 1, 4000, floor=0.0)
    assert chisquare(np.bincount(drawn, minlength=8), 4000 * weight / weight.sum()).pvalue > 0.001


@pytest.mark.parametrize("sample_count", [20, LARGE, 10**7])
def test_equal_weights_draw_every_part_of_the_prior_set_alike(sample_count):
    drawn = draw_steps(weigh_equally, sample_count, 2, 1500)
    parts = np.bincount(drawn * 10 // sample_count, minlength=10)
    assert chisquare(parts).pvalue > 0.001


def test_the_floor_reaches_samples_without_weight_in_its_share_of_the_draws():
    drawn = draw_steps(lambda ids: (ids < 10).astype(float), 40, 1, 2000, floor=0.2)
    without_weight = int((drawn >= 10).sum())
    assert binomtest(without_weight, 2000, 0.2 * 30 / 40).pvalue > 0.001
    assert np.unique(drawn[drawn >= 10]).size == 30


def test_a_sample_without_weight_is_never_drawn_when_there_is_no_floor():
    drawn = draw_steps(lambda ids: (ids < 10).astype(float), 40, 3, 500, floor=0.0)
    assert set(drawn.tolist()) == set(range(10))


def test_samples_without_weight_fill_up_evenly_when_there_is_no_floor_and_the_others_run_out():
    drawn = draw_steps(lambda ids: (ids < 2).astype(float), 42, 4, 1000, floor=0.0).reshape(1000, 4)
    assert (np.sort(drawn[:, :2], axis=1) == [0, 1]).all()
    assert chisquare(np.bincount(drawn[:, 2:].ravel() - 2, minlength=40)).pvalue > 0.001


def test_five_percent_of_the_draws_ignore_the_belief_by_default():
    assert FLOOR == 0.05
    _, weights = weigh_candidates(lambda ids: (ids == 0) * 1.0, 20, 1, rng=keyed_generator(0, 0, Stream.DRAWS))
    assert weights.tolist() == pytest.approx([0.95 + 0.05 / 20] + [0.05 / 20] * 19)
    explicit = draw_steps(lambda ids: (ids < 2) * 1.0, 60, 2, 60, floor=0.05)
    assert draw_steps(lambda ids: (ids < 2) * 1.0, 60, 2, 60).tolist() == explicit.tolist()


@pytest.mark.parametrize(
    ("sample_count", "draw_count", "candidate_count"),
    [(10, 64, 10), (1024, 8, 1024), (LARGE, 8, 1024), (LARGE, 250, 8000), (9000, 500, 9000), (10**6, 5000, 160_000)],
)
def test_a_step_weighs_1024_candidates_or_32_a_draw_or_all_samples(sample_count, draw_count, candidate_count):
    candidates, weights = weigh_candidates(
        weigh_equally, sample_count, draw_count, rng=keyed_generator(0, 0, Stream.DRAWS)
    )
    assert candidates.size == weights.size == np.unique(candidates).size == candidate_count
    assert 0 <= candidates.min() <= candidates.max() < sample_count
    assert weights.sum() == pytest.approx(1)
    assert candidate_count < sample_count or candidates.tolist() == list(range(sample_count))


def test_the_weights_asked_for_do_not_grow_with_the_prior_set():
    asked = []

    def note(ids):
        asked.append(ids.size)
        return np.ones(ids.size)

    assert draw(note, 10**12, 8, seed=0, step=0).sample_ids.size == 8
    assert asked == [CANDIDATE_COUNT]


@given(WEIGHTS, st.floats(0, 1))
@FEW
def test_drawing_weights_sum_to_one_keep_the_order_and_hold_the_floor(damage_probability, floor):
    given_weights = np.array(damage_probability)
    weights = mix_with_floor(given_weights, floor)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= floor / weights.size * (1 - 1e-12)).all()
    assert (np.diff(weights[np.argsort(given_weights)]) >= -1e-15).all()


@given(WEIGHTS, st.floats(0, 1), st.floats(1e-3, 1e3))
@FEW
def test_a_common_factor_does_not_change_the_drawing_weights(damage_probability, floor, factor):
    given_weights = np.array(damage_probability)
    expected = mix_with_floor(given_weights, floor)
    assert mix_with_floor(factor * given_weights, floor).tolist() == pytest.approx(expected.tolist())


def test_drawing_weights_follow_their_equation():
    assert mix_with_floor(np.array([1.0, 3.0]), 0.2).tolist() == pytest.approx([0.8 / 4 + 0.1, 0.8 * 3 / 4 + 0.1])
    assert mix_with_floor(np.zeros(4), 0.2).tolist() == [0.25] * 4


def test_drawing_weights_leave_the_damage_probabilities_alone():
    damage_probability = np.array([1.0, 3.0])
    mix_with_floor(damage_probability, 0.2)
    assert damage_probability.tolist() == [1.0, 3.0]


@given(st.lists(st.integers(0, LARGE - 1), min_size=1, max_size=60, unique=True), st.integers(0, 90), SEEDS, STEPS)
@FEW
def test_when_candidates_are_given_only_they_are_drawn(candidates, draw_count, seed, step):
    given_ids = np.array(candidates)
    options = {"seed": seed, "step": step, "candidates": given_ids}
    drawn = draw(weigh_equally, LARGE, draw_count, **options).sample_ids
    counts = np.array([np.sum(drawn == one) for one in candidates])
    assert counts.sum() == draw_count
    assert np.ptp(counts) <= 1
    assert drawn.tolist() == draw(weigh_equally, LARGE, draw_count, **options).sample_ids.tolist()


def test_given_candidates_are_weighed_as_they_are():
    asked = []
    candidates, weights = weigh_candidates(
        lambda ids: asked.append(ids.tolist()) or np.array([1.0, 3.0]),
        LARGE,
        1,
        rng=np.random.default_rng(0),
        floor=0.2,
        candidates=np.array([17, 4]),
    )
    assert asked == [[17, 4]]
    assert candidates.tolist() == [17, 4]
    assert weights.tolist() == pytest.approx([0.3, 0.7])


@pytest.mark.parametrize(
    ("sample_count", "drawn"),
    [(10, [2, 7, 8, 1, 6, 5]), (100_000, [68780, 46063, 66509, 54587, 49144, 31571])],
)
def test_canary_numpys_philox_choice_and_exponential_streams_are_the_ones_that_checkpoints_rely_on(sample_count, drawn):
    assert draw(lambda ids: (ids % 3).astype(float), sample_count, 6, seed=3, step=5).sample_ids.tolist() == drawn


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=50), st.data())
@FEW
def test_inclusion_probabilities_add_up_to_the_draws_and_grow_with_the_weight(weights, data):
    draw_count = data.draw(st.integers(1, len(weights) - 1))
    weights = np.array(sorted(weights)) / sum(weights)
    probability = inclusion_probability(weights, draw_count)
    assert probability.sum() == pytest.approx(draw_count, rel=2e-3)
    assert ((probability > 0) & (probability <= 1)).all()
    assert (np.diff(probability) >= 0).all()


def test_inclusion_probabilities_are_near_what_draws_show():
    weights = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    drawn = np.array([draw(weigh(weights), 6, 2, seed=3, step=step, floor=0.0).sample_ids for step in range(5000)])
    shares = np.bincount(drawn.ravel(), minlength=6) / 5000
    np.testing.assert_allclose(inclusion_probability(weights, 2), shares, atol=0.04)


def test_candidates_without_weight_are_never_expected():
    assert inclusion_probability(np.array([0.5, 0.5, 0.0, 0.0]), 3).round(6).tolist() == [1, 1, 0, 0]
    assert inclusion_probability(np.array([0.5, 0.5]), 0).tolist() == [0, 0]


@pytest.mark.parametrize(("sample_count", "draw_count"), [(10, 3), (10, 10), (3, 8), (LARGE, 8)])
def test_uniform_draws_all_have_a_chance_of_one(sample_count, draw_count):
    drawn = draw(weigh_equally, sample_count, draw_count, seed=0, step=0)
    np.testing.assert_allclose(drawn.chances, 1, rtol=2e-3)
    assert drawn.chances.shape == drawn.sample_ids.shape


def test_chances_belong_to_the_samples_they_stand_beside():
    drawn = draw(weigh([1.0, 2.0, 4.0]), 3, 4, seed=0, step=0, floor=0.0)
    (expected,) = {tuple(drawn.chances[drawn.sample_ids == sample][:1]) for sample in [drawn.sample_ids[-1]]}
    assert drawn.sample_ids.tolist()[:3] == [0, 1, 2]
    assert drawn.chances[:3] == pytest.approx((1 + np.array([1, 2, 4]) / 7) * 3 / 4, abs=0.1)
    assert drawn.chances[-1] == expected[0]


@given(WEIGHTS, st.integers(0, 40), SEEDS, STEPS)
@FEW
def test_the_first_to_arrive_are_those_that_are_drawn(weights, draw_count, seed, step):
    drawn = draw(weigh(weights), len(weights), draw_count, seed=seed, step=step)
    first = line_up(weigh(weights), len(weights), draw_count, seed=seed, step=step).first(draw_count)
    assert sorted(first.sample_ids.tolist()) == sorted(drawn.sample_ids.tolist())
    chances = [dict(zip(one.sample_ids.tolist(), one.chances.tolist(), strict=True)) for one in (drawn, first)]
    assert chances[0] == pytest.approx(chances[1])
    rest = draw_count % len(weights)
    assert rest == 0 or first.sample_ids[-rest:].tolist() == drawn.sample_ids[-rest:].tolist()
