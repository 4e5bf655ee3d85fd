"""`rehearse`: rehearsal in a training loop of one's own: plain PyTorch, Accelerate, Lightning."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.matter.base_model.batched_inference import Collate, collate
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_predictions import LEAST_SHARE_RIGHT, PriorPredictions
from mixcd.matter.base_model.require_apart import require_cache_off
from mixcd.matter.correctness import CorrectnessRule, choose_common_rule
from mixcd.matter.correctness.reading import judge_by_loss
from mixcd.matter.fine_tuned_model.mixed_batch import SAMPLE_IDS, MixedDataset, TaggingCollator
from mixcd.matter.fine_tuned_model.prediction_observer import PredictionObserver, read_rehearsed
from mixcd.matter.model_shape.model_limits import require_fixed_masks, require_padding
from mixcd.matter.prior_and_new_data.label_names import require_same_numbers
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.matter.prior_and_new_data.split_choice import choose_rehearsed
from mixcd.run.rehearsal_loop.estimator_choice import Estimator
from mixcd.run.rehearsal_loop.opening import Wishes
from mixcd.run.rehearsal_loop.plan_sampler import EpochSampler
from mixcd.run.rehearsal_loop.rehearsal_health import Vitals
from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop
from mixcd.run.rehearsal_loop.shared_arrays import broadcast_arrays, processes_of
from mixcd.words.errors import PlanError, SettingError
from mixcd.words.vocabulary import DamageCounts, Partition, PartitionStrategy


def rehearse(
    model: torch.nn.Module,
    new_data: Any,
    prior_data: Any,
    cache_dir: str | Path,
    *,
    mix_ratio: float,
    batch_size: int,
    collate_fn: Collate,
    accumulation_steps: int = 1,
    accelerator: Any = None,
    tokenizer: Any = None,
    partition: PartitionStrategy | None = None,
    estimator: Estimator = "auto",
    correctness: CorrectnessRule | None = None,
    features: int | None = None,
    floor: float | None = None,
    lag: int | None = None,
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
        mix_ratio: β, the share of prior samples in every batch, inside (0, 1).
        batch_size: Rows in one forward pass on one process.
        collate_fn: Makes a batch, with the labels in it, of a list of rows.
        accumulation_steps: Batches that one optimizer step learns from, on one process.
        accelerator: The `accelerate.Accelerator` of a run on several processes; None for one.
        tokenizer: Fingerprinted, so that a cache made with another one is refused.
        partition: As in `attach`, like the following.
        estimator: Who chooses samples.
        correctness: When a prediction is right.
        features: Features a sample to cache.
        floor: ε, the share of the draws that ignores the belief.
        lag: How many steps old the belief is that a step is planned with.
        seed: The seed of the draws.

    Returns:
        The handle: `loader`, `observe` and `commit`, and what is known of the prior data.

    Raises:
        RehearsalError: As in `attach`.
    """
    wishes = Wishes(partition, estimator, floor, features, lag=lag)
    prior, new = PriorDataset(choose_rehearsed(prior_data, "prior_data")), PriorDataset(new_data, "new_data")
    require_padding(collate_fn)
    require_fixed_masks(collate_fn)
    rule = choose_common_rule(
        correctness, model, *((data.name, collate(collate_fn, [data[0]])) for data in (new, prior))
    )
    require_same_numbers(model, new, prior)
    require_cache_off(model, prior, collate_fn)
    process_count = 1 if accelerator is None else int(accelerator.num_processes)
    plan = BatchPlan(len(new), len(prior), mix_ratio, batch_size, accumulation_steps * process_count, seed)
    base = Inference(model, prior, rule, collate_fn, batch_size, tokenizer, processes_of(accelerator), True)
    opening = wishes.open(base, Path(cache_dir))
    predictions = opening.predict(LEAST_SHARE_RIGHT)
    loop = opening.make_loop(predictions)
    loop.shape(plan, look_ahead=1)
    return HandRehearsal(
        loop, MixedDataset(new_data, prior), TaggingCollator(collate_fn), rule, predictions, accelerator
    )


