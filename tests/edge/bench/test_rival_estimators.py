from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.edge.bench.rival_estimators import (
    Exp3Estimator,
    FixedWeights,
    MeasuredCounts,
    ScoredSamples,
    keep_highest_loss,
    stratify,
)
from mixcd.ideas.collateral_damage_estimator import CountEstimator
from mixcd.ideas.sampling_scheduler import draw
from mixcd.words.vocabulary import UNCACHED_BIN, Observation, Partition, TokenChange

FEW = settings(deadline=None, max_examples=60)
BIN_IDS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def make_partition(bin_ids):
    return Partition(np.array(bin_ids, dtype=np.int32), ("a", "b", "c", "d", "e"))


def observe(ids, correct=None, loss=None):
    ids = np.asarray(ids)
    correct = np.ones(ids.size, bool) if correct is None else np.asarray(correct)
    return Observation(ids, correct, np.zeros(ids.size) if loss is None else np.asarray(loss, dtype=np.float64))


# --- weights that are known before ----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.data())
@FEW
def test_fixed_weights_learn_nothing_and_weigh_as_they_are(weights, data):
    estimator = FixedWeights(np.array(weights))
    state, ids = estimator.init(), np.array(data.draw(st.lists(st.integers(0, len(weights) - 1), max_size=20)), int)
    after = estimator.update(state, observe(ids, np.zeros(ids.size, bool)))
    assert after == state
    assert estimator.belief(after) == ()
    np.testing.assert_array_equal(estimator.damage_probability((), ids), np.array(weights)[ids])


@given(BIN_IDS)
@FEW
def test_stratifying_gives_each_bin_the_same_mass(bin_ids):
    partition = make_partition(bin_ids)
    mass = np.bincount(partition.bin_ids, stratify(partition).weights, minlength=5)
    np.testing.assert_allclose(mass[partition.bin_sizes > 0], 1.0)


@given(st.lists(st.integers(UNCACHED_BIN, 4), min_size=1, max_size=40))
@FEW
def test_samples_without_a_bin_weigh_as_the_average_sample(bin_ids):
    partition = make_partition([*bin_ids, *range(5)])
    cached = partition.bin_ids != UNCACHED_BIN
    bandit = Exp3Estimator(partition)
    for weights in (
        stratify(partition).weights,
        bandit.damage_probability(bandit.belief(bandit.init()), np.arange(cached.size)),
    ):
        np.testing.assert_allclose(weights[~cached], weights[cached].mean())


@given(st.lists(st.floats(0, 9), min_size=1, max_size=50), st.floats(0.01, 1))
@FEW
def test_the_highest_losses_are_kept_and_no_others(losses, share):
    loss = np.array(losses)
    weights = keep_highest_loss(loss, share).weights
    kept = weights == 1
    assert kept.sum() == max(1, round(share * loss.size))
    assert set(weights.tolist()) <= {0.0, 1.0}
    if not kept.all():
        assert loss[kept].min() >= loss[~kept].max()


# --- EXP3 -----------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 30)), max_size=6), max_size=25)


def explore(bin_count, step):
    return min(1 / bin_count, np.sqrt(np.log(bin_count) / (bin_count * step)))


@given(STEPS, st.floats(0, 0.99))
@FEW
def test_the_bandits_policy_is_a_distribution_that_explores(steps, smoothing):
    partition = make_partition(np.arange(10) % 5)
    estimator = Exp3Estimator(partition, smoothing)
    state = estimator.init()
    for number, step in enumerate(steps):
        (policy,) = estimator.belief(state)
        assert policy.sum() == pytest.approx(1)
        assert (policy >= explore(5, number + 1) - 1e-12).all()
        state = estimator.update(
            state, observe([ids for ids, _ in step] or np.zeros(0, int), loss=[x for _, x in step])
        )
    assert np.isfinite(estimator.belief(state)[0]).all()
    assert state.step_count.tolist() == [len(steps)]


def test_the_policy_follows_the_equations():
    partition = Partition(np.array([0, 0, 1]), ("a", "b"))
    estimator, rewards, state = Exp3Estimator(partition, smoothing=0.5), np.zeros(2), None
    state = estimator.init()
    for step in range(1, 40):
        before = np.exp(explore(2, max(1, step - 1)) * rewards)
        expected = (1 - 2 * explore(2, step)) * before / before.sum() + explore(2, step)
        (policy,) = estimator.belief(state)
        np.testing.assert_allclose(policy, expected)
        rewards[0] = 0.5 * rewards[0] + 0.5 * 3.0 / policy[0]  # the mean of 2 and 4
        state = estimator.update(state, observe([0, 1], loss=[2.0, 4.0]))
    np.testing.assert_allclose(state.reward, rewards)


