"""`rehearse`: rehearsal in a training loop of one's own: plain PyTorch, Accelerate, Lightning."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.data import DataLoader

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.ideas.probe import Probe
from mixcd.matter.base_model.batched_inference import Collate, collate
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_predictions import LEAST_SHARE_RIGHT
from mixcd.matter.base_model.require_apart import require_cache_off
from mixcd.matter.correctness import CorrectnessRule, choose_common_rule
from mixcd.matter.fine_tuned_model.mixed_batch import SAMPLE_IDS, MixedDataset, TaggingCollator
from mixcd.matter.model_shape.model_limits import require_fixed_masks, require_padding
from mixcd.matter.prior_and_new_data.label_names import require_same_numbers
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.matter.prior_and_new_data.split_choice import choose_held_out, choose_rehearsed
from mixcd.run.outcome.generation import require_generation
from mixcd.run.outcome.held_out import name_held_out, predict_held_out, warn_of_rehearsed
from mixcd.run.rehearsal_handle import Opened, RehearsalHandle
from mixcd.run.rehearsal_loop.estimator_choice import Estimator
from mixcd.run.rehearsal_loop.opening import RehearsalSettings
from mixcd.run.rehearsal_loop.packed_plan import make_packed_plan, measure_rows
from mixcd.run.rehearsal_loop.plan_sampler import EpochSampler
from mixcd.run.rehearsal_loop.row_kind import MixUnit, look_at_rows, require_mix_unit
from mixcd.run.rehearsal_loop.shared_arrays import broadcast_arrays, processes_of
from mixcd.run.rehearsal_loop.step_learner import StepLearner
from mixcd.words.errors import PlanError, SettingError
from mixcd.words.vocabulary import DamageCounts, PartitionStrategy

_MISSING = (
    "The step was planned with {planned} rows, but `observe` saw {seen}. Every batch of a step must be observed once, "
    "and every step committed. Check `accumulation_steps`, and that `commit` follows every optimizer step."
)


def rehearse(
    model: torch.nn.Module,
    new_data: Any,
    prior_data: Any,
    cache_dir: str | Path,
    *,
    mix_ratio: float,
    mix_unit: MixUnit | None = None,
    batch_size: int,
    collate_fn: Collate,
    accumulation_steps: int = 1,
    accelerator: Any = None,
    tokenizer: Any = None,
    partition: PartitionStrategy | str | Sequence[str] | None = None,
    estimator: Estimator = "auto",
    correctness: CorrectnessRule | str | None = None,
    held_out: Any = None,
    new_held_out: Any = None,
    cache_columns: Sequence[str] = (),
    features: int | None = None,
    floor: float | None = None,
    probe: Probe | None = None,
    lag: int | None = None,
    generate: int | None = None,
    seed: int = 0,
) -> "HandRehearsal":
    """Prepare rehearsal for a training loop of one's own; `attach` does the same for a trainer.

    Call it while the model still is the base model, on the device where it is to predict. The model runs once over
    the prior data, or its predictions are read from the cache. Nothing of the model is changed.

    Paper: mix-cd; see `docs/paper-map.md`.

    Args:
        model: The base model: called with a batch, it returns its `logits` by name, as those of transformers do.
        new_data: The new task's prepared rows: map-style, what `collate_fn` takes.
        prior_data: The prior task's, prepared alike; or a dict of data sets. Of a `DatasetDict` with a split for
            training, splits for evaluation are left out.
        cache_dir: The prediction cache.
        mix_ratio: β, the share of prior samples in what is trained on, inside (0, 1).
        mix_unit: What it is a share of: "rows" or "tokens", as in `attach`.
        batch_size: Rows in one forward pass on one process.
        collate_fn: Makes a batch, with the labels in it, of a list of rows.
        accumulation_steps: Batches that one optimizer step learns from, on one process.
        accelerator: The `accelerate.Accelerator` of a run on several processes; None for one.
        tokenizer: Fingerprinted, so that a cache made with another one is refused.
        partition: As in `attach`, like the following.
        estimator: Who chooses samples.
        correctness: When a prediction is right.
        held_out: Prior samples that are never rehearsed, for `evaluate()`.
        new_held_out: New samples that are not trained on, for `evaluate()`, too; `attach` takes `trainer.eval_dataset`.
        cache_columns: As in `attach`, like the following.
        features: Features a sample to cache.
        floor: ε, the share of the draws that ignores the belief.
        probe: Extra inference on uniformly drawn prior samples after a step.
        lag: How many steps old the belief is that a step is planned with.
        generate: How many held-out samples of each task a language model answers by itself, for
            `evaluate(generate=True)`.
        seed: The seed of the draws.

    Returns:
        The handle: `loader`, `observe` and `commit`, `evaluate()` and `report()`, and what is known of the prior data.

    Raises:
        RehearsalError: As in `attach`.
    """
    require_mix_unit(mix_unit)
    settings = RehearsalSettings(partition, estimator, floor, features, cache_columns, probe, lag)
    folder = Path(cache_dir)
    model = _unwrap(model)
    prior, new = PriorDataset(choose_rehearsed(prior_data, "prior_data")), PriorDataset(new_data, "new_data")
    require_padding(collate_fn)
    require_fixed_masks(collate_fn)
    rule = choose_common_rule(
        correctness, model, *((data.name, collate(collate_fn, [data[0]])) for data in (new, prior))
    )
    require_same_numbers(model, new, prior)
    require_cache_off(model, prior, collate_fn)
    processes = processes_of(accelerator)
    kind = look_at_rows(new_data, prior, collate_fn)
    by_rows = not kind.counts_tokens(mix_unit)
    plan = BatchPlan(len(new), len(prior), mix_ratio, batch_size, accumulation_steps * processes.count, seed, by_rows)

    def infer(data: PriorDataset) -> Inference:
        autocast = nullcontext if accelerator is None else accelerator.autocast
        return Inference(model, data, rule, collate_fn, batch_size, tokenizer, processes, True, autocast)

    opening = settings.open(infer(prior), folder)
    held_out_data = _collect_held_out(held_out, new_held_out, opening.strategy.column_names)
    require_generation(infer, held_out_data, generate)
    predictions = opening.predict(LEAST_SHARE_RIGHT)
    held_out_predictions = predict_held_out(infer, held_out_data, folder, generate)
    if processes.rank == 0:
        warn_of_rehearsed(predictions, held_out_predictions)
    loop = opening.make_loop(predictions)
    packed = None
    if kind.depends_on_tokens(mix_unit):
        packed = make_packed_plan(plan, kind, measure_rows(kind, new_data, new.name, prior, predictions, model))
    loop.shape(plan, 1, packed)
    opened = Opened(opening.strategy, prior, rule, infer, predictions, held_out_predictions, loop)
    return HandRehearsal(
        opened, MixedDataset(new_data, prior, kind.told_apart), TaggingCollator(collate_fn), probe, accelerator
    )


class HandRehearsal(RehearsalHandle):
    """Rehearsal in a loop of one's own: what `rehearse` returns. Build it with `rehearse` only.

    `evaluate()`, `report()` and the probe run the model that `observe` was given last, without the wrapper of
    data-parallel training; before the first step, the one that `rehearse` was given.
    """

    def __init__(
        self, opened: Opened, data: MixedDataset, collate_fn: TaggingCollator, probe: Probe | None, accelerator: Any
    ) -> None:
        infer_base = opened.infer
        self._model = infer_base(opened.prior).model
        opened = replace(opened, infer=lambda data: replace(infer_base(data), model=self._model))
        learner = StepLearner(
            opened.loop,
            opened.rule,
            opened.predictions,
            probe,
            infer_prior=lambda: opened.infer(opened.prior),
            accelerator=accelerator,
            missing=_MISSING,
        )
        super().__init__(opened, learner, "rehearse")
        self.data = data
        """New and prior rows, for a loader."""
        self.sampler = EpochSampler(opened.loop)
        """Says which rows are in the batches, for a loader; one pass is what is left of the epoch."""
        self.collate_fn = collate_fn
        """Makes a loader's batches; they carry the sample ids that `observe` takes out."""

    def loader(self, num_workers: int = 0, prefetch_factor: int | None = None, **settings: Any) -> DataLoader[Any]:
        """Return a data loader over the mixed batches; hand it to `accelerator.prepare` where there is one.

        The settings are those of `torch.utils.data.DataLoader`, such as `pin_memory`.

        Returns:
            The loader. It yields batches of one epoch over the new data; iterate again for the next.

        Raises:
            SettingError: If the loader reads further ahead than the lag allows.
        """
        plan = self._loop.plan
        batches_ahead = 1 + num_workers * (prefetch_factor or 2)
        steps_ahead = -(-batches_ahead * processes_of(self._learner.accelerator).count // plan.micro_batch_count)
        self._loop.shape(plan, steps_ahead, self._loop.packed)
        return DataLoader(
            self.data,
            batch_size=plan.micro_batch_size,
            sampler=self.sampler,
            collate_fn=self.collate_fn,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            **settings,
        )

    @contextmanager
    def observe(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Read off the model's forward pass inside the block what it gets right.

        Of several passes, the one counts that gradients flow back through, in the block or after it.

        Args:
            model: The model that the block calls, as it calls it: wrapped, if it is.

        Yields:
            The batch without the sample ids, for the model.

        Raises:
            PlanError: If the batch carries no sample ids.
        """
        if SAMPLE_IDS not in batch:
            raise PlanError(
                "The batch carries no sample ids, so it does not come from rehearsal's loader. Iterate over what "
                "`rehearsal.loader()` returns, or give a loader of your own `rehearsal.collate_fn`."
            )
        self._model = _unwrap(model)
        inputs = {name: value for name, value in batch.items() if name != SAMPLE_IDS}
        with self._learner.observer.watch(model, batch[SAMPLE_IDS], inputs):
            yield inputs

    def commit(self) -> DamageCounts:
        """Complete an optimizer step with what its forward passes showed; call it once after each.

        Returns:
            The step's observed and damaged counts, shape (bins,).

        Raises:
            PlanError: If other rows were observed than were planned.
        """
        learner = self._learner
        return learner.adopt(*learner.learn(lambda belief: broadcast_arrays(learner.accelerator, belief)))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps after which every new sample has been seen."""
        return self._loop.steps_per_epoch

    def state_dict(self) -> dict[str, Any]:
        """Return all that was learnt, as JSON values, for a checkpoint."""
        return self._loop.to_json()

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned: the next loader begins with the step after it.

        Raises:
            ResumeError: If it belongs to a run of another shape.
        """
        if "steps_done" not in stored:
            raise SettingError("`stored` is not what `state_dict()` returned: it has no `steps_done`. Pass that.")
        self._loop.restore(stored, int(stored["steps_done"]))

    def _log(self) -> Sequence[Mapping[str, Any]]:
        return self._learner.log


def _collect_held_out(held_out: Any, new_held_out: Any, column_names: Sequence[str]) -> dict[str, PriorDataset]:
    if held_out is None and new_held_out is not None:
        raise SettingError(
            "`new_held_out` is given, but `held_out` is not, and without it there is no damage for `evaluate()` to "
            "measure. Pass prior samples that are never rehearsed as `held_out=`, too."
        )
    prior = None if held_out is None else choose_held_out(held_out, "held_out")
    return name_held_out(prior, new_held_out, "new_held_out", column_names)


def _unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model that a wrapper for several processes or devices holds, or the model itself."""
    while isinstance(model, DataParallel | DistributedDataParallel):
        model = model.module
    return model
