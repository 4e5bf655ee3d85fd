"""A sweep's task: all that its runs share, for one seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


@dataclass(frozen=True)
class SweepTask:
    """What every run of one seed starts from: one base model, the data of both tasks, the trainer's settings.

    Args:
        model: The base model. It is copied for every run, never trained itself.
        new: The new task's training rows, prepared.
        prior: The prior data, prepared in the same way.
        held_out_new: Rows of the new task that no run trains on. Half of them, in their order, is the
            validation half, which choices are made on; the rest is the test half, which is reported.
        held_out_prior: The same for the prior task.
        training: Settings of `TrainingArguments`, `max_steps` among them.
        collate_fn: The data collator; None for the trainer's own.
        processing_class: The tokenizer; None without one.
        callbacks: The trainer's callbacks, shared by all runs.
    """

    model: torch.nn.Module
    new: Any
    prior: Any
    held_out_new: Any
    held_out_prior: Any
    training: Mapping[str, Any] = field(default_factory=dict)
    collate_fn: Any = None
    processing_class: Any = None
    callbacks: Sequence[TrainerCallback] = ()


MakeTask = Callable[[int, Path], SweepTask]
"""Makes the task of one seed; base models and the like are kept in the folder, and found there again."""
