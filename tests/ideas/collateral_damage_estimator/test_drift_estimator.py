import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from threadpoolctl import threadpool_info, threadpool_limits

from mixcd.ideas.collateral_damage_estimator import DriftEstimator, drift_estimator
from mixcd.ideas.collateral_damage_estimator.drift_estimator import DriftState
from mixcd.words.errors import DataError, SettingError, UnknownSampleError
from mixcd.words.vocabulary import Observation

SAMPLES, FEATURES, CLASSES = 400, 6, 3


def make_estimator(seed=0, rows=None, **settings):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (SAMPLES, CLASSES))
    features = rng.normal(size=(SAMPLES, FEATURES))
    right = rng.random(SAMPLES) < 0.8
    return DriftEstimator(logits, features, logits.argmax(1), right, rows, **settings)


def observe(estimator, ids, drift):
    logits = estimator.base_logits[ids] + drift
    return Observation(ids, np.ones(ids.size, dtype=bool), np.zeros(ids.size), logits)


def true_drift(estimator, ids, seed=5, size=0.6):
    """A drift that is linear in the features, with noise."""
    rng = np.random.default_rng(seed)
    map_ = rng.normal(0, size, (FEATURES, CLASSES))
    return estimator.features[ids] @ map_ + rng.normal(0, 0.1, (ids.size, CLASSES))


def learn(estimator, drift, steps=100, rows=4, seed=1):
    rng, state = np.random.default_rng(seed), estimator.init()
    for _ in range(steps):
        ids = rng.choice(SAMPLES, rows, replace=False)
        state = estimator.update(state, observe(estimator, ids, drift(ids)))
    return state


def test_the_first_belief_leans_on_the_base_models_margins():
    estimator = make_estimator()
    chance = estimator.damage_probability(estimator.belief(estimator.init()), np.arange(SAMPLES))
    top = np.sort(estimator.base_logits, axis=1)
    margin = top[:, -2] - top[:, -1]
    leverage = (np.square(estimator.features).sum(1) + 1) / estimator.ridge
    expected = estimator.base_correct * norm.cdf(margin / np.sqrt(2 * (1 + leverage)))
    np.testing.assert_allclose(chance, expected, rtol=1e-5)  # leverages in single precision


def test_a_linear_drift_is_learnt_and_its_damage_forecast():
    estimator = make_estimator(discount=1.0, ridge=1.0)
    drift = true_drift(estimator, np.arange(SAMPLES))
    belief = estimator.belief(learn(estimator, lambda ids: drift[ids]))
    chance = estimator.damage_probability(belief, np.arange(SAMPLES))
    labels = estimator.prediction
    damaged = estimator.base_correct & ((estimator.base_logits + drift).argmax(1) != labels)
    assert 0.1 < damaged.mean() < 0.6
    drawn = chance / chance.sum()
    assert drawn[damaged].sum() > 0.85  # against damaged.mean() in a uniform draw
    assert ((chance > 0.5) == damaged).mean() > 0.95


def test_the_update_is_the_regression_over_all_observations():
    estimator = make_estimator(discount=0.9, ridge=2.0)
    rng = np.random.default_rng(3)
    batches = [rng.choice(SAMPLES, 5, replace=False) for _ in range(8)]
    drifts = [rng.normal(size=(5, CLASSES)) for _ in batches]
    state = estimator.init()
    for ids, drift in zip(batches, drifts, strict=True):
        state = estimator.update(state, observe(estimator, ids, drift))
    weights = np.repeat(0.9 ** np.arange(7, -1, -1), 5)
    phi = np.column_stack([estimator.features[np.concatenate(batches)], np.ones(40)])
    gram = phi.T @ (weights[:, None] * phi) + 2.0 * np.eye(FEATURES + 1)
    expected = np.linalg.solve(gram, phi.T @ (weights[:, None] * np.concatenate(drifts)))
    coefficients, inverse, _ = estimator.belief(state)
    np.testing.assert_allclose(coefficients, expected)
    np.testing.assert_allclose(inverse, np.linalg.inv(gram))
    np.testing.assert_array_equal(inverse, inverse.T)


