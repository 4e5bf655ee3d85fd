"""The seam to `transformers.Trainer`: two methods shadowed on one instance, and one callback."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from mixcd.ideas.batch_plan import BatchPlan, count_new_rows
from mixcd.ideas.probe import Probe
from mixcd.matter.base_model.batched_inference import collate
from mixcd.matter.base_model.model_fingerprint import fingerprint_batch, fingerprint_model
from mixcd.matter.base_model.prior_predictions import PREPROCESSING_ROWS, PriorPredictions
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.fine_tuned_model.mixed_batch import SAMPLE_IDS, MixedDataset, TaggingCollator
from mixcd.matter.fine_tuned_model.streamed_batch import PlaceCollator, StreamedDataset
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.matter.prior_and_new_data.streamed_rows import StreamedRows
from mixcd.run.rehearsal_loop.packed_plan import RowTokens, make_packed_plan, measure_rows
from mixcd.run.rehearsal_loop.plan_sampler import PlanSampler
from mixcd.run.rehearsal_loop.rehearsal_loop import Learnt, RehearsalLoop, choose_lag
from mixcd.run.rehearsal_loop.row_kind import MixUnit
from mixcd.run.rehearsal_loop.shared_arrays import broadcast_arrays
from mixcd.run.rehearsal_loop.step_learner import StepLearner
from mixcd.run.trainer.streamed_data import StreamProgress, one_worker, require_mixing_by_rows
from mixcd.run.trainer.trainer_packing import find_row_kind
from mixcd.run.trainer.trainer_predictions import aligned_model, inference_of
from mixcd.run.trainer.trainer_support import SHADOWED, collator_of
from mixcd.words.errors import DataError, PlanError, ResumeError, UnsupportedTrainerError, shorten
from mixcd.words.vocabulary import Belief

_MISSING = (
    "A step trained on {planned} planned rows, but its forward passes showed {seen}. Every planned row must reach the "
    "model once. Check that `training_step`, `compute_loss` and the model keep the rows of a batch together."
)


@dataclass(eq=False)
class TrainerSeam:
    """Feeds a trainer the planned rows, and returns what its forward passes reveal.

    Building it checks that the trainer can be followed; nothing changes before `install`, only this
    trainer instance changes then, and `detach` puts everything back.

    Raises:
        SettingError: If the mix ratio or the lag does not fit the trainer's batch and data loader.
        UnsupportedTrainerError: If its data loader draws in a way that rehearsal cannot follow.
    """

    trainer: Trainer
    prior: PriorDataset
    rule: CorrectnessRule
    mix_ratio: float
    seed: int
    lag: int | None
    probe: Probe | None
    mix_unit: MixUnit | None = None
    stream: StreamedRows | None = None

    def __post_init__(self) -> None:
        self.batch_sample_ids = torch.zeros(0, dtype=torch.int64)
        self.stop_asked = self.stopping = False
        """Whether this process was asked to stop after the step in progress, and whether the first one was."""
        self._learnt: tuple[Learnt, torch.Tensor] | None = None
        self._new_data: Any = self.trainer.train_dataset
        shown = self._new_data if self.stream is None else self.stream.first_rows
        self.row_kind = find_row_kind(self.trainer, shown, self.prior, collator_of(self.trainer, shown))
        """What the trainer's rows hold."""
        self._mixed_data: Any = None
        self.progress = None if self.stream is None else StreamProgress(self.stream)
        if self.stream is not None:
            require_mixing_by_rows(self.row_kind, self.mix_unit)
        self._make_loader = self.trainer.get_train_dataloader
        self._step = self.trainer.training_step
        choose_lag(self.lag, self._look_ahead())
        plan = self._plan()
        loader = self._make_mixed_loader(plan)
        self._require_plain_loader(loader, plan)
        self._require_same_inputs(getattr(loader, "base_dataloader", loader).collate_fn)

    def install(self, loop: RehearsalLoop, predictions: PriorPredictions) -> None:
        """Make the trainer rehearse."""
        self.loop = loop
        self.learner = StepLearner(
            loop,
            self.rule,
            predictions,
            self.probe,
            infer_prior=lambda: inference_of(self.trainer, self.prior, self.rule),
            accelerator=self.trainer.accelerator,
            missing=_MISSING,
        )
        self._tokens = self._measure_rows(predictions)
        self._sampler = PlanSampler(loop)
        self._callback = RehearsalCallback(self)
        self._shape()
        setattr(self.trainer, "get_train_dataloader", self.get_train_dataloader)  # noqa: B010
        setattr(self.trainer, "training_step", self.training_step)  # noqa: B010
        self.trainer.add_callback(self._callback)

    def detach(self) -> None:
        """Give the trainer its own methods back."""
        for name in SHADOWED:
            vars(self.trainer).pop(name, None)
        self.trainer.remove_callback(self._callback)

    def get_train_dataloader(self) -> Any:
        """Return the trainer's own loader, over the mixed data in the planned order."""
        if self.trainer.train_dataset is not self._new_data:
            raise UnsupportedTrainerError(
                "`trainer.train_dataset` was replaced after `attach`, which planned for the previous data set. "
                "Rehearsal mixes into the data it was attached with. `detach()`, then attach again."
            )
        plan = self._shape()
        loader = self._make_mixed_loader(plan)
        batches = self._require_plain_loader(loader, plan)
        if hasattr(loader, "set_sampler"):
            loader.set_sampler(self._sampler)
        else:
            batches.sampler = self._sampler
        shard = getattr(loader, "base_dataloader", loader)
        shard.collate_fn = TaggingCollator(shard.collate_fn)
        if self.stream is not None:
            shard.collate_fn = PlaceCollator(shard.collate_fn, self.stream)
        return loader

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any, **named: Any) -> torch.Tensor:
        """Run the trainer's own training step, read predictions off its forward pass, and learn from the last one."""
        if SAMPLE_IDS not in inputs:
            raise PlanError(
                "A batch reached `training_step` without sample ids, so it did not come from this trainer's training "
                "loader as rehearsal made it. Let the trainer draw its own batches, or `detach()` first."
            )
        self.batch_sample_ids = inputs.pop(SAMPLE_IDS)
        if self.progress is not None:
            self.progress.take(inputs)
        with self.learner.observer.watch(model, self.batch_sample_ids, inputs):
            loss = self._step(model, inputs, *rest, **named)
        if self._is_on_gpu and self.probe is None and self.trainer.accelerator.sync_gradients:
            self._learnt = self.learner.learn(self._share_belief)  # while the GPU is still busy with the gradients
        return loss

    def begin(self, steps_done: int, stored: Any, ignore_data_skip: bool) -> None:
        """Start or resume: forget what was learnt, or take it over from the checkpoint."""
        self.learner.reset()
        self._learnt = None
        self._sampler.skipped_steps = 0
        self.loop.reset()
        if self.trainer.model_init is not None and not steps_done:
            self._require_base_model()
        if steps_done:
            self.loop.restore(stored, steps_done)
            if not ignore_data_skip:
                self._sampler.skipped_steps = steps_done % self.loop.steps_per_epoch
        if self.progress is not None:
            self.progress.begin(stored if steps_done else None)

    def commit(self) -> None:
        """Complete a step: what its last training step learnt counts from here on, or is learnt now after a probe."""
        learnt, self._learnt = self._learnt or self.learner.learn(self._share_belief), None
        self.learner.adopt(*learnt)
        if self.progress is not None:
            self.progress.commit()

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        streamed = {} if self.progress is None else {"stream": self.progress.to_json()}
        return {**self.loop.to_json(), "processes": self.trainer.args.world_size, **streamed}

    @property
    def _is_on_gpu(self) -> bool:
        """Whether the processor has time while gradients are computed; it learns after the step otherwise."""
        return self.trainer.args.device.type != "cpu"

    def _first_rows(self) -> list[Any]:
        return self.prior.rows(range(len(self.prior))[:PREPROCESSING_ROWS])

    def _require_base_model(self) -> None:
        rows = self._first_rows()
        batch = collate(collator_of(self.trainer, self.prior), rows)
        found = fingerprint_model(aligned_model(self.trainer), self.rule, batch, len(rows))
        if found["model"] != self.loop.sources["model"]:
            raise UnsupportedTrainerError(
                "`model_init` built another model for `train()` than the base model that predicted the prior data. "
                "Damage is counted against the base model. Let `model_init` return the same weights every time, or "
                "pass `model=` instead."
            )

    def _share_belief(self, belief: Belief) -> Belief:
        """Return the first process's belief, and learn whether it was asked to stop."""
        arrays = (*belief, np.array([float(self.stop_asked)]))
        *first, stop_asked = broadcast_arrays(self.trainer.accelerator, arrays)
        self.stopping = bool(stop_asked[0])
        return tuple(first)

    def _plan(self) -> BatchPlan:
        trainer, args = self.trainer, self.trainer.args
        micro_batch_count = args.world_size // trainer.get_tp_size() * args.gradient_accumulation_steps
        block_size, is_stream = trainer.get_total_train_batch_size(args), self.stream is not None
        return BatchPlan(
            new_count=(
                count_new_rows(args.max_steps, self.mix_ratio, block_size) if is_stream else len(self._new_data)
            ),
            prior_count=len(self.prior),
            mix_ratio=self.mix_ratio,
            micro_batch_size=block_size // micro_batch_count,
            micro_batch_count=micro_batch_count,
            seed=self.seed,
            by_rows=not self.row_kind.counts_tokens(self.mix_unit),
            in_order=is_stream,
        )

    def _shape(self) -> BatchPlan:
        plan = self._plan()
        packed = None if self._tokens is None else make_packed_plan(plan, self.row_kind, self._tokens)
        self.loop.shape(plan, self._look_ahead(), packed)
        return plan

    def _measure_rows(self, predictions: PriorPredictions) -> RowTokens | None:
        """Return how long all rows are, where the plan depends on it."""
        kind, model = self.row_kind, aligned_model(self.trainer)
        if not kind.depends_on_tokens(self.mix_unit):
            return None
        return measure_rows(kind, self._new_data, "trainer.train_dataset", self.prior, predictions, model)

    def _look_ahead(self) -> int:
        args = self.trainer.args
        read_ahead = 1 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)  # batches
        return math.ceil(read_ahead / args.gradient_accumulation_steps)

    def _make_mixed_loader(self, plan: BatchPlan) -> Any:
        if self.stream is not None:
            self.stream.plan = plan
            self._mixed_data = StreamedDataset(MixedDataset(self.stream, self.prior), self.stream)
        elif self._mixed_data is None:
            self._mixed_data = MixedDataset(self._new_data, self.prior, self.row_kind.told_apart)
        self.trainer.train_dataset = self._mixed_data
        try:
            with one_worker(self.trainer.args) if self.stream is not None else nullcontext():
                return self._make_loader()
        finally:
            self.trainer.train_dataset = self._new_data

    def _require_same_inputs(self, collate_fn: Any) -> None:
        """Refuse a training loader that makes other batches of the same rows than evaluation does."""
        rows = self._first_rows()
        trained, again = collate(collate_fn, rows), collate(collate_fn, rows)
        judged = collate(collator_of(self.trainer, self.prior), rows)
        different = [
            name
            for name in sorted({*trained, *judged})
            if _print_of(trained, name) == _print_of(again, name) != _print_of(judged, name)  # what is random differs
        ]
        if different:
            raise UnsupportedTrainerError(
                f"For the same rows the training loader makes other {shorten((f'`{name}`' for name in different), 5)} "
                "than the evaluation loader, which the base model predicts with: what training shows could not be "
                "compared with it. Let both loaders use the same collator."
            )

    def _require_plain_loader(self, loader: Any, plan: BatchPlan) -> Any:
        """Return the innermost batch sampler, if it draws this data once each in random order."""
        batches: Any = getattr(loader, "batch_sampler", None)
        batches = getattr(batches, "batch_sampler", batches)
        sampler = getattr(batches, "sampler", None)
        if getattr(loader, "dataset", None) is not self._mixed_data:
            fault = "draws from another dataset than `trainer.train_dataset`"
        elif not isinstance(sampler, RandomSampler):
            fault = f"draws with its own {type(sampler or batches).__name__}"
        elif sampler.replacement:
            fault = "draws with replacement"
        elif batches.batch_size != plan.micro_batch_size:
            fault = f"makes batches of {batches.batch_size} rows instead of {plan.micro_batch_size}"
        else:
            return batches
        owner = next(kind for kind in type(self.trainer).__mro__ if "get_train_dataloader" in vars(kind))
        raise UnsupportedTrainerError(
            f"The training loader of `{owner.__name__}` {fault}. Rehearsal replaces the order in which "
            "`trainer.train_dataset` is drawn, so the loader must draw it uniformly, each row once an epoch. Return "
            "the loader of `Trainer.get_train_dataloader`, or weigh samples by a `partition` instead."
        )


