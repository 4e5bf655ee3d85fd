"""`attach`: one line that makes a trainer rehearse the prior samples it is losing."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from mixcd.ideas.batch_plan import require_mix_ratio
from mixcd.ideas.probe import Probe
from mixcd.matter.base_model.prior_predictions import LEAST_SHARE_RIGHT
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.fine_tuned_model.head_reader import require_true_head
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.matter.prior_and_new_data.split_choice import choose_rehearsed
from mixcd.run.outcome.generation import require_generation
from mixcd.run.outcome.held_out import predict_held_out, warn_of_rehearsed
from mixcd.run.rehearsal_handle import Opened, RehearsalHandle
from mixcd.run.rehearsal_loop.estimator_choice import Estimator
from mixcd.run.rehearsal_loop.opening import RehearsalSettings
from mixcd.run.rehearsal_loop.row_kind import MixUnit, require_mix_unit
from mixcd.run.trainer.same_as_training import require_same_predictions
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.run.trainer.streamed_data import open_stream
from mixcd.run.trainer.trainer_predictions import inference_of
from mixcd.run.trainer.trainer_seam import TrainerSeam
from mixcd.run.trainer.trainer_support import (
    collect_held_out,
    hides_logits,
    require_alike,
    require_supported,
    warn_of_generation,
    warn_of_settings,
)
from mixcd.words.vocabulary import PartitionStrategy


def attach(
    trainer: Trainer,
    prior_data: Any,
    *,
    mix_ratio: float,
    mix_unit: MixUnit | None = None,
    partition: PartitionStrategy | str | Sequence[str] | None = None,
    estimator: Estimator = "auto",
    correctness: CorrectnessRule | str | None = None,
    held_out: Any = None,
    cache_dir: str | Path | None = None,
    cache_columns: Sequence[str] = (),
    features: int | None = None,
    floor: float | None = None,
    probe: Probe | None = None,
    lag: int | None = None,
    generate: int | None = None,
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
            label or several; extractive question answering; multiple choice; regression; translation and other sequence
            to sequence tasks; causal language models; token classification. Or TRL's `SFTTrainer`. Its
            `train_dataset` may be a stream, an iterable dataset of torch or of `datasets`, with `max_steps`: new rows
            come in its order then, and every process reads all of it.
        prior_data: The prior task's samples, prepared like `trainer.train_dataset`: a `datasets.Dataset`, a
            map-style dataset, or a dict of them, whose keys become the column `prior_set`. With `SFTTrainer` they may
            be raw: the trainer prepares them as it does its own. Of a `DatasetDict` with a split for training, splits
            for evaluation are left out, with a warning; pass `dict(prior_data)` to rehearse them, too.
        mix_ratio: β, the share of prior samples in what is trained on, inside (0, 1).
        mix_unit: What it is a share of: "rows", in every batch; or "tokens" that are no padding, over the run, to
            within the tokens of one row. By default tokens where new rows are packed, else rows.
        partition: How the prior data are cut into bins: a strategy, or its text, such as "column:topic"; several texts
            are combined. `ByPriorLoss(10)` by default, in which damage is then counted, whoever draws.
        estimator: "auto" for what measured best: "drift" in single-label classification; "counts" for other tasks, or
            when a partition is named, the model has no linear head or the cache no features; "factored" when the
            partition is a combined one. "drift" forecasts every sample's damage from cached features and logits
            (`DriftEstimator`); "counts" draws by smoothed counts a bin; "shrunk" pulls the rates of thin bins to the
            overall rate; "factored" keeps one table a part of a combined partition; "paper" is the paper's raw u / n
            without a floor; "uniform" is plain rehearsal. Or settings, such as `Counts(discount=0.98)`; or a function
            from (partition, predictions) to an estimator.
        correctness: When a prediction is right: a rule, or its name, such as "right-tokens". By default what the model
            and its labels are made for: `RightClass`, `RightLabels` (several labels), `RightSpan` (answers in a text)
            or `EachToken` (language models and token classification: damage is counted by token, and a sample's is the
            share of its tokens that were right and no longer are). `RightTokens()` judges whole samples: every target
            token, or with `RightTokens(0.7)` that share of them. A regression needs `NearTarget(tolerance)`.
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
        generate: How many held-out samples of each task a language model answers by itself, besides, now as the base
            model, and again in `evaluate(generate=True)`; none by default. What the base model wrote is cached.
        seed: The seed of the draws; the trainer's `data_seed` or `seed` by default.

    Returns:
        The handle: `evaluate()`, `vitals()`, `detach()` and what is known of the prior data.

    Raises:
        SettingError: If the mix ratio, the lag, the seed, the floor, the features or the estimator make no sense.
        DataError: If the prior or new data are empty, the prior data not map-style, a stream yields other rows when
            it is opened again; if data lack labels or columns, have other
            model inputs than each other, or labels outside the model's classes.
        CacheError: If the cache was made from something else, or was altered.
        AlreadyAttachedError: If the trainer already rehearses.
        UnsupportedTrainerError: If the trainer does something that rehearsal cannot follow, or the model fits no task
            that is known.
    """
    require_mix_ratio(mix_ratio)
    require_mix_unit(mix_unit)
    settings = RehearsalSettings(partition, estimator, floor, features, cache_columns, probe, lag)
    require_supported(trainer)
    warn_of_settings(trainer)
    prior = PriorDataset(prepare_raw(trainer, choose_rehearsed(prior_data, "prior_data"), "prior_data"))
    stream = open_stream(trainer)
    rule = require_alike(trainer, prior, correctness, stream)
    warn_of_generation(trainer, rule)
    folder = Path(cache_dir) if cache_dir is not None else Path(str(trainer.args.output_dir)) / "_mixcd_cache"
    infer = partial(inference_of, trainer, rule=rule)
    if hides_logits(trainer, rule):
        require_true_head(infer(prior))
    opening = settings.open(infer(prior), folder)
    seeds = (seed, trainer.args.data_seed, trainer.args.seed)
    first_seed = next(given for given in seeds if given is not None)
    seam = TrainerSeam(trainer, prior, rule, mix_ratio, first_seed, lag, probe, mix_unit, stream)
    held_out_data = collect_held_out(trainer, held_out, prior, opening.strategy.column_names)
    require_generation(infer, held_out_data, generate)
    predictions = opening.predict(LEAST_SHARE_RIGHT)
    require_same_predictions(trainer, prior, predictions, rule)
    held_out_predictions = predict_held_out(infer, held_out_data, folder, generate)
    if trainer.is_world_process_zero():
        warn_of_rehearsed(predictions, held_out_predictions)
    loop = opening.make_loop(predictions)
    seam.install(loop, predictions)
    opened = Opened(opening.strategy, prior, rule, infer, predictions, held_out_predictions, loop)
    return Rehearsal(opened, seam)


class Rehearsal(RehearsalHandle):
    """A trainer's rehearsal: what `attach` returns. Build it with `attach` only."""

    def __init__(self, opened: Opened, seam: TrainerSeam) -> None:
        super().__init__(opened, seam.learner, "attach")
        self._seam = seam

    @property
    def batch_sample_ids(self) -> torch.Tensor:
        """The batch in training, for losses of one's own: prior sample ids, −1 for new ones; shape (rows,).

        Where rows are packed, there is one for each sample in them.
        """
        return self._seam.batch_sample_ids

    def stop(self) -> None:
        """Ask the trainer to save a checkpoint and stop after the step in progress, as from a signal handler.

        With several processes the first one decides for all, so that none waits for another in vain.
        """
        self._seam.stop_asked = True

    def detach(self) -> None:
        """Give the trainer its own data loader and training step back; what was learnt stays readable."""
        self._seam.detach()

    def _log(self) -> Sequence[Mapping[str, Any]]:
        return self._seam.trainer.state.log_history
