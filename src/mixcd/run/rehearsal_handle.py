"""The handle of a rehearsal, whoever trains: what is known of it, and what it kept and lost."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixcd.matter.base_model.inference import Infer
from mixcd.matter.base_model.prior_predictions import PriorPredictions
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.model_shape.model_kind import is_multiple_choice
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.evaluation import Evaluation
from mixcd.run.outcome.held_out import HeldOut, evaluate_held_out
from mixcd.run.outcome.step_record import StepRecord, summarise_step
from mixcd.run.rehearsal_loop.audit import Audit, compare_rates
from mixcd.run.rehearsal_loop.rehearsal_health import Vitals
from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop
from mixcd.run.rehearsal_loop.step_learner import StepLearner
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import DamageCounts, Partition, PartitionStrategy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """What is there when a rehearsal begins.

    Args:
        infer: Returns how the model, as it is now, predicts some data.
        held_out: The held-out data and the base model's predictions on them, by task.
    """

    strategy: PartitionStrategy
    prior: PriorDataset
    rule: CorrectnessRule
    infer: Infer
    predictions: PriorPredictions
    held_out: Mapping[str, HeldOut]
    loop: RehearsalLoop


class RehearsalHandle(ABC):
    """What `attach` and `rehearse` return has all of this.

    Args:
        opener: "attach" or "rehearse", for messages.
    """

    def __init__(self, opened: Opened, learner: StepLearner, opener: str) -> None:
        self.predictions = opened.predictions
        """The base model's predictions on the prior data."""
        self._opened = opened
        self._loop = opened.loop
        self._learner = learner
        self._opener = opener
        plan = opened.loop.plan
        before = math.ceil(plan.new_count / plan.block_size)
        counted = "steps for the same rows of the stream" if plan.in_order else "steps per epoch"
        logger.info("%s %d → %d, at the same batch size", counted, before, opened.loop.steps_per_epoch)

    @property
    def partition(self) -> Partition:
        """The bins that damage is counted in."""
        return self._loop.partition

    @property
    def counts(self) -> DamageCounts:
        """Observed and damaged counts of each bin over all steps, shape (bins,)."""
        return self._loop.state.history.total.counts

    @property
    def forward_count(self) -> int:
        """Forward passes of the model in training since the last start: one a micro-batch."""
        return self._learner.observer.forward_count

    @property
    def probe_forward_count(self) -> int:
        """Forward passes that the probe made since the last start."""
        return self._learner.probe_forward_count

    @property
    def last_step(self) -> StepRecord | None:
        """What the last completed training step showed; None before the first."""
        if self._learner.last_seen is None:
            return None
        steps_done, rows, counts = self._learner.last_seen
        return summarise_step(steps_done, self._learner.observer.read(rows), counts)

    def vitals(self) -> Vitals:
        """Measure how rehearsal is doing: damage rate, yield, lift, and how uneven the draws are."""
        return self._loop.vitals()

    def audit(self) -> Audit:
        """Compare the free damage rates of the bins with the probe's, which are unbiased.

        Raises:
            SettingError: If no probe was given.
        """
        if self._learner.probe is None:
            raise SettingError(
                f"`audit()` compares the free damage rates with those of extra inference, but `{self._opener}` was "
                "given no probe. Pass `probe=mixcd.Probe(64)`."
            )
        return compare_rates(self._loop.state.history, self._loop.state.probed, self.partition.bin_sizes)

    def evaluate(self, *, columns: Sequence[str] = (), generate: bool = False) -> Evaluation:
        """Compare the model as it is now with the base model, on held-out data.

        Two forward passes over the held-out data in all: the base model's before training, and this one. In language
        models one more shows what the model now says where the worst samples are damaged, at most 1,000.

        Args:
            columns: Columns of the held-out prior data by which damage is told apart, too; `prior_set` for several
                sets.
            generate: Whether a language model also answers samples by itself, greedily: exact match, length and loops.
                The base model must have done so before training: say `generate=100` when rehearsal begins.

        Returns:
            Scores before and after on the held-out prior data and, where there are any, on the new task's, with flips,
            intervals and tests; and the damaged prior samples.

        Raises:
            SettingError: If no prior data were held out, or the base model wrote nothing.
            DataError: If a column is not there, or holds lists.
            UnsupportedTrainerError: If the model now computes with other settings than the base model did.
        """
        if not self._opened.held_out:
            raise SettingError(
                f"`evaluate()` needs held-out prior data, but `{self._opener}` was given none. Damage must be measured "
                f"on samples that are never rehearsed. Pass `held_out=` to `{self._opener}`."
            )
        if generate and not self._has_texts():
            raise SettingError(
                "`evaluate(generate=True)` compares what the model writes with what the base model wrote, but that "
                f"wrote nothing, and cannot any more once it is trained. Pass `generate=100`, say, to `{self._opener}`."
            )
        opened = self._opened
        return evaluate_held_out(opened.infer, opened.held_out, opened.strategy, columns=columns, generate=generate)

    @property
    def mix_unit(self) -> str:
        """What the mix ratio is a share of: "rows" or "tokens"."""
        return "rows" if self._loop.plan.by_rows else "tokens"

    def _tell_right(self) -> dict[str, str]:
        """Say how much of the prior data the base model had right: by token where damage is counted so."""
        bits = self.predictions.right_tokens
        if bits is not None and self._opened.rule.is_graded:
            return {"share of their target tokens right before": f"{bits.right_count.sum() / bits.counts.sum():.3f}"}
        return {"share of them that the base model had right": f"{self.predictions.base_correct.mean():.3f}"}

    def _has_texts(self) -> bool:
        return any(one.texts for one in self._opened.held_out.values())

    def report(self, path: str | Path, *, columns: Sequence[str] = (), overwrite: bool = False) -> None:
        """Write what rehearsal kept and lost as one HTML file that needs no network.

        With held-out data this evaluates the model, as `evaluate` does, and lets it write where `generate` was given.
        How damage went while it trained has a point for each of a trainer's `logging_steps`, and for every tenth step
        of a loop of one's own since it was started or resumed. With several processes every one must call it; the first
        one writes.

        Args:
            columns: Columns of the held-out prior data by which damage is shown, too.

        Raises:
            SettingError: If there is a file and it may not be replaced, or no folder to write to.
            DataError: If a column is not there, or holds lists.
        """
        from mixcd.run.report.page import write_page
        from mixcd.run.report.run_findings import collect_findings
        from mixcd.run.report.run_page import make_run_page
        from mixcd.words.files import require_free

        require_free([path], "a report", overwrite=overwrite)
        evaluation = self.evaluate(columns=columns, generate=self._has_texts()) if self._opened.held_out else None
        now = self._opened.infer(self._opened.prior)
        config = None if is_multiple_choice(now.model) else getattr(now.model, "config", None)
        plan = self._loop.plan
        facts = {
            "prior samples": len(self.predictions.base_correct),
            **self._tell_right(),
            "mix ratio": plan.mix_ratio,
            "mix ratio counts": self.mix_unit,
            "steps": self._loop.steps_done,
            "rows a step": plan.block_size,
            "forward passes in training": self.forward_count,
            "seed": plan.seed,
        }
        noise = {f"held-out {task}": one.before for task, one in self._opened.held_out.items()}
        facts |= {
            f"share of the right ones that is wrong when read again, {name}": f"{one.false_damage_rate:.3f}"
            for name, one in {"prior data": self.predictions, **noise}.items()
            if one.false_damage_rate is not None
        }
        found = collect_findings(evaluation, self._log(), getattr(config, "id2label", None) or {}, facts)
        if now.processes.rank == 0:
            write_page(make_run_page(found), path, overwrite=overwrite)

    @abstractmethod
    def _log(self) -> Sequence[Mapping[str, Any]]:
        """The vitals of some steps, in their order, by the names of `Vitals.to_log`."""