class HandRehearsal:
    """Rehearsal in a loop of one's own: what `rehearse` returns. Build it with `rehearse` only.

    Args:
        loop: Plans the steps and learns from them.
        data: New and prior rows.
        collate_fn: Makes batches that carry sample ids.
        rule: Says which samples are right.
        predictions: The base model's predictions on the prior data.
        accelerator: As in `rehearse`.
    """

    def __init__(
        self,
        loop: RehearsalLoop,
        data: MixedDataset,
        collate_fn: TaggingCollator,
        rule: CorrectnessRule,
        predictions: PriorPredictions,
        accelerator: Any,
    ) -> None:
        self.predictions = predictions
        """The base model's predictions on the prior data."""
        self.data = data
        """New and prior rows, for a loader."""
        self.sampler = EpochSampler(loop)
        """Says which rows are in the batches, for a loader; one pass is what is left of the epoch."""
        self.collate_fn = collate_fn
        """Makes a loader's batches; they carry the sample ids that `observe` takes out."""
        self._loop = loop
        self._rule = rule
        self._base_loss = None if rule.loss_tolerance is None else predictions.base_loss
        self._accelerator = accelerator
        self._observer = PredictionObserver(rule, loop.estimator.reads_logits)

    def loader(self, num_workers: int = 0, prefetch_factor: int | None = None, **settings: Any) -> DataLoader[Any]:
        """Return a data loader over the mixed batches; hand it to `accelerator.prepare` where there is one.

        Args:
            num_workers: As in `torch.utils.data.DataLoader`, like the following.
            prefetch_factor: Batches that a worker reads ahead.
            settings: Other settings of the loader, such as `pin_memory`.

        Returns:
            The loader. It yields batches of one epoch over the new data; iterate again for the next.

        Raises:
            SettingError: If the loader reads further ahead than the lag allows.
        """
        plan = self._loop.plan
        batches_ahead = 1 + num_workers * (prefetch_factor or 2)
        steps_ahead = -(-batches_ahead * self._process_count // plan.micro_batch_count)
        self._loop.shape(plan, steps_ahead)
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
            batch: A batch of the loader.

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
        inputs = {name: value for name, value in batch.items() if name != SAMPLE_IDS}
        with self._observer.watch(model, batch[SAMPLE_IDS], inputs):
            yield inputs

    def commit(self) -> DamageCounts:
        """Complete an optimizer step with what its forward passes showed; call it once after each.

        Returns:
            The step's observed and damaged counts, shape (bins,).

        Raises:
            PlanError: If other rows were observed than were planned.
        """
        rows, block_size = self._observer.take(), self._loop.plan.block_size
        if self._process_count > 1:
            rows = self._accelerator.gather(rows.to(self._accelerator.device))
        if len(rows) != block_size:
            raise PlanError(
                f"The step was planned with {block_size} rows, but `observe` saw {len(rows)}. Every batch of a step "
                "must be observed once, and every step committed. Check `accumulation_steps`, and that `commit` "
                "follows every optimizer step."
            )
        seen = judge_by_loss(self._rule, read_rehearsed(rows), self._base_loss)
        return self._loop.commit(seen, lambda belief: broadcast_arrays(self._accelerator, belief))

    @property
    def partition(self) -> Partition:
        """The bins that damage is counted in."""
        return self._loop.partition

    @property
    def counts(self) -> DamageCounts:
        """Observed and damaged counts of each bin over all steps, shape (bins,)."""
        return self._loop.state.history.total.counts

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps after which every new sample has been seen."""
        return self._loop.plan.steps_per_epoch

    def vitals(self) -> Vitals:
        """Measure how rehearsal is doing: damage rate, yield, lift, and how uneven the draws are."""
        return self._loop.vitals()

    def state_dict(self) -> dict[str, Any]:
        """Return all that was learnt, as JSON values, for a checkpoint."""
        return self._loop.to_json()

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: the next loader begins with the step after it.

        Args:
            stored: What `state_dict` returned.

        Raises:
            ResumeError: If it belongs to a run of another shape.
        """
        if "steps_done" not in stored:
            raise SettingError("`stored` is not what `state_dict()` returned: it has no `steps_done`. Pass that.")
        self._loop.restore(stored, int(stored["steps_done"]))

    @property
    def _process_count(self) -> int:
        return 1 if self._accelerator is None else int(self._accelerator.num_processes)
