"""Rivals of mix-cd that change the loss or the weights instead of what is rehearsed; `mixcd sweep` builds them.

Each function makes a trainer of the task, the method's `trainer_settings` and what `transformers.Trainer` takes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional
from transformers import Trainer

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.matter.base_model.batched_inference import collate
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.attach import Rehearsal
from mixcd.run.trainer.trainer_support import collator_of
from mixcd.words.errors import SettingError
from mixcd.words.keyed_random import Stream, keyed_generator

Weights = dict[str, torch.Tensor]


class AnchoredTrainer(Trainer):
    """Adds ½ · strength · Σ importance · (θ − θ_f)² to the loss, over the weights that are trained.

    Args:
        strength: How much the penalty weighs.
        importance: One number a weight, by the parameter's name; 1 for those that are not named.
        arguments: What `transformers.Trainer` takes.
    """

    def __init__(self, strength: float, importance: Weights, arguments: dict[str, Any]) -> None:
        super().__init__(**arguments)
        self._strength = strength
        self._anchor = {name: weight.detach().clone() for name, weight in _trained(self.model)}
        self._importance = importance

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
        """Return the trainer's own loss with the penalty."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **rest)
        penalty = torch.zeros((), device=loss.device)
        for name, weight in _trained(model):
            change = (weight - self._anchor[name]).square()
            penalty = penalty + (change * self._importance.get(name, 1.0)).sum()
        loss = loss + self._strength / 2 * penalty
        return (loss, outputs) if return_outputs else loss


class DistillingTrainer(Trainer):
    """Adds strength · T² · KL(f ‖ f') on the rehearsed rows, from the base model's cached logits: no forward pass more.

    Args:
        strength: How much it weighs.
        temperature: T.
        arguments: What `transformers.Trainer` takes.
    """

    def __init__(self, strength: float, temperature: float, arguments: dict[str, Any]) -> None:
        super().__init__(**arguments)
        self.rehearsal: Rehearsal | None = None  # the sweep sets it after attaching
        self._strength = strength
        self._temperature = temperature

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
        """Return the trainer's own loss with the distance from the base model's predictions."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **rest)
        if self.rehearsal is None or "logits" not in self.rehearsal.predictions.arrays:
            raise SettingError(
                "Distillation needs the base model's logits of the rehearsed samples, but none are cached. Let the "
                "method rehearse, with `features = 64` or so: logits are cached with them."
            )
        sample_ids = self.rehearsal.batch_sample_ids
        rehearsed = sample_ids >= 0
        if rehearsed.any():
            cached = self.rehearsal.predictions.arrays["logits"][sample_ids[rehearsed].cpu().numpy()]
            base = torch.from_numpy(cached).to(loss.device).float() / self._temperature
            now = outputs.logits[rehearsed] / self._temperature
            distance = functional.kl_div(now.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="sum")
            loss = loss + self._strength * self._temperature**2 * distance / len(sample_ids)
        return (loss, outputs) if return_outputs else loss


def make_l2_sp_trainer(task: SweepTask, settings: Mapping[str, Any], arguments: dict[str, Any]) -> Trainer:
    """L2-SP (Li et al. 2018): a pull back to the base model's weights. Setting: `strength`."""
    del task
    return AnchoredTrainer(settings["strength"], {}, arguments)


def make_ewc_trainer(task: SweepTask, settings: Mapping[str, Any], arguments: dict[str, Any]) -> Trainer:
    """EWC (Kirkpatrick et al. 2017): the same, each weight as its diagonal Fisher information on prior samples says.

    Settings: `strength`; `sample_count` prior samples, whose gradients are computed once before training.
    """
    trainer = AnchoredTrainer(settings["strength"], {}, arguments)
    trainer._importance = _estimate_fisher(trainer, task, settings.get("sample_count", 500))
    return trainer


def make_distilling_trainer(task: SweepTask, settings: Mapping[str, Any], arguments: dict[str, Any]) -> Trainer:
    """Distillation on the rehearsed samples (as in LwF and DER++). Settings: `strength`, `temperature`."""
    del task
    return DistillingTrainer(settings["strength"], settings.get("temperature", 2.0), arguments)


def make_lora_trainer(task: SweepTask, settings: Mapping[str, Any], arguments: dict[str, Any]) -> Trainer:
    """LoRA (Hu et al. 2022) by PEFT. Settings: `rank`, `target_modules`, `modules_to_save`."""
    from peft import LoraConfig, get_peft_model

    del task
    config = LoraConfig(
        r=settings["rank"],
        lora_alpha=2 * settings["rank"],
        target_modules=settings["target_modules"],
        modules_to_save=settings.get("modules_to_save"),
    )
    return Trainer(**{**arguments, "model": get_peft_model(arguments["model"], config)})


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def _estimate_fisher(trainer: Trainer, task: SweepTask, sample_count: int) -> Weights:
    """The mean squared gradient of each weight over prior samples, drawn by the seed."""
    model: Any = trainer.model
    prior = PriorDataset(task.prior)
    rng = keyed_generator(trainer.args.seed, 0, Stream.CONTROLS)
    chosen = rng.choice(len(prior), min(sample_count, len(prior)), replace=False)
    fisher = {name: torch.zeros_like(weight) for name, weight in _trained(model)}
    collate_fn = collator_of(trainer, prior)
    model.eval()
    for row in prior.rows(chosen.tolist()):
        model.zero_grad()
        batch = trainer._prepare_inputs(dict(collate(collate_fn, [row])))
        model(**batch).loss.backward()
        for name, weight in _trained(model):
            if weight.grad is not None:
                fisher[name] += weight.grad.square() / chosen.size
    model.zero_grad()
    model.train()
    return fisher
