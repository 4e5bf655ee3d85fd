"""A sweep's task: all that its runs share, for one seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from mixcd.matter.correctness import CorrectnessRule


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
        correctness: When a prediction is right; None for what the model is made for.
        measure: Measures a model by more than accuracy, on the test halves: returns `prior_NAME` and `new_NAME` of
            each measure, numbers where more is better. None for accuracy alone.
        make_trainer: Makes the trainer of every run whose method names none; None for one of `trainer_class`.
        trainer_class: The class of trainers that are made so.
        arguments_class: The class that `training` are settings of.
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
    correctness: CorrectnessRule | None = None
    measure: Callable[[torch.nn.Module], Mapping[str, float]] | None = None
    make_trainer: "MakeTrainer | None" = None
    trainer_class: type[Trainer] = Trainer
    arguments_class: type[TrainingArguments] = TrainingArguments


MakeTrainer = Callable[[SweepTask, Mapping[str, Any], dict[str, Any]], Trainer]
"""Makes a trainer of the task, the method's `trainer_settings` and the arguments of `transformers.Trainer`."""

MakeTask = Callable[[int, Path], SweepTask]
"""Makes the task of one seed; base models and the like are kept in the folder, and found there again."""
