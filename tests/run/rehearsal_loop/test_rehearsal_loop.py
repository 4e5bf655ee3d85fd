import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.ideas.collateral_damage_estimator import CountEstimator
from mixcd.ideas.probe import Probe
from mixcd.ideas.sampling_scheduler import draw, weigh_candidates
from mixcd.run.rehearsal_loop.loop_state import identify_estimator
from mixcd.run.rehearsal_loop.rehearsal_health import measure_vitals
from mixcd.run.rehearsal_loop.rehearsal_loop import LEAST_LAG, RehearsalLoop
from mixcd.words.errors import PlanError, ResumeError, SettingError
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.state_json import encode
from mixcd.words.vocabulary import CollateralDamageEstimator, Observation, Partition

NEW_COUNT, PRIOR_COUNT = 30, 40
PARTITION = Partition(np.arange(PRIOR_COUNT) % 4, ("a", "b", "c", "d"))
RIGHT = np.ones(PRIOR_COUNT, dtype=bool)
SAME_SIZES = Partition(np.arange(PRIOR_COUNT) // 10, ("a", "b", "c", "d"))
FEW = settings(deadline=None, max_examples=25)


def fingerprint(partition):
    return hashlib.sha256(partition.bin_ids.tobytes()).hexdigest()[:16]


class SpyEstimator(CollateralDamageEstimator):
    """Believes the number of steps it has learnt from, and notes the beliefs that samples are drawn with."""

    def __init__(self):
        self.used = []

    def init(self):
        return np.zeros(1)

    def update(self, state, observation):
        return state + 1

    def belief(self, state):
        return (state.copy(),)

    def damage_probability(self, belief, sample_ids):
        self.used.append(int(belief[0][0]))
        return np.ones(sample_ids.size)


def make_plan(**changes):
    values = {"new_count": NEW_COUNT, "prior_count": PRIOR_COUNT, "mix_ratio": 0.3, "micro_batch_size": 4}
    return BatchPlan(**{**values, "micro_batch_count": 2, "seed": 5, **changes})


def make_loop(estimator=None, *, look_ahead=3, plan=None, sources=None, partition=PARTITION, **options):
    estimator = estimator or CountEstimator(partition, RIGHT, discount=0.9)
    loop = RehearsalLoop(estimator, partition, RIGHT, sources=sources or {"model": "m1", "data": "d1"}, **options)
    loop.shape(plan or make_plan(), look_ahead)
    return loop


def observe(block, step):
    """Observe the prior rows of a block; bins "a" and "b" are damaged more often, the more steps are done."""
    sample_ids = block[block >= NEW_COUNT] - NEW_COUNT
    correct = np.random.default_rng(step).random(sample_ids.size) > 0.2 * (sample_ids % 4 < 2) + 0.02 * step
    return Observation(sample_ids, correct, np.zeros(sample_ids.size))


def train(loop, step_count, read_ahead=0):
    """Complete steps while the loader reads ahead; return the blocks that were trained on."""
    blocks, planned = [], {}
    for step in range(loop.steps_done, loop.steps_done + step_count):
        for coming in range(step, step + read_ahead + 1):
            if coming not in planned:
                planned[coming] = loop.block(coming)
        blocks.append(planned[step].tolist())
        loop.adopt(loop.learn(observe(planned[step], step)))
    return blocks


def store(loop):
    return json.loads(json.dumps(loop.to_json(), allow_nan=False))


def refusal_to_resume(stored, loop, steps_done):
    with pytest.raises(ResumeError) as failure:
        loop.restore(stored, steps_done)
    return str(failure.value)


@pytest.mark.parametrize("lag", [1, 3, 8, 11])
@pytest.mark.parametrize("read_ahead", [0, 1])
def test_every_step_is_planned_with_the_belief_of_lag_steps_before(lag, read_ahead):
    spy = SpyEstimator()
    train(make_loop(spy, lag=lag, look_ahead=1), 20, read_ahead)
    assert spy.used == [max(0, step - lag) for step in range(20 + read_ahead)]


def test_a_lag_of_zero_plans_with_the_latest_belief():
    spy = SpyEstimator()
    train(make_loop(spy, lag=0, look_ahead=0), 6)
    assert spy.used == list(range(6))


@pytest.mark.parametrize(("look_ahead", "lag"), [(0, 8), (3, 8), (8, 8), (9, 9), (21, 21)])
def test_the_default_lag_is_eight_or_what_the_loader_reads_ahead(look_ahead, lag):
    assert LEAST_LAG == 8
    assert make_loop(look_ahead=look_ahead).lag == lag


def test_an_explicit_lag_may_be_as_short_as_the_look_ahead():
    assert make_loop(look_ahead=3, lag=3).lag == 3


def test_a_lag_shorter_than_the_look_ahead_is_refused_with_the_number():
    with pytest.raises(SettingError) as failure:
        make_loop(look_ahead=5, lag=4)
    assert str(failure.value) == (
        "`lag` is 4, but the data loader reads 5 steps ahead, so a step must be planned from a belief at least that "
        "old. Pass a lag of 5 or more, or use fewer workers."
    )
    assert isinstance(failure.value, ValueError)


def test_a_refused_lag_keeps_the_shape_there_was():
    loop = make_loop(look_ahead=2, lag=4)
    with pytest.raises(SettingError):
        loop.shape(make_plan(seed=6), 5)
    assert (loop.look_ahead, loop.plan.seed) == (2, 5)


def test_a_block_holds_the_samples_drawn_with_the_belief_the_seed_and_the_floor():
    loop = make_loop(floor=0.3)
    for step in range(12):
        (rate,) = loop.state.beliefs[max(0, step - 8)]
        drawn = draw(
            lambda ids, rate=rate: rate[ids % 4], 40, loop.plan.prior_row_count(step), seed=5, step=step, floor=0.3
        ).sample_ids
        assert loop.block(step).tolist() == loop.plan.block(step, drawn).tolist()
        loop.adopt(loop.learn(observe(loop.block(step), step)))


def test_the_floor_changes_what_is_drawn():
    assert train(make_loop(floor=0.0), 30) != train(make_loop(floor=1.0), 30)


def test_draws_follow_the_damage_that_was_observed():
    loop = make_loop(lag=0, look_ahead=0, plan=make_plan(mix_ratio=0.25))
    drawn = []
    for step in range(200):
        block = loop.block(step)
        sample_ids = block[block >= NEW_COUNT] - NEW_COUNT
        loop.adopt(loop.learn(Observation(sample_ids, sample_ids % 4 != 2, np.zeros(sample_ids.size))))
        drawn += sample_ids[sample_ids >= 0].tolist()
    assert np.mean(np.array(drawn[200:]) % 4 == 2) > 0.7


@given(st.integers(0, 8))
@FEW
def test_blocks_do_not_depend_on_how_far_the_loader_reads_ahead(read_ahead):
    assert train(make_loop(), 25, read_ahead) == train(make_loop(), 25)


def test_a_step_further_ahead_than_the_lag_is_refused():
    loop = make_loop()
    train(loop, 2)
    loop.block(2 + 8)
    with pytest.raises(PlanError) as failure:
        loop.block(11)
    assert str(failure.value) == (
        "Step 11 was asked for after 2 completed steps, but with a lag of 8 steps it needs a belief that is not there. "
        "The training loader only yields batches as training completes steps. Do not run through it outside `train()`."
    )
    assert isinstance(failure.value, RuntimeError)


def test_a_step_whose_belief_is_gone_is_refused():
    loop = make_loop()
    train(loop, 12)
    with pytest.raises(PlanError, match="Step 11 was asked for after 12 completed steps"):
        loop.block(11)


@pytest.mark.parametrize(
    ("change", "observed_count"),
    [
        (lambda ids: ids[:-1], 1),
        (lambda ids: np.append(ids, ids[0]), 3),
        (lambda ids: np.array([ids[0], (ids[1] + 1) % PRIOR_COUNT]), 2),
        (lambda ids: np.array([ids[0], ids[0]]), 2),
        (lambda ids: ids[:0], 0),
    ],
    ids=["dropped", "repeated", "replaced", "doubled", "none"],
)
def test_other_samples_than_were_planned_are_refused_and_nothing_is_learnt(change, observed_count):
    loop = make_loop()
    before = store(loop)
    block = loop.block(0)
    seen = change(block[block >= NEW_COUNT] - NEW_COUNT)
    with pytest.raises(PlanError) as failure:
        loop.adopt(loop.learn(Observation(seen, np.ones(seen.size, dtype=bool), np.zeros(seen.size))))
    assert str(failure.value) == (
        f"Step 0 planned 2 prior samples and observed {observed_count}, or others. Every planned row must reach the "
        "model once. Check that nothing between the data loader and the model drops, repeats or replaces rows."
    )
    assert store(loop) == before


def test_a_step_that_was_never_planned_cannot_be_committed():
    loop = make_loop()
    loop.block(1)
    with pytest.raises(PlanError, match="Step 0 planned 0 prior samples and observed 1, or others"):
        loop.adopt(loop.learn(Observation(np.array([3]), np.array([True]), np.zeros(1))))


def test_a_step_cannot_be_committed_twice():
    loop = make_loop()
    observation = observe(loop.block(0), 0)
    loop.adopt(loop.learn(observation))
    with pytest.raises(PlanError, match="Step 1 planned 0 prior samples and observed 2"):
        loop.adopt(loop.learn(observation))


def test_the_samples_of_a_step_may_be_observed_in_any_order():
    loops = [make_loop(plan=make_plan(mix_ratio=0.75)) for _ in range(2)]
    for order, loop in zip((1, -1), loops, strict=True):
        seen = observe(loop.block(0), 5)
        loop.adopt(loop.learn(Observation(seen.sample_ids[::order], seen.correct[::order], seen.loss[::order])))
    assert store(loops[0]) == store(loops[1])


def test_a_commit_counts_the_step_and_hands_the_observation_to_estimator_and_history():
    loop = make_loop()
    observation = observe(loop.block(0), 40)  # most are damaged
    loop.adopt(loop.learn(observation))
    expected = loop.estimator.update(loop.estimator.init(), observation)
    assert loop.steps_done == loop.state.history.step_count == 1
    assert encode(loop.state.estimator_state) == encode(expected)
    assert encode(loop.state.history.total.counts) == encode(expected)
    assert loop.state.history.total.counts.damaged_count.sum() >= 1


def test_the_belief_that_is_shared_is_the_one_kept():
    loop = make_loop(SpyEstimator())
    loop.adopt(
        loop.learn(observe(loop.block(0), 0), share_belief=lambda belief: tuple(array + 100 for array in belief))
    )
    assert loop.state.beliefs[1][0].tolist() == [101.0]
    assert loop.state.estimator_state.tolist() == [1.0]


@given(st.integers(0, 12), st.integers(0, 30))
@FEW
def test_no_more_beliefs_are_kept_than_the_lag_and_one(lag, step_count):
    loop = make_loop(SpyEstimator(), lag=lag, look_ahead=0)
    train(loop, step_count)
    assert sorted(loop.state.beliefs) == list(range(max(0, step_count - lag), step_count + 1))
    assert len(loop.state.beliefs) <= lag + 1


def test_a_reset_forgets_everything_learnt_and_planned():
    loop = make_loop()
    blocks = train(loop, 12, read_ahead=4)
    loop.reset()
    assert store(loop) == store(make_loop())
    assert train(loop, 12) == blocks


def test_a_reset_forgets_the_steps_that_were_planned():
    loop = make_loop()
    block = loop.block(0)
    loop.reset()
    with pytest.raises(PlanError, match="Step 0 planned 0 prior samples"):
        loop.adopt(loop.learn(observe(block, 0)))


def test_shaping_again_touches_nothing_learnt():
    loop = make_loop()
    train(loop, 5)
    before = store(loop)
    loop.shape(make_plan(), 3)
    assert store(loop) == before


def test_vitals_are_measured_under_the_latest_belief():
    loop = make_loop(floor=0.2)
    train(loop, 20)
    (rate,) = loop.state.beliefs[20]
    candidates, weights = weigh_candidates(
        lambda ids: rate[ids % 4], 40, 2, rng=keyed_generator(5, 20, Stream.DRAWS), floor=0.2
    )
    vitals = loop.vitals()
    assert vitals == measure_vitals(loop.state.history, PARTITION, candidates, weights)
    assert 0 < vitals.yield_rate < 1
    assert 1 < vitals.effective_bins < 4


class PickEstimator(CollateralDamageEstimator):
    """Draws the damaged samples nine times as often, and says that it draws by sample."""

    draws_by_bins = False

    def init(self):
        return np.zeros(1)

    def update(self, state, observation):
        return state

    def belief(self, state):
        return (state,)

    def damage_probability(self, belief, sample_ids):
        return np.where(sample_ids % 10 == 0, 0.9, 0.1)


def test_vitals_of_an_estimator_that_draws_by_sample_are_those_of_uniform_draws():
    loop = make_loop(PickEstimator(), plan=make_plan(mix_ratio=0.25))
    assert not loop.estimator.draws_by_bins
    for step in range(400):
        block = loop.block(step)
        sample_ids = np.random.default_rng(step).permutation(block[block >= NEW_COUNT] - NEW_COUNT)
        loop.adopt(loop.learn(Observation(sample_ids, sample_ids % 10 != 0, np.zeros(sample_ids.size))))
    vitals = loop.vitals()
    assert vitals.damage_rate == pytest.approx(0.1, abs=0.04)
    assert vitals.yield_rate > 0.3
    assert vitals.lift == pytest.approx(4, abs=1)


@given(st.integers(0, 60), st.integers(1, 9), st.data())
@FEW
def test_a_restored_loop_goes_on_bit_for_bit_as_if_never_interrupted(stop, lag, data):
    read_ahead, spies = data.draw(st.integers(0, lag)), data.draw(st.booleans())

    def make():
        return make_loop(SpyEstimator() if spies else None, lag=lag, look_ahead=1)

    whole, interrupted, resumed = make(), make(), make()
    blocks = train(whole, stop + 12)
    assert train(interrupted, stop, read_ahead) == blocks[:stop]
    train(resumed, 3)  # what it had learnt is replaced
    resumed.restore(store(interrupted), stop)
    assert resumed.steps_done == stop
    assert train(resumed, 12, read_ahead) == blocks[stop:]
    assert store(resumed) == store(whole)


def test_the_state_holds_what_a_resumed_run_needs_and_nothing_else():
    loop = make_loop()
    train(loop, 10)
    stored = store(loop)
    assert set(stored) == {
        *("format", "identity", "lag", "steps_done", "estimator_state", "beliefs", "history", "probed", "mixture"),
    }
    assert (stored["format"], stored["lag"], stored["steps_done"]) == (8, 8, 10)
    assert list(stored["beliefs"]) == [str(step) for step in range(2, 11)]
    assert stored["identity"] == {
        "block size": 8,
        "mix ratio": 0.3,
        "mix unit": "rows",
        "pack size": None,
        "seed": 5,
        "new sample count": 30,
        "prior sample count": 40,
        "estimator": "CountEstimator(discount=0.9, smoothing='beta')",
        "floor": 0.05,
        "partition": fingerprint(PARTITION),
        "estimator arrays": identify_estimator(loop.estimator)["estimator arrays"],
        "source of the belief": "training",
        "model fingerprint": "m1",
        "data fingerprint": "d1",
    }


@pytest.mark.parametrize(
    ("changes", "name", "before", "now"),
    [
        ({"plan": make_plan(micro_batch_count=3)}, "block size", 8, 12),
        ({"plan": make_plan(mix_ratio=0.25)}, "mix ratio", 0.3, 0.25),
        ({"plan": make_plan(seed=6)}, "seed", 5, 6),
        ({"plan": make_plan(new_count=31)}, "new sample count", 30, 31),
        ({"plan": make_plan(prior_count=39)}, "prior sample count", 40, 39),
        (
            {"estimator": SpyEstimator()},
            "estimator",
            "CountEstimator(discount=0.9, smoothing='beta')",
            "SpyEstimator()",
        ),
        (
            {"estimator": CountEstimator(PARTITION, RIGHT, discount=0.9, smoothing="raw")},
            "estimator",
            "CountEstimator(discount=0.9, smoothing='beta')",
            "CountEstimator(discount=0.9, smoothing='raw')",
        ),
        ({"floor": 0.0}, "floor", 0.05, 0.0),
        (
            {"probe": Probe(8, every=2, use="estimate")},
            "source of the belief",
            "training",
            "Probe(sample_count=8, every=2, use='estimate')",
        ),
        ({"partition": SAME_SIZES}, "partition", fingerprint(PARTITION), fingerprint(SAME_SIZES)),
        ({"sources": {"model": "m1", "data": "d1", "rule": "r1"}}, "rule fingerprint", None, "r1"),
        ({"sources": {"model": "m2", "data": "d1"}}, "model fingerprint", "m1", "m2"),
        ({"sources": {"data": "d1"}}, "model fingerprint", "m1", None),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(changes, name, before, now):
    original = make_loop()
    train(original, 4)
    assert refusal_to_resume(store(original), make_loop(**changes), 4) == (
        f"The checkpoint was written with {name} {before}, but this run has {now}. A resumed run must draw as the "
        "interrupted one would have. Resume with the same setting, or start afresh."
    )


@pytest.mark.parametrize(
    ("options", "asked"), [({"lag": 12}, 12), ({"lag": 4}, 4), ({"look_ahead": 9}, 9), ({"lag": 9, "look_ahead": 9}, 9)]
)
def test_a_checkpoint_with_another_lag_than_this_run_asks_for_is_refused_with_the_numbers(options, asked):
    original = make_loop()
    train(original, 4)
    assert refusal_to_resume(store(original), make_loop(**options), 4) == (
        f"The checkpoint was planned with a lag of 8 steps, but this run asks for {asked}. The lag is fixed at the "
        "first start. Resume with a lag of 8 and no more data-loader workers than it covers."
    )


@pytest.mark.parametrize("options", [{}, {"look_ahead": 12}, {"lag": 20}, {"lag": 20, "look_ahead": 20}])
def test_a_checkpoints_longer_lag_is_taken_over(options):
    original = make_loop(look_ahead=20)
    blocks = train(original, 25)
    resumed = make_loop(**options)
    resumed.restore(store(original), 25)
    assert resumed.lag == 20
    assert train(resumed, 12) == train(original, 12)
    assert len(blocks) == 25


def test_a_checkpoints_lag_outlasts_a_new_loader_but_not_a_reset():
    original, resumed = make_loop(look_ahead=20), make_loop()
    train(original, 4)
    resumed.restore(store(original), 4)
    resumed.shape(make_plan(), 3)
    assert resumed.lag == 20
    resumed.reset()
    assert resumed.lag == 8


def test_another_split_of_the_same_block_may_resume():
    original = make_loop()
    train(original, 4)
    resumed = make_loop(plan=make_plan(micro_batch_size=2, micro_batch_count=4))
    resumed.restore(store(original), 4)
    assert sorted(resumed.block(4)) == sorted(original.block(4))


def test_a_checkpoint_after_other_steps_than_the_trainer_counts_is_refused():
    original = make_loop()
    train(original, 4)
    message = refusal_to_resume(store(original), make_loop(), 5)
    assert message == (
        "The checkpoint's rehearsal state is after 4 steps, but the trainer's after 5. They must agree. Resume from "
        "another checkpoint."
    )


@pytest.mark.parametrize(
    ("options", "steps_done"),
    [({"plan": make_plan(seed=6)}, 4), ({"lag": 12}, 4), ({}, 5)],
    ids=["seed", "lag", "steps"],
)
def test_a_refused_checkpoint_changes_nothing(options, steps_done):
    original, loop = make_loop(), make_loop(**options)
    train(original, 4)
    before = store(loop)
    refusal_to_resume(store(original), loop, steps_done)
    assert store(loop) == before


@pytest.mark.parametrize("version", [2, 5, 99])
def test_a_checkpoint_of_another_format_is_refused(version):
    original = make_loop()
    message = refusal_to_resume({**store(original), "format": version}, make_loop(), 0)
    assert message == (
        f"The checkpoint's rehearsal state has format {version}, but this version of mixcd reads format 8. Resume with "
        "the version of mixcd that wrote it, or start afresh."
    )


def test_a_probe_for_the_audit_may_come_and_go():
    original, resumed = make_loop(probe=Probe(8)), make_loop()
    train(original, 4)
    resumed.restore(store(original), 4)
    assert resumed.steps_done == 4


def probe_all(step):
    ids = np.arange(PRIOR_COUNT)
    return Observation(ids, np.random.default_rng(step).random(PRIOR_COUNT) > 0.1 * (ids % 4), np.zeros(PRIOR_COUNT))


@pytest.mark.parametrize("use", ["audit", "estimate"])
def test_what_a_probe_observes_goes_to_the_audit_and_to_the_estimator_if_it_teaches(use):
    loop, plain = make_loop(probe=Probe(PRIOR_COUNT, 2, use)), make_loop()
    expected = loop.estimator.init()
    for step in range(6):
        probed, seen = probe_all(step) if step % 2 == 0 else None, observe(loop.block(step), step)
        if use == "audit":
            assert plain.block(step).tolist() == loop.block(step).tolist()
            plain.adopt(plain.learn(seen))
        learnt = seen if use == "audit" else probed
        expected = expected if learnt is None else loop.estimator.update(expected, learnt)
        loop.adopt(loop.learn(seen, probed=probed))
    assert encode(loop.state.estimator_state) == encode(expected)
    assert loop.state.probed.step_count == 3
    assert loop.state.probed.total.counts.observed_count.tolist() == [30.0] * 4
    assert loop.state.history.step_count == 6
    restored = make_loop(probe=Probe(PRIOR_COUNT, 2, use))
    restored.restore(store(loop), 6)
    assert store(restored) == store(loop)


class PickyEstimator(SpyEstimator):
    """Knows of samples 3, 5 and 8 only."""

    def candidates(self, belief):
        return np.array([3, 5, 8]) if belief[0][0] else None


def test_only_the_candidates_that_an_estimator_knows_of_are_drawn():
    loop = make_loop(PickyEstimator(), lag=1, look_ahead=0)
    drawn = [[row - NEW_COUNT for row in block if row >= NEW_COUNT] for block in train(loop, 40)]
    assert {row for step in drawn[2:] for row in step} == {3, 5, 8}
    assert {row for step in drawn[:2] for row in step} - {3, 5, 8}
    assert loop.vitals().top_share == pytest.approx(1 / 3)


def test_a_step_that_is_done_is_not_planned_again():
    loop = make_loop()
    train(loop, 3)
    with pytest.raises(PlanError, match="Step 2 was asked for after 3 completed steps"):
        loop.block(2)


def test_a_resume_error_is_a_runtime_error():
    with pytest.raises(RuntimeError, match="is after 0 steps"):
        make_loop().restore(store(make_loop()), 1)