def test_the_bandit_turns_to_the_bin_of_higher_loss():
    partition = make_partition(np.arange(100) % 5)
    estimator, rng = Exp3Estimator(partition), np.random.default_rng(0)
    state = estimator.init()
    for _ in range(300):
        ids = rng.integers(0, 100, 8)
        state = estimator.update(state, observe(ids, loss=np.where(ids % 5 == 2, 4.0, 1.0)))
    assert estimator.belief(state)[0].argmax() == 2


@given(BIN_IDS)
@FEW
def test_the_bandits_weights_give_each_bin_its_share_of_the_policy(bin_ids):
    partition = make_partition(bin_ids)
    estimator = Exp3Estimator(partition)
    policy = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    weights = estimator.damage_probability((policy,), np.arange(len(bin_ids)))
    mass = np.bincount(partition.bin_ids, weights, minlength=5)
    np.testing.assert_allclose(mass, np.where(partition.bin_sizes > 0, policy, 0))


def test_one_bin_is_uniform():
    estimator = Exp3Estimator(Partition(np.zeros(7, int), ("all",)))
    state = estimator.update(estimator.init(), observe([1, 2], loss=[5.0, 1.0]))
    assert estimator.belief(state)[0].tolist() == [1.0]


def test_losses_of_samples_without_a_bin_reward_none():
    estimator = Exp3Estimator(Partition(np.array([0, 1, UNCACHED_BIN]), ("a", "b")))
    state = estimator.update(estimator.init(), observe([0, 2], loss=[1.0, 50.0]))
    assert state.reward.tolist() == pytest.approx([0.1 / 0.5, 0.0])
    assert estimator.damage_probability(estimator.belief(state), np.array([2])).tolist() == [0.5]


# --- scored samples -------------------------------------------------------------------------------------------------


def make_scored(count=40, **settings):
    rng = np.random.default_rng(1)
    return ScoredSamples(rng.exponential(size=count), rng.random(count) < 0.7, **{"score": "damaged", **settings})


def test_before_the_first_probe_every_sample_is_drawn_alike():
    estimator = make_scored()
    belief = estimator.belief(estimator.init())
    assert estimator.candidates(belief) is None
    assert estimator.damage_probability(belief, np.arange(40)).tolist() == [1.0] * 40


@given(
    st.lists(st.integers(0, 39), min_size=1, max_size=30, unique=True),
    st.sampled_from(["damaged", "drop", "loss"]),
    st.booleans(),
    st.integers(1, 50),
    st.integers(0, 1000),
)
@FEW
def test_only_samples_of_the_last_probe_are_drawn(ids, score, takes_highest, draw_count, step):
    rng = np.random.default_rng(step)
    estimator = make_scored(score=score, takes_highest=takes_highest)
    state = estimator.init()
    for probed in (rng.choice(40, 10, replace=False), ids):
        probed = np.sort(probed)
        state = estimator.update(
            state, observe(probed, rng.random(probed.size) < 0.5, rng.exponential(size=probed.size))
        )
    belief = estimator.belief(state)
    candidates = estimator.candidates(belief)
    assert candidates.tolist() == sorted(ids)
    drawn = draw(
        lambda asked: estimator.damage_probability(belief, asked),
        40,
        draw_count,
        seed=0,
        step=step,
        floor=0.0,
        candidates=candidates,
    ).sample_ids
    assert set(drawn.tolist()) <= set(ids)
    assert drawn.size == draw_count


def test_damage_is_scored_by_right_and_now_wrong():
    estimator = ScoredSamples(np.zeros(4), np.array([True, True, False, False]), "damaged")
    state = estimator.update(estimator.init(), observe([0, 1, 2, 3], [True, False, True, False]))
    assert estimator.damage_probability(estimator.belief(state), np.arange(4)).tolist() == [0, 1, 0, 0]


def test_the_drop_is_how_far_the_labels_probability_fell():
    estimator = ScoredSamples(-np.log([0.9, 0.5, 0.2]), np.ones(3, bool), "drop")
    state = estimator.update(estimator.init(), observe([0, 1, 2], loss=-np.log([0.3, 0.6, 0.2])))
    np.testing.assert_allclose(
        estimator.damage_probability(estimator.belief(state), np.arange(3)), [0.6, 0, 0], atol=1e-12
    )


