"""`check_estimator`: does an estimator keep to what the rehearsal loop relies on?"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixcd.ideas.collateral_damage_estimator import ESTIMATORS
from mixcd.run.conformance.check_result import CheckResult, or_fault
from mixcd.run.rehearsal_loop.loop_state import identify_estimator
from mixcd.words.state_json import encode
from mixcd.words.vocabulary import (
    UNCACHED_BIN,
    BasePredictions,
    Belief,
    CollateralDamageEstimator,
    EstimatorSettings,
    Flags,
    Floats,
    Ids,
    Observation,
    Partition,
)

_SAMPLES, _CLASSES, _FEATURES, _ROWS, _STEPS = 60, 3, 4, 6, 12

Bind = Callable[[Partition, BasePredictions], CollateralDamageEstimator[Any]]
"""Makes an estimator of the bins and the base model's predictions."""


@dataclass(frozen=True)
class _Predictions:
    """Predictions of a base model that some prior samples lack."""

    sample_count: int
    sample_ids: Ids
    loss: Floats
    correct: Flags
    classes: Ids
    arrays: Mapping[str, NDArray[np.float16]]

    @property
    def base_loss(self) -> Floats:
        losses = np.full(self.sample_count, np.inf)
        losses[self.sample_ids] = self.loss
        return losses

    @property
    def base_correct(self) -> Flags:
        flags = np.zeros(self.sample_count, dtype=bool)
        flags[self.sample_ids] = self.correct
        return flags


def check_estimator(estimator: str | EstimatorSettings | Bind) -> list[CheckResult]:
    """Check what every estimator must do, on made-up predictions and observations; nothing is trained.

    Args:
        estimator: A name, settings, or a function from (partition, predictions) to an estimator.

    Returns:
        One result a check, in this order: the belief is finite, and so are the weights, of all samples, with or without
        a prediction; a resumed state goes on to the same bits; `update` leaves the state as it was; the order of a
        step's samples does not matter; a sample may be in a step twice; what decides the draws is in the checkpoint's
        identity. A check that fails by an error has that as its fault.

    Example:
        >>> [result.fault for result in check_estimator("counts")]
        ['', '', '', '', '', '']
    """
    settings = ESTIMATORS[estimator]() if isinstance(estimator, str) else estimator
    bind: Bind = settings.bind if isinstance(settings, EstimatorSettings) else settings
    checks = {
        "belief and weights are finite": _find_broken,
        "an interrupted run goes on as if it had not been": _find_other_end,
        "`update` leaves the state as it was": _find_change,
        "the order of a step's samples does not matter": _find_order,
        "a sample may be in a step twice": _find_repetition,
        "what decides the draws is in the checkpoint's identity": _find_hidden,
    }
    return [CheckResult(name, or_fault(partial(check, bind))) for name, check in checks.items()]


def _find_broken(bind: Bind) -> str:
    estimator = _make(bind)
    state = estimator.init()
    for step in range(_STEPS):
        belief = estimator.belief(state)
        if not isinstance(belief, tuple) or not all(np.isfinite(one).all() for one in belief):
            return f"after {step} steps the belief is {belief}"
        if fault := _judge_weights(_weigh(estimator, belief), _candidates(estimator, belief).size):
            return f"after {step} steps {fault}"
        state = estimator.update(state, _observe(step))
    without_prediction = replace(_observe(0), sample_ids=np.full(_ROWS, _SAMPLES - 1))
    if not np.isfinite(_weigh(estimator, estimator.belief(estimator.update(state, without_prediction)))).all():
        return "after samples without a prediction the weights are not finite"
    return ""


def _judge_weights(weights: Floats, sample_count: int) -> str:
    if weights.shape != (sample_count,):
        return f"the weights of {sample_count} samples have shape {weights.shape}"
    broken = [*weights[~np.isfinite(weights)], *weights[weights < 0]]
    return f"a weight is {broken[0]:.3g}, but it must be finite and not negative" if broken else ""


