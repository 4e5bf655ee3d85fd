"""A loop over packed rows: the same steps again after an interruption, and ids for all that is planned."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.ideas.collateral_damage_estimator import CountEstimator
from mixcd.run.rehearsal_loop.packed_plan import RowTokens, make_packed_plan
from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop
from mixcd.run.rehearsal_loop.row_kind import RowKind
from mixcd.words.errors import PlanError, ResumeError
from mixcd.words.vocabulary import Observation, Partition

NEW_COUNT, PRIOR_COUNT = 25, 60
PARTITION = Partition(np.arange(PRIOR_COUNT) % 4, ("a", "b", "c", "d"))
RIGHT = np.ones(PRIOR_COUNT, dtype=bool)
KINDS = {
    "packed": (RowKind(True, True, 20), False),
    "packed, by rows": (RowKind(True, True, 20), True),
    "single, by tokens": (RowKind(), False),
}


def make_loop(kind="packed", seed=0, look_ahead=3, **plan_changes):
    row_kind, by_rows = KINDS[kind]
    rng = np.random.default_rng(seed)
    tokens = RowTokens(rng.integers(5, 21, NEW_COUNT), rng.integers(1, 5, NEW_COUNT), rng.integers(1, 15, PRIOR_COUNT))
    changes = {"micro_batch_size": 2, "micro_batch_count": 4, "mix_ratio": 0.3, **plan_changes}
    plan = BatchPlan(NEW_COUNT, PRIOR_COUNT, seed=seed, by_rows=by_rows, **changes)
    loop = RehearsalLoop(CountEstimator(PARTITION, RIGHT, discount=0.9), PARTITION, RIGHT, sources={"model": "m"})
    loop.shape(plan, look_ahead, make_packed_plan(plan, row_kind, tokens))
    return loop


def samples_of(block):
    rows = [row if isinstance(row, tuple) else (row,) for row in block.tolist()]
    return np.array([row - NEW_COUNT for pack in rows for row in pack if row >= NEW_COUNT], dtype=np.int64)


def train(loop, step_count, read_ahead=0):
    """Complete steps while the loader reads ahead; return their blocks and what all steps up to them hold."""
    done, planned = [], {}
    for step in range(loop.steps_done, loop.steps_done + step_count):
        for coming in range(step, step + read_ahead + 1):
            if coming not in planned:
                planned[coming] = loop.block(coming)
        ids = samples_of(planned[step])
        correct = np.random.default_rng(step).random(ids.size) > 0.3 * (ids % 4 < 2)
        loop.adopt(loop.learn(Observation(ids, correct, np.zeros(ids.size))))
        done.append((planned[step].tolist(), loop.state.mixture))
    return done


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 20), st.integers(0, 6), st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_the_steps_in_flight_are_planned_again_alike_after_an_interruption(kind, seed, read_ahead, stop):
    whole, first, resumed = (make_loop(kind, seed) for _ in range(3))
    expected = train(whole, 20, read_ahead)
    assert train(first, stop, read_ahead) == expected[:stop]
    resumed.restore(json.loads(json.dumps(first.to_json())), stop)
    assert train(resumed, 20 - stop) == expected[stop:]


@given(st.integers(0, 20))
@settings(deadline=None, max_examples=20)
def test_the_error_of_the_mix_stays_within_the_longest_row_also_of_the_steps_in_flight(seed):
    loop = make_loop(seed=seed)
    for _, mixture in train(loop, 30, read_ahead=6):
        assert abs(mixture.error(0.3)) <= 20


def test_a_step_that_is_asked_for_first_is_planned_as_in_its_turn():
    one, other = make_loop(), make_loop()
    in_turn = [one.block(step).tolist() for step in range(6)]
    assert other.block(5).tolist() == in_turn[5]


def test_two_processes_plan_as_one_with_accumulation():
    one, two = make_loop(), make_loop(micro_batch_size=1, micro_batch_count=8)
    assert [mixture for _, mixture in train(one, 10)] == [mixture for _, mixture in train(two, 10)]


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_samples_are_expected_as_all_rows_hold(kind):
    loop = make_loop(kind)
    block = loop.block(0)
    new_rows = [row for row in block.tolist() if isinstance(row, int) and row < NEW_COUNT]
    assert loop.observed_count == samples_of(block).size + loop.packed.new_samples[new_rows].sum()


def test_other_samples_than_were_packed_are_refused():
    loop = make_loop()
    ids = samples_of(loop.block(0))
    with pytest.raises(PlanError, match=f"planned {ids.size} prior samples and observed {ids.size - 1}"):
        loop.learn(Observation(ids[1:], np.ones(ids.size - 1, bool), np.zeros(ids.size - 1)))


def test_a_checkpoint_of_packs_of_another_size_is_refused():
    first = make_loop()
    train(first, 2)
    with pytest.raises(ResumeError, match="written with pack size 20, but this run has None"):
        make_loop("single, by tokens").restore(json.loads(json.dumps(first.to_json())), 2)


def test_every_new_row_is_taken_once_in_an_epoch_of_about_the_stated_steps():
    loop = make_loop()
    epoch = loop.steps_per_epoch
    new = [row for block, _ in train(loop, epoch) for row in block if isinstance(row, int)]
    assert sorted(new[:NEW_COUNT]) == list(range(NEW_COUNT)) or len(new) < NEW_COUNT
    assert len(new) == pytest.approx(NEW_COUNT, abs=8)
