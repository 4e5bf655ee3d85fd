"""`attach`: one line that makes a trainer rehearse the prior samples it is losing."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer

from mixcd.ideas.batch_plan import require_mix_ratio
from mixcd.ideas.probe import Probe
from mixcd.matter.base_model.prior_predictions import LEAST_SHARE_RIGHT, PriorPredictions
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.model_shape.model_kind import is_multiple_choice
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.matter.prior_and_new_data.split_choice import choose_rehearsed
from mixcd.run.outcome.evaluation import Evaluation
from mixcd.run.outcome.step_record import StepRecord
from mixcd.run.rehearsal_loop.audit import Audit, compare_rates
from mixcd.run.rehearsal_loop.estimator_choice import Estimator
from mixcd.run.rehearsal_loop.opening import Wishes
from mixcd.run.rehearsal_loop.rehearsal_health import Vitals
from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop
from mixcd.run.trainer.held_out import HeldOut, collect_held_out, evaluate_held_out, predict_held_out
from mixcd.run.trainer.same_as_training import require_same_predictions
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.run.trainer.trainer_predictions import inference_of
from mixcd.run.trainer.trainer_seam import TrainerSeam
from mixcd.run.trainer.trainer_support import (
    require_alike,
    require_supported,
    warn_if_untested,
    warn_of_embedding_noise,
    warn_of_generation,
)
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import DamageCounts, Partition, PartitionStrategy

logger = logging.getLogger(__name__)


def attach(
    trainer: Trainer,
    prior_data: Any,
    *,
    mix_ratio: float,
    partition: PartitionStrategy | None = None,
    estimator: Estimator = "auto",
    correctness: CorrectnessRule | None = None,
    held_out: Any = None,
    cache_dir: str | Path | None = None,
    cache_columns: Sequence[str] = (),
    features: int | None = None,
    floor: float | None = None,
    probe: Probe | None = None,
    lag: int | None = None,
    seed: int | None = None,
) -> "Rehearsal":
    """Make a trainer rehearse prior samples, most of all those that it is losing.

    Call it after building the trainer and before `train()`, while `trainer.model` still is the base model.
    The model runs once over the prior data (the prior pass), or its predictions are read from the cache.
    From then on `trainer.train()` mixes prior samples into every batch: the batch size stays, so an epoch
    over the new data takes 1 / (1 − mix_ratio) times the steps. No extra forward pass is made in training.
    Only this trainer instance changes, until `detach()`.

    Paper: mix-cd, the whole of it; see `docs/paper-map.md`.

    Args:
        trainer: A `transformers.Trainer`, or a subclass of it, for classification of texts, pairs or images, with one
            label or several; extractive question answering; sequence to sequence; a causal language model; regression.
            Multiple choice; with a rule that is named, token classification. Or TRL's `SFTTrainer`.
        prior_data: The prior task's samples, prepared like `trainer.train_dataset`: a `datasets.Dataset`, a
            map-style dataset, or a dict of them, whose keys become the column `prior_set`. With `SFTTrainer` they may
            be raw: the trainer prepares them as it does its own. Of a `DatasetDict` with a split for training, splits
            for evaluation are left out, with a warning; pass `dict(prior_data)` to rehearse them, too.
        mix_ratio: β, the share of prior samples in every batch, inside (0, 1).
        partition: How the prior data are cut into bins; `ByPriorLoss(10)` by default, in which damage is then
            counted, whoever draws.
        estimator: "auto" for what measured best: "drift" in single-label classification; "counts" for other tasks, or
            when a partition is named, the model has no linear head or the cache no features; "factored" when the
            partition is a combined one. "drift" forecasts every sample's damage from cached features and logits
            (`DriftEstimator`); "counts" draws by smoothed counts a bin; "shrunk" pulls the rates of thin bins to the
            overall rate; "factored" keeps one table a part of a combined partition; "paper" is the paper's raw u / n
            without a floor; "uniform" is plain rehearsal. Or a function from (partition, predictions) to an estimator.
        correctness: When a prediction is right. By default what the model and its labels are made for: `RightClass`,
            `RightLabels` (several labels), `RightSpan` (answers in a text) or `RightTokens` (language models: every
            target token, which is rare in usual texts: `RightTokens(0.7)` asks for that share of them, and
            `RightTokens(loss_tolerance=0.1)` for no more than that much loss above the base model's). A regression
            needs `NearTarget(tolerance)`, token classification `RightTokens(is_shifted=False)`.
        held_out: Prior samples that are never rehearsed, for `evaluate()`. Of a `DatasetDict` with splits for
            evaluation, those for training are left out, with a warning.
        cache_dir: The prediction cache; `_mixcd_cache` in the trainer's `output_dir` by default.
        cache_columns: Columns of the prior data to store in a new cache besides those of the partition.
        features: Features a sample to cache with the base model's logits; 64 by default when the estimator or
            the partition reads features, else none.
        floor: ε in [0, 1], the share of the draws that ignores the belief; 0.05 by default, 0 for "paper".
        probe: Extra inference on uniformly drawn prior samples while training, for `audit()` or in the place of
            the free observations; none by default.
        lag: How many steps old the belief is that a step is planned with; the larger of 8 and the data
            loader's look-ahead by default.
        seed: The seed of the draws; the trainer's `data_seed` or `seed` by default.

    Returns:
        The handle: `evaluate()`, `vitals()`, `detach()` and what is known of the prior data.

    Raises:
        SettingError: If the mix ratio, the lag, the seed, the floor, the features or the estimator make no sense.
        DataError: If the prior or new data are empty, not map-style, lack labels or columns, have other
            model inputs than each other, or labels outside the model's classes.
        CacheError: If the cache was made from something else, or was altered.
        AlreadyAttachedError: If the trainer already rehearses.
        UnsupportedTrainerError: If the trainer does something that rehearsal cannot follow, or the model fits no task
            that is known.
    """
    require_mix_ratio(mix_ratio)
    wishes = Wishes(partition, estimator, floor, features, cache_columns, probe, lag)
    require_supported(trainer)
    warn_if_untested(trainer)
    warn_of_embedding_noise(trainer)
    prior = PriorDataset(prepare_raw(trainer, choose_rehearsed(prior_data, "prior_data"), "prior_data"))
    rule = require_alike(trainer, prior, correctness)
    warn_of_generation(trainer, rule)
    args = trainer.args
    folder = Path(cache_dir) if cache_dir is not None else Path(str(args.output_dir)) / "_mixcd_cache"
    opening = wishes.open(inference_of(trainer, prior, rule), folder)
    chosen_seed = seed if seed is not None else args.data_seed if args.data_seed is not None else args.seed
    seam = TrainerSeam(trainer, prior, rule, mix_ratio=mix_ratio, seed=chosen_seed, lag=lag, probe=probe)
    held_out_data = {} if held_out is None else collect_held_out(trainer, held_out, opening.strategy.column_names)
    predictions = opening.predict(LEAST_SHARE_RIGHT)
    require_same_predictions(trainer, prior, predictions, rule)
    held_out_predictions = predict_held_out(trainer, held_out_data, folder, rule)
    loop = opening.make_loop(predictions)
    seam.install(loop, None if rule.loss_tolerance is None else predictions.base_loss)
    _log_epoch(loop)
    return Rehearsal(trainer, seam, loop, opening.strategy, rule, predictions, held_out_predictions)


class Rehearsal:
    """A trainer's rehearsal: what `attach` returns. Build it with `attach` only.

    Args:
        trainer: The trainer that rehearses.
        seam: The seam that feeds it.
        loop: Plans its steps and learns from them.
        strategy: The partition strategy.
        rule: Says which predictions are right.
        predictions: The base model's predictions on the prior data.
        held_out: The held-out data and the base model's predictions on them, by task.
    """

    def __init__(
        self,
        trainer: Trainer,
        seam: TrainerSeam,
        loop: RehearsalLoop,
        strategy: PartitionStrategy,
        rule: CorrectnessRule,
        predictions: PriorPredictions,
        held_out: Mapping[str, HeldOut],
    ) -> None:
        self.predictions = predictions
        """The base model's predictions on the prior data."""
        self._trainer = trainer
        self._seam = seam
        self._loop = loop
        self._strategy = strategy
        self._rule = rule
        self._held_out = held_out

    @property
    def partition(self) -> Partition:
        """The bins that the prior samples are drawn by."""
        return self._loop.partition

    @property
    def counts(self) -> DamageCounts:
        """Observed and damaged counts of each bin over all steps, shape (bins,)."""
        return self._loop.state.history.total.counts

    @property
    def forward_count(self) -> int:
        """Forward passes of the model in training since the last start: one a micro-batch."""
        return self._seam.observer.forward_count

    @property
    def batch_sample_ids(self) -> torch.Tensor:
        """The batch in training, for losses of one's own: prior sample ids, −1 for new rows; shape (rows,)."""
        return self._seam.batch_sample_ids

    @property
    def probe_forward_count(self) -> int:
        """Forward passes that the probe made since the last start."""
        return self._seam.probe_forward_count

    def audit(self) -> Audit:
        """Compare the free damage rates of the bins with the probe's, which are unbiased.

        Raises:
            SettingError: If `attach` was given no probe.
        """
        if self._seam.probe is None:
            raise SettingError(
                "`audit()` compares the free damage rates with those of extra inference, but `attach` was given no "
                "probe. Pass `probe=mixcd.Probe(64)`."
            )
        return compare_rates(self._loop.state.history, self._loop.state.probed, self.partition.bin_sizes)

    def vitals(self) -> Vitals:
        """Measure how rehearsal is doing: damage rate, yield, lift, and how uneven the draws are."""
        return self._loop.vitals()

    @property
    def last_step(self) -> StepRecord | None:
        """What the last completed training step showed; None before the first."""
        return self._seam.last_step

    def stop(self) -> None:
        """Ask the trainer to save a checkpoint and stop after the step in progress, as from a signal handler.

        With several processes the first one decides for all, so that none waits for another in vain.
        """
        self._seam.ask_to_stop()

    def detach(self) -> None:
        """Give the trainer its own data loader and training step back; what was learnt stays readable."""
        self._seam.detach()

    def report(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write what rehearsal kept and lost as one HTML file that needs no network.

        With held-out data this evaluates the model, in one forward pass over them. How damage went while it trained
        comes from the trainer's log, so it has a point for each of its `logging_steps`. With several processes every
        one must call it; the first one writes.

        Args:
            path: The file.
            overwrite: Whether a file that is there may be replaced.

        Raises:
            SettingError: If there is a file and it may not be replaced, or no folder to write to.
        """
        from mixcd.run.report.page import write_page
        from mixcd.run.report.run_findings import collect_findings
        from mixcd.run.report.run_page import make_run_page
        from mixcd.words.files import require_free

        require_free([path], "a report", overwrite=overwrite)
        evaluation = self.evaluate() if "prior" in self._held_out else None
        trainer = self._trainer
        model = cast(torch.nn.Module, trainer.model)
        config = None if is_multiple_choice(model) else getattr(model, "config", None)
        names = getattr(config, "id2label", None) or {}
        facts = {
            "prior samples": len(self.predictions.base_correct),
            "share of them that the base model had right": f"{self.predictions.base_correct.mean():.3f}",
            "mix ratio": self._loop.plan.mix_ratio,
            "steps": trainer.state.global_step,
            "rows a step": self._loop.plan.block_size,
            "forward passes in training": self.forward_count,
            "seed": trainer.args.seed,
        }
        noise = {
            "prior data": self.predictions,
            **{f"held-out {task}": one.before for task, one in self._held_out.items()},
        }
        facts |= {
            f"share of the right ones that is wrong when read again, {name}": f"{one.false_damage_rate:.3f}"
            for name, one in noise.items()
            if one.false_damage_rate is not None
        }
        found = collect_findings(evaluation, trainer.state.log_history, names, facts)
        if trainer.is_world_process_zero():
            write_page(make_run_page(found), path, overwrite=overwrite)

    def evaluate(self) -> Evaluation:
        """Compare the model as it is now with the base model, on held-out data.

        Two forward passes over the held-out data in all: the base model's at `attach`, and this one.

        Returns:
            Scores before and after on the held-out prior data and on `trainer.eval_dataset` (when that is
            one dataset), with flips, intervals and tests; and the damaged prior samples.

        Raises:
            SettingError: If `attach` was given no `held_out` data.
        """
        if "prior" not in self._held_out:
            raise SettingError(
                "`evaluate()` needs held-out prior data, but `attach` was given none. Damage must be measured on "
                "samples that are never rehearsed. Pass `held_out=` to `attach`."
            )
        return evaluate_held_out(self._trainer, self._held_out, self._strategy, self._rule)


def _log_epoch(loop: RehearsalLoop) -> None:
    before = math.ceil(loop.plan.new_count / loop.plan.block_size)
    logger.info("steps per epoch %d → %d, at the same batch size", before, loop.plan.steps_per_epoch)