def _print_of(batch: Any, name: str) -> str:
    return fingerprint_batch({name: batch.get(name)})


class RehearsalCallback(TrainerCallback, ExportableState):
    """Starts, commits, logs and saves rehearsal at the trainer's own events."""

    def __init__(self, seam: TrainerSeam) -> None:
        self._seam = seam

    def state(self) -> dict[str, Any]:
        """Return what the trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": self._seam.to_json()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start afresh, or take over the checkpoint's state."""
        name = type(self).__name__
        stored = state.stateful_callbacks.get(name)
        if state.global_step and not stored:
            raise ResumeError(
                f"The checkpoint at step {state.global_step} holds no rehearsal state, so the interrupted run did not "
                "rehearse. Its draws cannot be continued. Resume a run that rehearsed, or start afresh."
            )
        self._seam.begin(state.global_step, stored and stored["attributes"], args.ignore_data_skip)
        state.stateful_callbacks[name] = self.state()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Commit the step: the trainer's step counter has not grown yet."""
        self._seam.commit()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop when that was asked for: here the step is complete on all processes."""
        if self._seam.stopping:
            self._seam.stop_asked = self._seam.stopping = False
            control.should_save = control.should_training_stop = True
        if self._seam.progress is not None and self._seam.progress.fault:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say that a stream ended early: by now the last step is saved."""
        if self._seam.progress is not None and self._seam.progress.fault:
            raise DataError(self._seam.progress.fault)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Send rehearsal's metrics to every tracker, right after the trainer's own training log.

        By the `log` of transformers itself: that of a subclass, within which this runs, adds metrics of its own.
        """
        if logs and "loss" in logs:
            Trainer.log(self._seam.trainer, self._seam.loop.vitals().to_log())
