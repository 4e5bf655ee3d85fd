"""The rehearsal loop: belief → plan → observation → belief, with a fixed lag and an exact resume."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.ideas.lift import sum_draws
from mixcd.ideas.packing import Mixture
from mixcd.ideas.probe import Probe
from mixcd.ideas.sampling_scheduler import FLOOR, Draw, draw, line_up, weigh_candidates
from mixcd.run.rehearsal_loop.loop_state import (
    LoopState,
    identify_estimator,
    read_state,
    require_resumable,
    write_state,
)
from mixcd.run.rehearsal_loop.packed_plan import PackedPlan
from mixcd.run.rehearsal_loop.rehearsal_health import Seen, Vitals, add_step, empty_history, measure_vitals
from mixcd.words.errors import PlanError, SettingError
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import (
    UNCACHED_BIN,
    Belief,
    CollateralDamageEstimator,
    DamageCounts,
    Flags,
    Floats,
    Ids,
    Observation,
    Partition,
    count_damage,
    grade_damage,
)

LEAST_LAG = 8
"""The default lag, in steps, unless the data loader reads further ahead."""


@dataclass(frozen=True)
class _Planned:
    """A step that was planned.

    Args:
        block: Its rows, as `RehearsalLoop.block` returns them.
        mixture: What all steps up to this one hold, where that is counted.
        observed_count: The samples that it is observed with, new ones, too.
    """

    draw: Draw
    block: NDArray[Any]
    mixture: Mixture
    observed_count: int


@dataclass(frozen=True)
class Learnt:
    """What a step taught, before it is complete.

    Args:
        counts: The step's own counts, shape (bins,).
    """

    state: LoopState
    counts: DamageCounts


def choose_lag(wanted: int | None, look_ahead: int) -> int:
    """Choose how many steps old the belief is that a step is planned with.

    Args:
        look_ahead: How many steps the data loader reads ahead.

    Returns:
        The lag asked for; by default the larger of 8 and the look-ahead.

    Raises:
        SettingError: If the lag asked for is shorter than the look-ahead.

    Example:
        >>> choose_lag(None, look_ahead=1), choose_lag(None, look_ahead=13), choose_lag(2, look_ahead=1)
        (8, 13, 2)
    """
    lag = max(LEAST_LAG, look_ahead) if wanted is None else wanted
    if lag < look_ahead:
        raise SettingError(
            f"`lag` is {lag}, but the data loader reads {look_ahead} steps ahead, so a step must be planned from a "
            f"belief at least that old. Pass a lag of {look_ahead} or more, or use fewer workers."
        )
    return lag


class RehearsalLoop:
    """Plans every step from the belief of `lag` steps before, and learns from what the step observed.

    The block of step t is a function of (seed, t, belief after max(0, t − lag) completed steps), so draws
    are the same for every number of data-loader workers that the lag covers, and across an interruption.

    Args:
        partition: The bins in which damage is counted for the metrics.
        base_correct: Whether the base model got each prior sample right, shape (samples,).
        sources: What the base predictions were made from; a checkpoint with other sources is refused.
        floor: ε of the sampling scheduler.
        probe: Extra inference, or None; the estimator learns from it instead of the free observations if it says so.
        lag: L in steps; None for the larger of 8 and the loader's look-ahead.
    """

    def __init__(
        self,
        estimator: CollateralDamageEstimator[Any],
        partition: Partition,
        base_correct: Flags,
        *,
        sources: Mapping[str, str],
        floor: float = FLOOR,
        probe: Probe | None = None,
        lag: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.partition = partition
        self.floor = floor
        self._base_correct = base_correct
        self._teacher = probe if probe is not None and probe.use == "estimate" else None
        self.sources = dict(sources)
        self._wanted_lag = lag
        self.look_ahead = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything learnt: the state before the first step."""
        self.lag = choose_lag(self._wanted_lag, self.look_ahead)
        state = self.estimator.init()
        history = empty_history(self.partition.bin_count)
        self.state = LoopState(0, state, {0: self.estimator.belief(state)}, history, history, Mixture())
        self._planned: dict[int, _Planned] = {}

    def shape(self, plan: BatchPlan, look_ahead: int, packed: PackedPlan | None = None) -> None:
        """Fix the shape of the steps; nothing learnt is touched.

        Args:
            look_ahead: How many steps the data loader reads ahead.
            packed: Fills the blocks of the plan, where rows are packed or the mix ratio counts tokens.

        Raises:
            SettingError: If the lag is shorter than that.
        """
        lag = choose_lag(self._wanted_lag, look_ahead)
        self.plan, self.look_ahead, self.packed = plan, look_ahead, packed
        if self.steps_done == 0:
            self.lag = lag

    @property
    def steps_done(self) -> int:
        """Completed optimizer steps."""
        return self.state.steps_done

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every new row has been seen; about, where the mix ratio counts tokens."""
        return (self.packed or self.plan).steps_per_epoch

    @property
    def observed_count(self) -> int:
        """The samples that the step in progress is observed with: as many as rows, where these are not packed."""
        planned = self._planned.get(self.steps_done)
        return planned.observed_count if planned else self.plan.block_size

    def block(self, step: int) -> NDArray[Any]:
        """Plan one step.

        Args:
            step: The optimizer step, from 0.

        Returns:
            The row numbers of the step's block, as `BatchPlan.block` orders them; where prior samples are packed, a
            tuple of them for each pack.

        Raises:
            PlanError: If the step is done, or lies further ahead than the lag allows.
        """
        basis = max(0, step - self.lag)
        if step < self.steps_done or basis not in self.state.beliefs:
            raise PlanError(
                f"Step {step} was asked for after {self.steps_done} completed steps, but with a lag of {self.lag} "
                "steps it needs a belief that is not there. The training loader only yields batches as training "
                "completes steps. Do not run through it outside `train()`."
            )
        belief = self.state.beliefs[basis]
        planned = self._plan_rows(step, belief) if self.packed is None else self._pack(self.packed, step, belief)
        self._planned[step] = planned
        return planned.block

    def _plan_rows(self, step: int, belief: Belief) -> _Planned:
        drawn = draw(
            partial(self.estimator.damage_probability, belief),
            self.plan.prior_count,
            self.plan.prior_row_count(step),
            seed=self.plan.seed,
            step=step,
            floor=self.floor,
            candidates=self.estimator.candidates(belief),
        )
        return _Planned(drawn, self.plan.block(step, drawn.sample_ids), self.state.mixture, self.plan.block_size)

    def _pack(self, packed: PackedPlan, step: int, belief: Belief) -> _Planned:
        """Plan a step that takes as many samples as it has room for; it follows on what those before it hold."""
        arrivals = line_up(
            partial(self.estimator.damage_probability, belief),
            self.plan.prior_count,
            packed.pace.draws_a_step,
            seed=self.plan.seed,
            step=step,
            floor=self.floor,
            candidates=self.estimator.candidates(belief),
        )
        filled, block, observed_count = packed.fill(step, self._mixture_before(step), arrivals)
        return _Planned(arrivals.first(filled.drawn_count), block, filled.mixture, observed_count)

    def _mixture_before(self, step: int) -> Mixture:
        if step == self.steps_done:
            return self.state.mixture
        if step - 1 not in self._planned:
            self.block(step - 1)
        return self._planned[step - 1].mixture

    def adopt(self, learnt: Learnt) -> DamageCounts:
        """Complete the step that something was learnt from.

        Returns:
            The step's own counts, shape (bins,).
        """
        self._planned.pop(self.steps_done, None)
        self.state = learnt.state
        return learnt.counts

    def learn(
        self,
        observation: Observation,
        share_belief: Callable[[Belief], Belief] = lambda belief: belief,
        probed: Observation | None = None,
    ) -> Learnt:
        """Learn from the step in progress; it is complete, and anything changes, only when that is adopted.

        Args:
            observation: The rehearsed samples of the step, in any order.
            share_belief: Makes all processes hold the same belief.
            probed: What a probe observed after the step; None when there was no probe in it.

        Raises:
            PlanError: If other samples were observed than were planned.
        """
        planned = self._planned.get(self.steps_done)
        if planned is None or sorted(planned.draw.sample_ids.tolist()) != sorted(observation.sample_ids.tolist()):
            planned_count = planned.draw.sample_ids.size if planned else 0
            raise PlanError(
                f"Step {self.steps_done} planned {planned_count} prior samples and observed "
                f"{observation.sample_ids.size}, or others. Every planned row must reach the model once. Check that "
                "nothing between the data loader and the model drops, repeats or replaces rows."
            )
        done = self.steps_done + 1
        estimator_state, learnt = self.state.estimator_state, probed if self._teacher else observation
        if learnt is not None:
            estimator_state = self.estimator.update(estimator_state, learnt)
        belief = share_belief(self.estimator.belief(estimator_state))
        beliefs = {step: kept for step, kept in self.state.beliefs.items() if step >= done - self.lag}
        seen = self._see(observation, _in_order_of(observation.sample_ids, planned.draw))
        history = add_step(self.state.history, seen, self.partition.bin_sizes)
        probed_history = self.state.probed
        if probed is not None:
            by_probe = self._see(probed, np.ones(probed.sample_ids.size))
            probed_history = add_step(probed_history, by_probe, self.partition.bin_sizes)
        state = LoopState(done, estimator_state, {**beliefs, done: belief}, history, probed_history, planned.mixture)
        return Learnt(state, seen.counts)

    def vitals(self) -> Vitals:
        """Measure how rehearsal is doing under the latest belief."""
        belief = self.state.beliefs[self.steps_done]
        candidates, weights = weigh_candidates(
            partial(self.estimator.damage_probability, belief),
            self.plan.prior_count,
            self.packed.pace.draws_a_step if self.packed else self.plan.prior_row_count(self.steps_done),
            rng=keyed_generator(self.plan.seed, self.steps_done, Stream.DRAWS),
            floor=self.floor,
            candidates=self.estimator.candidates(belief),
        )
        return measure_vitals(self.state.history, self.partition, candidates, weights, self.estimator.draws_by_bins)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values; arrays as base64 of little-endian float64."""
        return write_state(self.state, self.estimator, self.lag, self._identity())

    def restore(self, stored: Mapping[str, Any], steps_done: int) -> None:
        """Take over the state of a checkpoint.

        Args:
            steps_done: The completed steps that the trainer counts.

        Raises:
            ResumeError: If the checkpoint belongs to a run of another shape, or its lag is too short for
                this data loader.
        """
        require_resumable(stored, self._identity(), steps_done, self._wanted_lag, self.look_ahead)
        self.reset()
        self.lag = int(stored["lag"])
        self.state = read_state(stored, self.estimator, like=self.state)

    def _see(self, observation: Observation, chances: Floats) -> Seen:
        ids = observation.sample_ids
        counts = count_damage(self.partition, self._base_correct, observation)
        damage = grade_damage(self._base_correct, observation)
        cached = self.partition.bin_ids[ids] != UNCACHED_BIN
        return Seen(counts, sum_draws(damage[cached], chances[cached]), self.partition.sum(ids, damage**2))

    @cached_property
    def _fixed_identity(self) -> dict[str, str]:
        bins = np.ascontiguousarray(self.partition.bin_ids)
        return {**identify_estimator(self.estimator), "partition": hashlib.sha256(bins.data).hexdigest()[:16]}

    def _identity(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "block size": plan.block_size,
            "mix ratio": plan.mix_ratio,
            "mix unit": "rows" if plan.by_rows else "tokens",
            "pack size": self.packed and self.packed.packing.capacity,
            "seed": plan.seed,
            "new sample count": "that of a stream" if plan.in_order else plan.new_count,
            "prior sample count": plan.prior_count,
            "estimator": self._fixed_identity["estimator"],
            "floor": self.floor,
            "partition": self._fixed_identity["partition"],
            **self._fixed_identity,
            "source of the belief": str(self._teacher or "training"),
            **{f"{name} fingerprint": value for name, value in self.sources.items()},
        }


def _in_order_of(sample_ids: Ids, drawn: Draw) -> Floats:
    """Return the chances of the samples drawn, in the order in which they were observed."""
    chances = dict(zip(drawn.sample_ids.tolist(), drawn.chances.tolist(), strict=True))
    return np.array([chances[sample_id] for sample_id in sample_ids.tolist()])
