"""The seam to `transformers.Trainer`: two methods shadowed on one instance, and one callback."""

import math
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.ideas.probe import Probe
from mixcd.matter.base_model.batched_inference import collate
from mixcd.matter.base_model.model_fingerprint import fingerprint_batch, fingerprint_model
from mixcd.matter.base_model.prior_predictions import PREPROCESSING_ROWS, PriorPredictions
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.fine_tuned_model.mixed_batch import SAMPLE_IDS, MixedDataset, TaggingCollator
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.rehearsal_loop.plan_sampler import PlanSampler
from mixcd.run.rehearsal_loop.rehearsal_loop import Learnt, RehearsalLoop, choose_lag
from mixcd.run.rehearsal_loop.shared_arrays import broadcast_arrays
from mixcd.run.rehearsal_loop.step_learner import StepLearner
from mixcd.run.trainer.trainer_predictions import aligned_model, inference_of
from mixcd.run.trainer.trainer_support import SHADOWED, collator_of
from mixcd.words.errors import PlanError, ResumeError, UnsupportedTrainerError, shorten
from mixcd.words.vocabulary import Belief

_MISSING = (
    "A step trained on {planned} planned rows, but its forward passes showed {seen}. Every planned row must reach the "
    "model once. Check that `training_step`, `compute_loss` and the model keep the rows of a batch together."
)