def test_the_loss_is_scored_by_its_rise():
    estimator = ScoredSamples(np.array([1.0, 2.0, 0.5]), np.ones(3, bool), "loss")
    state = estimator.update(estimator.init(), observe([0, 1, 2], loss=[3.0, 1.0, 0.75]))
    assert estimator.damage_probability(estimator.belief(state), np.arange(3)).tolist() == [2.0, 0.0, 0.25]


def test_the_highest_scores_are_drawn_first():
    estimator = ScoredSamples(np.zeros(300), np.ones(300, bool), "loss", takes_highest=True)
    state = estimator.update(estimator.init(), observe(np.arange(300), loss=np.random.default_rng(0).permutation(300)))
    belief = estimator.belief(state)
    highest = np.argsort(-belief[1])[:3].tolist()
    drawn = [
        draw(
            lambda ids: estimator.damage_probability(belief, ids),
            300,
            3,
            seed=1,
            step=step,
            floor=0.0,
            candidates=estimator.candidates(belief),
        ).sample_ids.tolist()
        for step in range(50)
    ]
    assert np.mean([sorted(one) == sorted(highest) for one in drawn]) > 0.5
    assert np.mean([one[0] == highest[0] for one in drawn]) > 0.8


def test_an_oracle_without_any_damage_draws_uniformly_from_its_pool():
    estimator = ScoredSamples(np.zeros(6), np.ones(6, bool), "damaged")
    belief = estimator.belief(estimator.update(estimator.init(), observe([1, 3, 5])))
    drawn = [
        draw(
            lambda ids: estimator.damage_probability(belief, ids),
            6,
            1,
            seed=0,
            step=step,
            floor=0.0,
            candidates=estimator.candidates(belief),
        ).sample_ids[0]
        for step in range(60)
    ]
    assert set(drawn) == {1, 3, 5}


# --- other measures of damage ----------------------------------------------------------------------------------------


def tokens_of(*rows):
    return TokenChange(*np.array(rows).T)


def grade(measure, tokens, loss=None, least_share=0.7):
    count = 3
    counts = CountEstimator(make_partition([0] * count), np.array([True, True, False]))
    estimator = MeasuredCounts(counts, np.array([0.5, 1.0, np.inf]), measure, least_share)
    seen = observe(np.arange(count), [True, False, False], loss)
    return estimator.grade(replace(seen, tokens=tokens)).tolist()


def test_each_measure_is_what_it_says():
    tokens = tokens_of([10, 8, 2, 0], [10, 8, 4, 4], [4, 0, 0, 1])  # targets, right before, lost, gained
    assert grade("graded", tokens) == [0.25, 0.5, 0.0]
    assert grade("target-share", tokens) == [0.2, 0.4, 0.0]
    assert grade("whole", tokens) == [1.0, 0.0, 0.0]
    assert grade("whole", tokens, least_share=0.9) == [0.0, 0.0, 0.0]


def test_the_rise_of_the_loss_counts_up_to_one_nat_a_token():
    assert grade("loss", None, loss=[0.75, 3.0, 9.0]) == [0.25, 1.0, 0.0]
    assert grade("loss", None, loss=[0.25, 1.5, 9.0]) == [0.0, 0.5, 0.0]


def test_without_tokens_a_sample_is_damaged_or_not():
    for measure in ("graded", "target-share", "whole"):
        assert grade(measure, None) == [0.0, 1.0, 0.0]


def test_the_graded_measure_draws_as_the_product_does():
    rng = np.random.default_rng(0)
    counts = CountEstimator(make_partition(rng.integers(0, 5, 30)), np.ones(30, bool))
    rival = MeasuredCounts(counts, np.zeros(30), "graded", 0.7)
    states = [counts.init(), rival.init()]
    for _ in range(5):
        seen = observe(rng.integers(0, 30, 8), loss=rng.random(8))
        seen = replace(seen, tokens=tokens_of(*([9, 6, lost, 2] for lost in rng.integers(0, 7, 8))))
        states = [one.update(state, seen) for one, state in zip((counts, rival), states, strict=True)]
    np.testing.assert_array_equal(counts.belief(states[0]), rival.belief(states[1]))
