import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.batch_plan import BatchPlan
from mixcd.collateral_damage_estimator import CountEstimator
from mixcd.errors import PlanError, ResumeError, SettingError
from mixcd.rehearsal_loop import RehearsalLoop
from mixcd.vocabulary import Observation, Partition

NEW_COUNT = 50
BINS = np.arange(90) % 3
SOURCES = {"model": "f"}


def make_loop(lag=None, look_ahead=1, sources=SOURCES, **plan):
    partition, base_correct = Partition(BINS, ("a", "b", "c")), np.ones(90, dtype=bool)
    loop = RehearsalLoop(CountEstimator(partition, base_correct), partition, base_correct, sources=sources, lag=lag)
    settings = {"mix_ratio": 0.25, "micro_batch_size": 8, "micro_batch_count": 1, "seed": 3, **plan}
    loop.shape(BatchPlan(NEW_COUNT, 90, **settings), look_ahead)
    return loop


def observe(block):
    """Bin 2 is damaged, the others are not."""
    ids = block[block >= NEW_COUNT] - NEW_COUNT
    return Observation(ids, BINS[ids] != 2, np.zeros(ids.size))


def run(loop, stop):
    """Run the steps up to `stop`, with the loop planning as far ahead as its lag allows."""
    blocks = {}
    for step in range(loop.steps_done, stop):
        for ahead in range(step, min(stop, step + loop.lag + 1)):
            if ahead not in blocks:
                blocks[ahead] = loop.block(ahead)
        loop.commit(observe(blocks[step]))
    return {step: block.tolist() for step, block in blocks.items()}


def through_json(loop):
    return json.loads(json.dumps(loop.to_json()))


@pytest.mark.parametrize(("lag", "look_ahead", "expected"), [(None, 1, 8), (None, 13, 13), (2, 2, 2), (20, 1, 20)])
def test_the_lag_covers_the_look_ahead(lag, look_ahead, expected):
    assert make_loop(lag, look_ahead).lag == expected


def test_a_lag_below_the_look_ahead_is_refused_with_the_number():
    with pytest.raises(SettingError, match="`lag` is 2, but the data loader reads 5 steps ahead.*a lag of 5 or more"):
        make_loop(lag=2, look_ahead=5)


@pytest.mark.parametrize("lag", [1, 3])
def test_a_step_is_planned_from_the_belief_of_the_lag_before(lag):
    loop = make_loop(lag)
    used, beliefs = [], {}
    weigh = loop.estimator.damage_probability

    def spy(belief, ids):
        used.append(belief[0].tolist())
        return weigh(belief, ids)

    object.__setattr__(loop.estimator, "damage_probability", spy)
    for step in range(8):
        beliefs[step] = loop.state.beliefs[step][0].tolist()
        loop.commit(observe(loop.block(step)))
    assert used == [beliefs[max(0, step - lag)] for step in range(8)]
    assert used[-1] != used[0]


def test_a_block_does_not_depend_on_how_far_ahead_it_is_planned():
    eager, lazy = make_loop(4), make_loop(4)
    planned = run(eager, 12)
    for step in range(12):
        block = lazy.block(step)
        assert block.tolist() == planned[step]
        lazy.commit(observe(block))


def test_a_block_too_far_ahead_is_refused():
    loop = make_loop(lag=3)
    for step in range(4):
        loop.block(step)
    with pytest.raises(PlanError, match="Step 4 was asked for after 0 completed steps, but with a lag of 3 steps"):
        loop.block(4)


def test_a_step_that_observed_other_samples_than_planned_is_refused():
    loop = make_loop()
    seen = observe(loop.block(0))
    wrong = Observation((seen.sample_ids + 1) % 90, seen.correct, seen.loss)
    with pytest.raises(PlanError, match="Step 0 planned 2 prior samples and observed 2, or others"):
        loop.commit(wrong)
    with pytest.raises(PlanError, match="Step 0 planned 0 prior samples and observed 2"):
        make_loop().commit(seen)


def test_old_beliefs_are_dropped():
    loop = make_loop(lag=3)
    run(loop, 10)
    assert sorted(loop.state.beliefs) == [7, 8, 9, 10]


def test_all_processes_hold_the_shared_belief():
    loop = make_loop()
    loop.commit(observe(loop.block(0)), share_belief=lambda belief: (np.array([0.1, 0.2, 0.3]),))
    assert loop.state.beliefs[1][0].tolist() == [0.1, 0.2, 0.3]


def test_reset_forgets_everything():
    loop = make_loop()
    first = run(loop, 20)
    loop.reset()
    assert loop.steps_done == 0
    assert run(loop, 20) == first


@given(stop=st.integers(1, 59), lag=st.integers(1, 9))
@settings(deadline=None, max_examples=25)
def test_a_restored_loop_goes_on_bit_for_bit(stop, lag):
    whole, stopped, resumed = make_loop(lag), make_loop(lag), make_loop(lag)
    blocks = run(whole, 60)
    run(stopped, stop)
    resumed.restore(through_json(stopped), stop)
    after = run(resumed, 60)
    assert after == {step: blocks[step] for step in range(stop, 60)}
    assert through_json(resumed) == through_json(whole)


def test_a_checkpoint_keeps_its_lag():
    loop, resumed = make_loop(look_ahead=11), make_loop()
    run(loop, 5)
    resumed.restore(through_json(loop), 5)
    assert resumed.lag == 11


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"micro_batch_size": 16}, "written with block size 8, but this run has 16"),
        ({"seed": 4}, "written with seed 3, but this run has 4"),
        ({"mix_ratio": 0.5}, "written with mix ratio 0.25, but this run has 0.5"),
        ({"sources": {"model": "g"}}, "written with model fingerprint f, but this run has g"),
        ({"lag": 3}, "planned with a lag of 8 steps, but this run asks for 3"),
        ({"look_ahead": 9}, "planned with a lag of 8 steps, but this run asks for 9"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(other, message):
    loop = make_loop()
    run(loop, 3)
    with pytest.raises(ResumeError, match=message):
        make_loop(**other).restore(through_json(loop), 3)


def test_a_checkpoint_of_another_step_is_refused():
    loop = make_loop()
    run(loop, 3)
    with pytest.raises(ResumeError, match="state is after 3 steps, but the trainer's after 7"):
        make_loop().restore(through_json(loop), 7)


def test_another_split_of_the_same_block_may_resume():
    loop = make_loop()
    run(loop, 3)
    resumed = make_loop(micro_batch_size=4, micro_batch_count=2)
    resumed.restore(through_json(loop), 3)
    assert sorted(resumed.block(3)) == sorted(loop.block(3))