class TrainerSeam:
    """Feeds a trainer the planned rows, and returns what its forward passes reveal.

    Building it checks that the trainer can be followed; nothing changes before `install`, only this
    trainer instance changes then, and `detach` puts everything back.

    Args:
        trainer: The trainer.
        prior: The prior data, prepared as the trainer's own.
        rule: Says which samples are right.
        mix_ratio: β.
        seed: The seed of the draws.
        lag: The lag asked for, or None.
        probe: Extra inference while training, or None.

    Raises:
        SettingError: If the mix ratio or the lag does not fit the trainer's batch and data loader.
        UnsupportedTrainerError: If its data loader draws in a way that rehearsal cannot follow.
    """

    def __init__(
        self,
        trainer: Trainer,
        prior: PriorDataset,
        rule: CorrectnessRule,
        *,
        mix_ratio: float,
        seed: int,
        lag: int | None,
        probe: Probe | None = None,
    ) -> None:
        self.batch_sample_ids = torch.zeros(0, dtype=torch.int64)
        self._stop_asked = self._stopping = False
        self._learnt: tuple[Learnt, torch.Tensor] | None = None
        self._probe = probe
        self._trainer = trainer
        self._mix_ratio = mix_ratio
        self._seed = seed
        self._new_data: Any = trainer.train_dataset
        self._mixed_data = MixedDataset(self._new_data, prior)
        self._prior = prior
        self._rule = rule
        self._prior_count = len(prior)
        self._make_loader = trainer.get_train_dataloader
        self._step = trainer.training_step
        choose_lag(lag, self._look_ahead())
        loader = self._make_mixed_loader()
        self._require_plain_loader(loader, self._plan())
        self._require_same_inputs(getattr(loader, "base_dataloader", loader).collate_fn)

    def install(self, loop: RehearsalLoop, predictions: PriorPredictions) -> None:
        """Make the trainer rehearse.

        Args:
            loop: Plans its steps and learns from them.
            predictions: The base model's predictions on the prior data.
        """
        self._loop = loop
        self.learner = StepLearner(
            loop,
            self._rule,
            predictions,
            probe=self._probe,
            infer_prior=lambda: inference_of(self._trainer, self._prior, self._rule),
            accelerator=self._trainer.accelerator,
            missing=_MISSING,
        )
        self._sampler = PlanSampler(loop)
        self._callback = RehearsalCallback(self._trainer, loop, self)
        loop.shape(self._plan(), self._look_ahead())
        setattr(self._trainer, "get_train_dataloader", self.get_train_dataloader)  # noqa: B010
        setattr(self._trainer, "training_step", self.training_step)  # noqa: B010
        self._trainer.add_callback(self._callback)

    def detach(self) -> None:
        """Give the trainer its own methods back."""
        for name in SHADOWED:
            vars(self._trainer).pop(name, None)
        self._trainer.remove_callback(self._callback)

    def ask_to_stop(self) -> None:
        """Let training stop after the step in progress, with a checkpoint; the first process decides for all."""
        self._stop_asked = True

    def take_stop(self) -> bool:
        """Whether training is to stop now; the wish is granted once."""
        stopping = self._stopping
        if stopping:
            self._stop_asked = self._stopping = False
        return stopping

    def get_train_dataloader(self) -> Any:
        """Return the trainer's own loader, over the mixed data in the planned order."""
        if self._trainer.train_dataset is not self._new_data:
            raise UnsupportedTrainerError(
                "`trainer.train_dataset` was replaced after `attach`, which planned for the data set of before. "
                "Rehearsal mixes into the data it was attached with. `detach()`, then attach again."
            )
        plan = self._plan()
        self._loop.shape(plan, self._look_ahead())
        loader = self._make_mixed_loader()
        batches = self._require_plain_loader(loader, plan)
        if hasattr(loader, "set_sampler"):
            loader.set_sampler(self._sampler)
        else:
            batches.sampler = self._sampler
        shard = getattr(loader, "base_dataloader", loader)
        shard.collate_fn = TaggingCollator(shard.collate_fn)
        return loader

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any, **named: Any) -> torch.Tensor:
        """Run the trainer's own training step, read predictions off its forward pass, and learn from the last one."""
        if SAMPLE_IDS not in inputs:
            raise PlanError(
                "A batch reached `training_step` without sample ids, so it did not come from this trainer's training "
                "loader as rehearsal made it. Let the trainer draw its own batches, or `detach()` first."
            )
        sample_ids = inputs.pop(SAMPLE_IDS)
        self.batch_sample_ids = sample_ids
        with self.learner.observer.watch(model, sample_ids, inputs):
            loss = self._step(model, inputs, *rest, **named)
        if self._is_on_gpu and self._probe is None and self._trainer.accelerator.sync_gradients:
            self._learnt = self.learner.learn(self._share_belief)  # while the GPU is still busy with the gradients
        return loss

    def begin(self, steps_done: int, stored: Any, ignore_data_skip: bool) -> None:
        """Start or resume: forget what was learnt, or take it over from the checkpoint."""
        self.learner.reset()
        self._learnt = None
        self._sampler.skipped_steps = 0
        self._loop.reset()
        if self._trainer.model_init is not None and not steps_done:
            self._require_base_model()
        if steps_done:
            self._loop.restore(stored, steps_done)
            if not ignore_data_skip:
                self._sampler.skipped_steps = steps_done % self._loop.plan.steps_per_epoch

    def commit(self) -> None:
        """Complete a step: what its last training step learnt counts from here on, or is learnt now after a probe."""
        learnt, self._learnt = self._learnt or self.learner.learn(self._share_belief), None
        self.learner.adopt(*learnt)

    @property
    def _is_on_gpu(self) -> bool:
        """Whether the processor has time while gradients are computed; it learns after the step otherwise."""
        return self._trainer.args.device.type != "cpu"

    def _require_base_model(self) -> None:
        batch = collate(
            collator_of(self._trainer, self._prior), self._prior.rows(range(self._prior_count)[:PREPROCESSING_ROWS])
        )
        found = fingerprint_model(
            aligned_model(self._trainer), self._rule, batch, min(self._prior_count, PREPROCESSING_ROWS)
        )
        if found["model"] != self._loop.sources["model"]:
            raise UnsupportedTrainerError(
                "`model_init` built another model for `train()` than the base model that predicted the prior data. "
                "Damage is counted against the base model. Let `model_init` return the same weights every time, or "
                "pass `model=` instead."
            )

    def _share_belief(self, belief: Belief) -> Belief:
        """Return the first process's belief, and learn whether it was asked to stop."""
        asked = np.array([float(self._stop_asked)])
        *first, stop_asked = broadcast_arrays(self._trainer.accelerator, (*belief, asked))
        self._stopping = bool(stop_asked[0])
        return tuple(first)

    def _plan(self) -> BatchPlan:
        trainer, args = self._trainer, self._trainer.args
        replicas = args.world_size // trainer.get_tp_size()
        micro_batch_count = replicas * args.gradient_accumulation_steps
        return BatchPlan(
            new_count=len(self._new_data),
            prior_count=self._prior_count,
            mix_ratio=self._mix_ratio,
            micro_batch_size=trainer.get_total_train_batch_size(args) // micro_batch_count,
            micro_batch_count=micro_batch_count,
            seed=self._seed,
        )

    def _look_ahead(self) -> int:
        args = self._trainer.args
        read_ahead = 1 + args.dataloader_num_workers * (args.dataloader_prefetch_factor or 2)  # batches
        return math.ceil(read_ahead / args.gradient_accumulation_steps)

    def _make_mixed_loader(self) -> Any:
        self._trainer.train_dataset = self._mixed_data
        try:
            return self._make_loader()
        finally:
            self._trainer.train_dataset = self._new_data

    def _require_same_inputs(self, collate_fn: Any) -> None:
        """Refuse a training loader that makes other batches of the same rows than evaluation does."""
        rows = self._prior.rows(range(self._prior_count)[:PREPROCESSING_ROWS])
        trained, again = collate(collate_fn, rows), collate(collate_fn, rows)
        judged = collate(collator_of(self._trainer, self._prior), rows)
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
        owner = next(kind for kind in type(self._trainer).__mro__ if "get_train_dataloader" in vars(kind))
        raise UnsupportedTrainerError(
            f"The training loader of `{owner.__name__}` {fault}. Rehearsal replaces the order in which "
            "`trainer.train_dataset` is drawn, so the loader must draw it uniformly, each row once an epoch. Return "
            "the loader of `Trainer.get_train_dataloader`, or weigh samples by a `partition` instead."
        )


def _print_of(batch: Any, name: str) -> str:
    return fingerprint_batch({name: batch.get(name)})


class RehearsalCallback(TrainerCallback, ExportableState):
    """Starts, commits, logs and saves rehearsal at the trainer's own events.

    Args:
        trainer: The trainer.
        loop: Plans the steps and learns from them.
        seam: The seam that feeds the trainer.
    """

    def __init__(self, trainer: Trainer, loop: RehearsalLoop, seam: TrainerSeam) -> None:
        self._trainer = trainer
        self._loop = loop
        self._seam = seam

    def state(self) -> dict[str, Any]:
        """Return what the trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {**self._loop.to_json(), "processes": self._trainer.args.world_size}}

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
        if self._seam.take_stop():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Send rehearsal's metrics to every tracker, right after the trainer's own training log.

        By the `log` of transformers itself: that of a subclass, within which this runs, adds metrics of its own.
        """
        if logs and "loss" in logs:
            Trainer.log(self._trainer, self._loop.vitals().to_log())
