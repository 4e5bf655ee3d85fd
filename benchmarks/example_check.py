"""Watches from outside what a training run with rehearsal does, and writes it to `check.json` at its end."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from mixcd.run.trainer.attach import Rehearsal


class Watch(TrainerCallback):
    """Counts the model's forward passes in training, and rows and prior rows of each; tokens where rows are packed.

    Args:
        trainer: The trainer.
        rehearsal: What `mixcd.attach` returned for it.
    """

    def __init__(self, trainer: Trainer, rehearsal: Rehearsal) -> None:
        self._model = trainer.model
        self._rehearsal = rehearsal
        self._passes: list[tuple[int, int]] = []
        self._steps: list[list[tuple[int, int]]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Watch the model."""
        self._hook = self._model.register_forward_pre_hook(self._count, with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the step's list of forward passes."""
        self._steps.append(self._passes)
        self._passes = []

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what was seen."""
        self._hook.remove()
        counts = self._rehearsal.counts
        seen = {
            "steps": self._steps,
            "forward_count": self._rehearsal.forward_count,
            "observed": int(counts.observed_count.sum()),
            "damaged": round(float(counts.damaged_count.sum()), 2),
            "base_right": float(self._rehearsal.predictions.base_correct.mean()),
        }
        Path("check.json").write_text(json.dumps(seen), "utf-8")

    def _count(self, model: torch.nn.Module, arguments: Any, inputs: Any) -> None:
        if model.training and torch.is_grad_enabled():
            is_prior = self._rehearsal.batch_sample_ids >= 0
            starts = inputs.get("cu_seq_lens_q")  # of samples that share a row, whose tokens count then
            if starts is not None:
                counts = starts.diff()
                self._passes.append((int(counts.sum()), int(counts[is_prior].sum())))
            else:
                rows = next(value for value in inputs.values() if isinstance(value, torch.Tensor))
                self._passes.append((len(rows), int(is_prior.sum())))