def test_the_state_before_is_left_as_it_was():
    estimator = make_estimator()
    before = learn(estimator, lambda ids: np.ones((ids.size, CLASSES)), steps=3)
    kept = [array.copy() for array in vars(before).values()]
    estimator.update(before, observe(estimator, np.arange(4), np.ones((4, CLASSES))))
    for array, copy in zip(vars(before).values(), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_noise_is_drawn_from_no_more_unevenly_than_margins_alone():
    """A regression on pure noise must not find patterns: its draws stay about as even as those of the first belief."""
    estimator = make_estimator()
    noise = np.random.default_rng(9).normal(0, 1.0, (SAMPLES, CLASSES))
    ids = np.arange(SAMPLES)
    before = estimator.damage_probability(estimator.belief(estimator.init()), ids)
    after = estimator.damage_probability(estimator.belief(learn(estimator, lambda ids: noise[ids], steps=200)), ids)

    def effective_share(weights):
        return weights.sum() ** 2 / np.square(weights).sum() / SAMPLES

    assert effective_share(after) > 0.6 * effective_share(before)


@given(
    scale=st.floats(0, 50),
    steps=st.integers(0, 12),
    seed=st.integers(0, 5),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_chances_are_chances_and_only_for_what_was_right(scale, steps, seed, dtype):
    made = make_estimator(seed)
    estimator = DriftEstimator(
        made.base_logits.astype(dtype), made.features.astype(dtype), made.prediction, made.base_correct
    )
    drift = np.random.default_rng(seed).normal(0, 1, (SAMPLES, CLASSES)) * scale
    state = learn(estimator, lambda ids: drift[ids], steps=steps)
    chance = estimator.damage_probability(estimator.belief(state), np.arange(SAMPLES))
    assert np.isfinite(chance).all()
    assert (chance >= 0).all()
    assert (chance <= 1).all()
    assert (chance[~estimator.base_correct] == 0).all()


def test_the_order_within_a_step_does_not_matter():
    estimator = make_estimator()
    ids = np.arange(12)
    drift = true_drift(estimator, ids)
    forth = estimator.update(estimator.init(), observe(estimator, ids, drift))
    back = estimator.update(estimator.init(), observe(estimator, ids[::-1], drift[::-1]))
    for one, other in zip(vars(forth).values(), vars(back).values(), strict=True):
        np.testing.assert_allclose(one, other)


def test_samples_that_are_not_cached_are_drawn_at_the_mean_and_not_learnt_from():
    rows = np.full(SAMPLES + 100, -1)
    rows[50 : 50 + SAMPLES] = np.arange(SAMPLES)
    estimator = make_estimator(rows=rows)
    ids = np.array([0, 60, 61, 499])
    chance = estimator.damage_probability(estimator.belief(estimator.init()), ids)
    assert chance[0] == chance[3] == chance[1:3].mean()
    logits = np.zeros((4, CLASSES))
    seen = Observation(ids, np.ones(4, dtype=bool), np.zeros(4), logits)
    known = Observation(ids[1:3], np.ones(2, dtype=bool), np.zeros(2), logits[1:3])
    one, other = estimator.update(estimator.init(), seen), estimator.update(estimator.init(), known)
    for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    nothing = Observation(ids[:1], np.ones(1, dtype=bool), np.zeros(1), logits[:1])
    assert vars(estimator.update(one, nothing)).keys() == vars(one).keys()
    np.testing.assert_array_equal(estimator.update(one, nothing).gram, one.gram)


def test_nothing_is_drawn_where_the_base_model_had_nothing_right():
    made = make_estimator()
    estimator = DriftEstimator(made.base_logits, made.features, made.prediction, np.zeros(SAMPLES, dtype=bool))
    assert estimator.damage_probability(estimator.belief(estimator.init()), np.arange(9)).tolist() == [0.0] * 9


def test_its_matrices_are_multiplied_by_one_thread(monkeypatch):
    """More would compete with PyTorch's, which still spin between two steps."""
    estimator, ids, threads = make_estimator(), np.arange(9), []

    def spy(function):
        def call(*args, **named):
            threads.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
            return function(*args, **named)

        return call

    for name in ("dpotrf", "ndtr"):
        monkeypatch.setattr(drift_estimator, name, spy(getattr(drift_estimator, name)))
    with threadpool_limits(2, user_api="blas"):
        state = estimator.update(estimator.init(), observe(estimator, ids, true_drift(estimator, ids)))
        while_learning = len(threads)
        estimator.damage_probability(estimator.belief(state), ids)
    assert 0 < while_learning < len(threads)
    assert set(threads) == {1}


def test_what_makes_no_sense_is_refused():
    for discount in (0, -1, 1.1, float("nan")):
        with pytest.raises(SettingError, match="`discount` is .*must lie in"):
            make_estimator(discount=discount)
    for ridge in (0, -1, float("inf"), float("nan")):
        with pytest.raises(SettingError, match="`ridge` is .*must be positive and finite"):
            make_estimator(ridge=ridge)
    estimator = make_estimator()
    with pytest.raises(DataError, match="cover 3, 400 samples"):
        DriftEstimator(estimator.base_logits[:3], estimator.features, estimator.prediction, estimator.base_correct)
    without = Observation(np.array([0]), np.array([True]), np.array([0.0]))
    with pytest.raises(DataError, match="The observation has no logits"):
        estimator.update(estimator.init(), without)
    with pytest.raises(UnknownSampleError, match="names sample 400, but the cache covers samples 0 to 399"):
        estimator.update(
            estimator.init(), Observation(np.array([400]), np.array([True]), np.zeros(1), np.zeros((1, CLASSES)))
        )


def test_the_state_is_made_of_arrays_only():
    assert all(isinstance(array, np.ndarray) for array in vars(make_estimator().init()).values())
    assert set(vars(make_estimator().init())) == set(DriftState.__dataclass_fields__)
