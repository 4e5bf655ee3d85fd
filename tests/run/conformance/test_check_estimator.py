"""`check_estimator`: the built-in estimators and the rivals pass; what breaks a rule is told."""

from dataclasses import dataclass

import numpy as np
import pytest

import mixcd
from mixcd.edge.bench.rival_estimators import RIVALS
from mixcd.ideas.collateral_damage_estimator import ESTIMATORS
from mixcd.testing import check_estimator, require_conformance


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_every_built_in_estimator_passes(name):
    require_conformance(check_estimator(name))


@pytest.mark.parametrize("name", sorted(RIVALS))
def test_every_rival_passes(name):
    require_conformance(check_estimator(RIVALS[name]()))


@pytest.mark.parametrize(
    "settings",
    [
        mixcd.Counts(discount=0.5),
        mixcd.Counts(smoothing="raw"),
        mixcd.Factored(discount=0.9),
        mixcd.Drift(noise=0.0, score="product"),
        mixcd.Drift(score="drop"),
    ],
    ids=str,
)
def test_other_settings_pass(settings):
    require_conformance(check_estimator(settings))


@dataclass(frozen=True)
class Seen:
    damaged: np.ndarray


class LastSeen(mixcd.CollateralDamageEstimator[Seen]):
    """Breaks four rules: it holds an array in no field, keeps its state, and lets the last row win."""

    draws_by_bins = False

    def __init__(self, base_correct):
        self.base_correct = base_correct

    def init(self):
        return Seen(np.where(self.base_correct, 0.5, 0.0))

    def update(self, state, observation):
        state.damaged[observation.sample_ids] = self.base_correct[observation.sample_ids] & ~observation.correct
        return state

    def belief(self, state):
        return (state.damaged,)

    def damage_probability(self, belief, sample_ids):
        return belief[0][sample_ids] + 1e-3


def faults_of(estimator):
    return {result.name: result.fault for result in check_estimator(estimator) if not result.passed}


def test_what_breaks_a_rule_is_told():
    assert faults_of(lambda _, predictions: LastSeen(predictions.base_correct)) == {
        "`update` leaves the state as it was": "the state was changed in place",
        "a sample may be in a step twice": "the weights depend on which of its rows comes last",
        "what decides the draws is in the checkpoint's identity": (
            "made of other predictions it draws differently, but is identified alike: keep arrays in its fields"
        ),
    }


class Broken(LastSeen):
    def belief(self, state):
        return (np.full(3, np.nan),)

    def read_state(self, stored):
        raise KeyError("damaged")


def test_a_belief_that_is_not_finite_and_errors_are_faults():
    faults = faults_of(lambda _, predictions: Broken(predictions.base_correct))
    assert "after 0 steps the belief is" in faults["belief and weights are finite"]
    assert faults["an interrupted run goes on as if it had not been"] == "KeyError: 'damaged'"
    with pytest.raises(AssertionError, match="Checks failed: belief and weights are finite: after 0 steps"):
        require_conformance(check_estimator(lambda _, predictions: Broken(predictions.base_correct)))


def weighing(make):
    class Weighing(LastSeen):
        def damage_probability(self, belief, sample_ids):
            return make(sample_ids)

    return lambda _, predictions: Weighing(predictions.base_correct)


@pytest.mark.parametrize(
    ("estimator", "fault"),
    [
        (weighing(lambda ids: np.ones(3)), "after 0 steps the weights of 60 samples have shape (3,)"),
        (weighing(lambda ids: ids - 5.0), "after 0 steps a weight is -5, but it must be finite and not negative"),
        (weighing(lambda ids: ids / 0.0), "after 0 steps a weight is nan, but it must be finite and not negative"),
        (lambda *_: None, "TypeError: what was made is a `NoneType`, and no `mixcd.CollateralDamageEstimator`"),
    ],
    ids=["shape", "negative", "infinite", "nothing"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_nothing_can_be_drawn_by_are_told(estimator, fault):
    assert faults_of(estimator)["belief and weights are finite"] == fault
