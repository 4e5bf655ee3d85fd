"""Building what a config asks for: data, model, tokenizer, trainer."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    get_scheduler,
)

from mixcd.config import Config, DataConfig, HeldOutConfig
from mixcd.correctness_rule.right_class import require_known_labels
from mixcd.data_preparation import LABEL, ColumnNames, prepare_rows, require_inputs, split_held_out
from mixcd.data_source import open_data
from mixcd.errors import DataError, SettingError, shorten
from mixcd.label_names import number_labels
from mixcd.model_limits import count_positions, count_tokens, longest_input
from mixcd.model_loading import load_model, load_tokenizer, reason_of
from mixcd.prior_dataset import SOURCE_COLUMN


@dataclass(frozen=True)
class RunSetup:
    """What a config asked for.

    Args:
        trainer: The trainer, with the base model and the new data.
        prior: Prepared prior data; by name when there are several.
        held_out_prior: Prepared held-out prior data, likewise; None when nothing is held out.
        draw_seed: The seed of the draws and of the held-out split.
    """

    trainer: Trainer
    prior: Any
    held_out_prior: Any
    draw_seed: int


def set_up(config: Config, arguments: TrainingArguments) -> RunSetup:
    """Build data, model, tokenizer and trainer; nothing is written to the run folder.

    Args:
        config: The config.
        arguments: Its TrainingArguments.

    Returns:
        What was built.

    Raises:
        SettingError: If the model or tokenizer cannot be loaded, or is no classifier.
        DataError: If data cannot be read or prepared.
    """
    model = load_model(config.model, config.model.path)
    tokenizer = load_tokenizer(config.model)
    draw_seed = _first(config.rehearsal.seed, arguments.data_seed, arguments.seed)
    max_length = _first(config.model.max_length, longest_input(tokenizer, model))
    tokenizing = deepcopy(tokenizer)  # a call leaves its truncation in the tokenizer; the one that is saved has none

    def prepare(source: DataConfig, place: str, number: int) -> tuple[Dataset, Dataset | None]:
        return _prepare(source, place, number, model, tokenizing, max_length, draw_seed)

    with arguments.main_process_first(local=True, desc="preparing the data"):
        new, held_out_new = prepare(config.new, "new", 0)
        prior = {
            source.name or "prior": prepare(source, f"prior.{number}", number + 1)
            for number, source in enumerate(config.prior)
        }
    _require_columns(config, prior)
    with _refusing("build a Trainer"), _leaving_no_folder(config.run_folder / "checkpoints"):
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=new,
            eval_dataset=held_out_new,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
    with _refusing("build the optimizer"):
        _try_optimizer(arguments, model)
    held_out_prior = {name: held_out for name, (_, held_out) in prior.items() if held_out is not None}
    return RunSetup(
        trainer=trainer,
        prior=_only({name: rows for name, (rows, _) in prior.items()}),
        held_out_prior=_only(held_out_prior) if held_out_prior else None,
        draw_seed=draw_seed,
    )


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, OSError):  # the disk, not the arguments
        raise
    except Exception as error:  # transformers checks its arguments in many places, each in its own way
        raise SettingError(
            f"transformers refuses to {what}: {reason_of(error)} Correct the config's `training`."
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


def _require_columns(config: Config, prior: dict[str, tuple[Dataset, Dataset | None]]) -> None:
    """Refuse a partition by a column that some of the prior data lack, in the config's words."""
    wanted = dict.fromkeys(config.partition.column_names, "rehearsal.partition")
    stored = dict.fromkeys(config.rehearsal.cache_columns, "rehearsal.cache_columns")
    for number, (rows, held_out) in enumerate(prior.values()):
        for data, place, columns in ((rows, "path", {**stored, **wanted}), (held_out, "held_out", wanted)):
            known = [] if data is None else [*data.column_names, *[SOURCE_COLUMN] * (len(prior) > 1)]
            missing = next((column for column in columns if data is not None and column not in known), None)
            if missing is not None:
                raise DataError(
                    f"`{columns[missing]}` names the column `{missing}`, but `prior.{number}.{place}` has "
                    f"{shorten((f'`{one}`' for one in known), 20)}. Name one of these, or add the column."
                )


def _prepare(
    source: DataConfig,
    place: str,
    number: int,
    model: PreTrainedModel,
    tokenizer: Any,
    max_length: int | None,
    seed: int,
) -> tuple[Dataset, Dataset | None]:
    """Open and prepare one data set: the rows to train on, and those held out."""

    def open_rows(path: str | list[str], split: str | None, subset: str | None, name: str) -> Dataset:
        label_ids = number_labels(model.config)
        class_count: Any = model.config.num_labels
        rows = prepare_rows(
            open_data(path, name=name, split=split, subset=subset),
            name=name,
            columns=ColumnNames(**source.columns.model_dump()),
            label_ids=label_ids,
            tokenizer=tokenizer,
            max_length=max_length,
        )
        labels = np.asarray(rows.with_format("numpy")[LABEL][:])
        require_known_labels(labels, np.arange(len(rows)), class_count, name)
        require_inputs(rows, name=name, token_count=count_tokens(model), longest=count_positions(model))
        return rows

    rows = open_rows(source.path, source.split, source.subset, f"{place}.path")
    held_out = source.held_out
    if not isinstance(held_out, HeldOutConfig):
        return split_held_out(rows, held_out, seed=seed, number=number, name=f"{place}.path")
    path = held_out.path or source.path
    subset = held_out.subset if held_out.path or held_out.subset else source.subset
    return rows, open_rows(path, held_out.split, subset, f"{place}.held_out")


def _only(named: dict[str, Dataset]) -> Any:
    """One data set alone, several by name."""
    return named if len(named) > 1 else next(iter(named.values()))


def _first(*values: int | None) -> Any:
    return next((value for value in values if value is not None), None)
