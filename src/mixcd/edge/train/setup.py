"""Building what a config asks for: data, model, tokenizer, trainer."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedModel, Trainer, TrainingArguments, get_scheduler

from mixcd.edge.config.config import Config, RehearsalConfig, parse_correctness
from mixcd.edge.model.adapter import add_adapter
from mixcd.edge.model.loading import load_model, load_tokenizer
from mixcd.edge.model.model_place import reason_of
from mixcd.edge.task_kind import TASK_KINDS
from mixcd.edge.train.data import RunData, find_longest, prepare_as_trainer, read_data
from mixcd.matter.correctness import CorrectnessRule, RightTokens
from mixcd.words.errors import RehearsalError, SettingError


@dataclass(frozen=True)
class RunSetup:
    """What a config asked for.

    Args:
        trainer: The trainer, with the base model and the new data.
        prior: Prepared prior data; by name when there are several.
        held_out_prior: Prepared held-out prior data, likewise; None when nothing is held out.
        draw_seed: The seed of the draws and of the held-out split.
        correctness: When a prediction is right; None for what the model is made for.
    """

    trainer: Trainer
    prior: Any
    held_out_prior: Any
    draw_seed: int
    correctness: CorrectnessRule | None


def set_up(config: Config, arguments: TrainingArguments) -> RunSetup:
    """Build data, model, tokenizer and trainer; nothing is written to the run folder.

    Raises:
        SettingError: If the model or tokenizer cannot be loaded, or are not the task's.
        DataError: If data cannot be read or prepared.
    """
    kind = TASK_KINDS[config.task]
    model = load_model(config, config.model.path)
    tokenizer = load_tokenizer(config.model, can_pad_by_end=kind.can_pad_by_end)
    seeds = (config.rehearsal.seed, arguments.data_seed, arguments.seed)
    draw_seed = next(seed for seed in seeds if seed is not None)
    with arguments.main_process_first(local=True, desc="preparing the data"):
        read = read_data(config, model, deepcopy(tokenizer), draw_seed)  # the tokenizer that is saved truncates nothing
    _limit_length(arguments, config, find_longest(config, tokenizer, model))
    trainer = _build_trainer(config, arguments, _adapt(config, model, arguments), tokenizer, read)
    with _refusing(config, "prepare the data"):
        data = prepare_as_trainer(trainer, model, read)
    return RunSetup(
        trainer=trainer,
        prior=_join(config, data.prior),
        held_out_prior=_join(config, data.held_out_prior),
        draw_seed=draw_seed,
        correctness=_choose_rule(config.rehearsal),
    )


def load_base(config: Config, arguments: TrainingArguments) -> Any:
    """Load the base model as it is to be trained, with a fresh adapter if the config has one.

    Raises:
        SettingError: If it cannot be loaded or adapted.
    """
    return _adapt(config, load_model(config, config.model.path), arguments)


def _adapt(config: Config, model: PreTrainedModel, arguments: TrainingArguments) -> Any:
    if config.adapter is None:
        return model
    return add_adapter(config.adapter, TASK_KINDS[config.task], model, arguments)


def _build_trainer(config: Config, arguments: TrainingArguments, model: Any, tokenizer: Any, data: RunData) -> Trainer:
    kind = TASK_KINDS[config.task]
    with _refusing(config, "build a Trainer"), _leaving_no_folder(config.run_folder / "checkpoints"):
        trainer = kind.trainer_class()(
            model=model,
            args=arguments,
            train_dataset=data.new,
            eval_dataset=data.held_out_new,
            processing_class=tokenizer,
            data_collator=kind.make_collator(tokenizer, model),
        )
    with _refusing(config, "build the optimizer"):
        _try_optimizer(arguments, model)
    return trainer


@contextmanager
def _refusing(config: Config, what: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, OSError, RehearsalError):  # the disk, not the arguments
        raise
    except Exception as error:  # transformers checks its arguments in many places, each in its own way
        owner, wrong = ("TRL", ", or the data") if config.task == "text-generation" else ("transformers", "")
        raise SettingError(
            f"{owner} refuses to {what}: {reason_of(error)} Correct the config's `training`{wrong}."
        ) from error


def _try_optimizer(arguments: TrainingArguments, model: PreTrainedModel) -> None:
    """Raise now what transformers would raise after the prior pass."""
    Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    choices: Any = arguments.lr_scheduler_kwargs
    get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]),
        num_warmup_steps=0,
        num_training_steps=1,
        scheduler_specific_kwargs=choices,
    )


@contextmanager
def _leaving_no_folder(folder: Path) -> Iterator[None]:
    """Remove the empty folders that a Trainer makes when it is built: the run begins later, if at all."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _limit_length(arguments: TrainingArguments, config: Config, longest: int | None) -> None:
    """Shorten what the trainer itself cuts to what the model takes, unless the config says how long it is to be."""
    length = getattr(arguments, "max_length", None)
    if length is not None and longest is not None and config.model.max_length is None:
        vars(arguments)["max_length"] = min(length, longest)


def _choose_rule(config: RehearsalConfig) -> CorrectnessRule | None:
    if config.correctness is not None:
        return cast(CorrectnessRule, parse_correctness(config.correctness))
    if config.least_share is None and config.loss_tolerance is None:
        return None
    return RightTokens(least_share=config.least_share or 1.0, loss_tolerance=config.loss_tolerance)


def _join(config: Config, named: dict[str, Dataset]) -> Any:
    """One prior data set alone, several by name; None when there are none."""
    return (named if len(config.prior) > 1 else next(iter(named.values()))) if named else None
