"""The step learner: what the forward passes of a step showed, and a probe after it, goes into the loop."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mixcd.ideas.probe import Probe, choose_probed
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_predictions import PriorPredictions
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.correctness.reading import judge_by_loss
from mixcd.matter.fine_tuned_model.head_reader import require_true_head
from mixcd.matter.fine_tuned_model.prediction_observer import PredictionObserver
from mixcd.run.rehearsal_loop.rehearsal_health import find_failure_signs
from mixcd.run.rehearsal_loop.rehearsal_loop import Learnt, RehearsalLoop
from mixcd.run.rehearsal_loop.shared_arrays import processes_of
from mixcd.words.errors import PlanError
from mixcd.words.vocabulary import Belief, DamageCounts, Observation

logger = logging.getLogger(__name__)

_STEPS_BETWEEN_CHECKS = 10
_PADDING = -2
"""The id of rows that only fill up what a process gathers."""


@dataclass(eq=False)
class StepLearner:
    """Learns from each step what it showed, on all processes alike, and warns when rehearsal goes wrong.

    Args:
        infer_prior: Returns how the model, as it is now, predicts the prior data.
        accelerator: An `accelerate.Accelerator`; None for a single process.
        missing: The message when rows are missing, with `{planned}` and `{seen}` for how many.
    """

    loop: RehearsalLoop
    rule: CorrectnessRule
    predictions: PriorPredictions
    probe: Probe | None
    infer_prior: Callable[[], Inference]
    accelerator: Any
    missing: str

    def __post_init__(self) -> None:
        self.log: list[dict[str, float]] = []
        """The vitals of every tenth step, on the first process."""
        self.last_seen: tuple[int, torch.Tensor, DamageCounts] | None = None
        """The last completed step: its number from 1, the rows it trained on, its counts; None before the first."""
        self._base_loss = None if self.rule.loss_tolerance is None else self.predictions.base_loss
        self._compare = self.predictions.compare_tokens if self.rule.is_graded else None
        self.reset()

    def reset(self) -> None:
        """Forget what training showed so far; the loop is left as it is."""
        self.observer = PredictionObserver(self.rule, self.loop.estimator.reads_logits, self._compare)
        self.probe_forward_count = 0
        self._is_head_checked = False
        self._warned: set[str] = set()

    def learn(self, share_belief: Callable[[Belief], Belief]) -> tuple[Learnt, torch.Tensor]:
        """Learn from what was observed in the step in progress.

        Args:
            share_belief: Makes all processes hold the first one's belief.

        Returns:
            What was learnt, for `adopt`, and the rows that were observed.

        Raises:
            PlanError: If other rows were observed than were planned.
        """
        taken = self.observer.take()
        self._check_head()
        rows, planned = self._gather(taken), self.loop.observed_count
        if len(rows) != planned:
            raise PlanError(self.missing.format(planned=planned, seen=len(rows)))
        probed = self._observe_probe()
        seen = judge_by_loss(self.rule, self.observer.read_rehearsed(rows), self._base_loss)
        return self.loop.learn(seen, share_belief, probed), rows

    def adopt(self, learnt: Learnt, rows: torch.Tensor) -> DamageCounts:
        """Complete the step.

        Returns:
            The step's own counts, shape (bins,).
        """
        counts = self.loop.adopt(learnt)
        self.last_seen = self.loop.steps_done, rows, counts
        if self.loop.steps_done % _STEPS_BETWEEN_CHECKS == 0 and processes_of(self.accelerator).rank == 0:
            self._check()
        return counts

    def _gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Gather what all processes saw; as packed rows hold varying numbers of samples, padded on the way."""
        if processes_of(self.accelerator).count == 1:
            return rows
        rows = rows.to(self.accelerator.device)
        if self.loop.packed is None:
            return self.accelerator.gather(rows)  # type: ignore[no-any-return]
        gathered: torch.Tensor = self.accelerator.gather(
            self.accelerator.pad_across_processes(rows, dim=0, pad_index=_PADDING)
        )
        return gathered[gathered[:, 0] != _PADDING]

    def _observe_probe(self) -> Observation | None:
        """Predict the probe's samples with the model as it is now, in the steps in which it is due."""
        plan = self.loop.plan
        ids = choose_probed(self.probe, plan.prior_count, plan.seed, self.loop.steps_done) if self.probe else None
        if ids is None:
            return None
        observation, forward_count = self.infer_prior().observe(ids, self._compare, self.loop.estimator.reads_logits)
        self.probe_forward_count += forward_count
        return judge_by_loss(self.rule, observation, self._base_loss)

    def _check_head(self) -> None:
        """Before anything is learnt from the input of the model's head, check how it was read."""
        if self.observer.reads_head and not self._is_head_checked:
            require_true_head(self.infer_prior())
            self._is_head_checked = True

    def _check(self) -> None:
        """Keep the vitals, and warn of each failure sign once."""
        loop, vitals = self.loop, self.loop.vitals()
        self.log.append({"step": loop.steps_done, **vitals.to_log()})
        signs = find_failure_signs(loop.state.history, vitals, loop.partition.bin_sizes, loop.estimator.draws_by_bins)
        for sign in signs.keys() - self._warned:
            logger.warning("step %d: %s", loop.steps_done, signs[sign])
        self._warned |= signs.keys()