def _find_other_end(bind: Bind) -> str:
    estimator = _make(bind)
    half, whole = (_learn(estimator, steps) for steps in (_STEPS // 2, _STEPS))
    resumed = estimator.read_state(json.loads(json.dumps(estimator.write_state(half))))
    for step in range(_STEPS // 2, _STEPS):
        resumed = estimator.update(resumed, _observe(step))
    same = encode(estimator.belief(whole)) == encode(estimator.belief(resumed))
    return "" if same else "the belief differs in its bits"


def _find_change(bind: Bind) -> str:
    estimator = _make(bind)
    state = _learn(estimator, 2)
    before = json.dumps(estimator.write_state(state))
    estimator.update(state, _observe(2))
    return "" if json.dumps(estimator.write_state(state)) == before else "the state was changed in place"


def _find_order(bind: Bind) -> str:
    estimator = _make(bind)
    state, seen = _learn(estimator, 3), _observe(3)
    one, other = (_weigh_after(estimator, state, each) for each in (seen, _reverse(seen)))
    return "" if np.allclose(one, other, rtol=1e-7) else "the weights differ when the rows are reversed"


def _find_repetition(bind: Bind) -> str:
    estimator = _make(bind)
    seen = _observe(3)
    ids = seen.sample_ids.copy()
    ids[1] = ids[0]  # once right, once wrong
    twice = replace(seen, sample_ids=ids, correct=np.array([True, False, *seen.correct[2:]]))
    state = _learn(estimator, 3)
    one, other = (_weigh_after(estimator, state, each) for each in (twice, _reverse(twice)))
    if not np.isfinite(one).all():
        return "the weights are not finite"
    return "" if np.allclose(one, other, rtol=1e-7) else "the weights depend on which of its rows comes last"


def _find_hidden(bind: Bind) -> str:
    """Two estimators that draw differently from the same observations must be told apart by a checkpoint."""
    one, other = (_make(bind, seed) for seed in (0, 1))
    drawn = [_weigh(estimator, estimator.belief(_learn(estimator, _STEPS))) for estimator in (one, other)]
    alike = drawn[0].shape == drawn[1].shape and np.allclose(drawn[0], drawn[1])
    if not alike and identify_estimator(one) == identify_estimator(other):
        return "made of other predictions it draws differently, but is identified alike: keep arrays in its fields"
    return ""


def _make(bind: Bind, seed: int = 0) -> CollateralDamageEstimator[Any]:
    made: object = bind(*_make_base(seed))
    if not isinstance(made, CollateralDamageEstimator):
        raise TypeError(f"what was made is a `{type(made).__name__}`, and no `mixcd.CollateralDamageEstimator`")
    return made


def _make_base(seed: int) -> tuple[Partition, _Predictions]:
    """Bins and predictions; the last samples have none."""
    rng = np.random.default_rng(seed)
    ids = np.arange(_SAMPLES - 5)
    classes = rng.integers(0, _CLASSES, ids.size)
    logits = rng.normal(size=(ids.size, _CLASSES))
    logits[np.arange(ids.size), classes] += 2
    correct = logits.argmax(1) == classes
    features = rng.normal(size=(ids.size, _FEATURES))
    arrays = {"logits": logits.astype(np.float16), "features": features.astype(np.float16)}
    partition = replace(_spread(ids % 6, 6), factors=(_spread(ids % 2, 2), _spread(ids % 3, 3)))
    return partition, _Predictions(_SAMPLES, ids, rng.random(ids.size) + 0.1, correct, classes, arrays)


def _spread(bins: Ids, count: int) -> Partition:
    bin_ids = np.full(_SAMPLES, UNCACHED_BIN, dtype=np.int32)
    bin_ids[: bins.size] = bins
    return Partition(bin_ids, tuple(f"bin {number}" for number in range(count)))


def _observe(step: int) -> Observation:
    """One step's rows, the last of them without a prediction."""
    rng = np.random.default_rng(1000 + step)
    ids = rng.choice(_SAMPLES - 5, _ROWS, replace=False)
    ids[-1] = _SAMPLES - 2
    return Observation(ids, rng.random(_ROWS) < 0.6, rng.random(_ROWS) * 2, rng.normal(size=(_ROWS, _CLASSES)))


def _reverse(seen: Observation) -> Observation:
    logits = None if seen.logits is None else seen.logits[::-1]
    return Observation(seen.sample_ids[::-1], seen.correct[::-1], seen.loss[::-1], logits)


def _learn(estimator: CollateralDamageEstimator[Any], steps: int) -> Any:
    state = estimator.init()
    for step in range(steps):
        state = estimator.update(state, _observe(step))
    return state


def _candidates(estimator: CollateralDamageEstimator[Any], belief: Belief) -> Ids:
    found = estimator.candidates(belief)
    return np.arange(_SAMPLES) if found is None else found


def _weigh_after(estimator: CollateralDamageEstimator[Any], state: Any, seen: Observation) -> Floats:
    return _weigh(estimator, estimator.belief(estimator.update(state, seen)))


def _weigh(estimator: CollateralDamageEstimator[Any], belief: Belief) -> Floats:
    return estimator.damage_probability(belief, _candidates(estimator, belief))
