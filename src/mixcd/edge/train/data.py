"""The data of a run: opened and prepared as its task asks, some of them held out."""

from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, Trainer

from mixcd.edge.config.config import Config
from mixcd.edge.config.data_config import DataConfig, HeldOutConfig
from mixcd.edge.task_kind import TASK_KINDS
from mixcd.matter.model_shape.model_limits import count_positions, count_tokens, longest_input
from mixcd.matter.prior_and_new_data.data_source import open_data
from mixcd.matter.prior_and_new_data.preparation.preparation import require_inputs, split_held_out
from mixcd.matter.prior_and_new_data.prior_dataset import SOURCE_COLUMN
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.words.errors import DataError, shorten

_Parts = tuple[Dataset, Dataset | None]


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Args:
        held_out_new: Those held out; None when none are.
        prior: The prior data sets by name, in the config's order.
        held_out_prior: Their held-out rows; those of sets that hold none out are not there.
    """

    new: Dataset
    held_out_new: Dataset | None
    prior: dict[str, Dataset]
    held_out_prior: dict[str, Dataset]


def read_data(config: Config, model: PreTrainedModel, tokenizer: Any, seed: int) -> RunData:
    """Open and prepare all data of a config.

    Args:
        tokenizer: The model's; a call leaves its truncation in it.

    Returns:
        The data; rows that the trainer prepares itself are still raw.

    Raises:
        DataError: If data cannot be read or prepared.
    """
    reader = _Reader(config, model, tokenizer, seed)
    new, held_out_new = reader.read(config.new, "new")
    prior = {
        source.name or "prior": reader.read(source, f"prior.{number}") for number, source in enumerate(config.prior)
    }
    _require_columns(config, prior)
    held_out_prior = {name: held_out for name, (_, held_out) in prior.items() if held_out is not None}
    return RunData(new, held_out_new, {name: rows for name, (rows, _) in prior.items()}, held_out_prior)


def prepare_as_trainer(trainer: Trainer, model: PreTrainedModel, data: RunData) -> RunData:
    """Prepare the prior rows that are raw as the trainer has prepared the new ones; others are left as they are.

    Args:
        trainer: The trainer, built with the new data.

    Raises:
        DataError: If a row has no target left, or tokens that the model cannot take.
    """
    if "input_ids" in data.new.column_names:
        return data
    new: Any = trainer.train_dataset
    held_out_new: Any = trainer.eval_dataset
    places = {name: f"prior.{number}" for number, name in enumerate(data.prior)}
    prior, held_out_prior = (
        {name: prepare_raw(trainer, rows, f"{places[name]}.{part}") for name, rows in parts.items()}
        for part, parts in (("path", data.prior), ("held_out", data.held_out_prior))
    )
    _require_model_inputs(new, "new.path", model)
    for part, parts in (("path", prior), ("held_out", held_out_prior)):
        for name, rows in parts.items():
            _require_model_inputs(rows, f"{places[name]}.{part}", model)
    return replace(data, new=new, held_out_new=held_out_new, prior=prior, held_out_prior=held_out_prior)


def find_longest(config: Config, tokenizer: Any, model: PreTrainedModel) -> int | None:
    """Return the longest input: what the config says, else what tokenizer and model both take, when either says."""
    return config.model.max_length or longest_input(tokenizer, model)


@dataclass(frozen=True)
class _Reader:
    """Opens and prepares data as a config's task asks."""

    config: Config
    model: PreTrainedModel
    tokenizer: Any
    seed: int

    def read(self, source: DataConfig, place: str) -> _Parts:
        """Return the rows to train on, and those held out."""
        rows = self._open(source, source.path, source.split, source.subset, f"{place}.path")
        held_out = source.held_out
        if not isinstance(held_out, HeldOutConfig):
            return split_held_out(rows, held_out, seed=self.seed, name=f"{place}.path")
        path = held_out.path or source.path
        subset = held_out.subset if held_out.path or held_out.subset else source.subset
        return rows, self._open(source, path, held_out.split, subset, f"{place}.held_out")

    def _open(
        self, source: DataConfig, path: str | list[str], split: str | None, subset: str | None, name: str
    ) -> Dataset:
        opened = open_data(path, name=name, split=split, subset=subset)
        longest = find_longest(self.config, self.tokenizer, self.model)
        kind = TASK_KINDS[self.config.task]
        rows = kind.prepare(opened, name, source.columns, self.model, self.tokenizer, longest)
        if "input_ids" in rows.column_names:
            _require_model_inputs(rows, name, self.model)
        return rows


def _require_model_inputs(rows: Dataset, name: str, model: PreTrainedModel) -> None:
    require_inputs(rows, name=name, token_count=count_tokens(model), longest=count_positions(model))


def _require_columns(config: Config, prior: dict[str, _Parts]) -> None:
    """Refuse a partition by a column that some of the prior data lack, in the config's words."""
    wanted = dict.fromkeys(config.partition.column_names, "rehearsal.partition")
    stored = dict.fromkeys(config.rehearsal.cache_columns, "rehearsal.cache_columns")
    shown = dict.fromkeys(config.rehearsal.report_columns, "rehearsal.report_columns")
    for number, (rows, held_out) in enumerate(prior.values()):
        for data, place, columns in ((rows, "path", {**stored, **wanted}), (held_out, "held_out", {**shown, **wanted})):
            known = [] if data is None else [*data.column_names, *[SOURCE_COLUMN] * (len(prior) > 1)]
            missing = next((column for column in columns if data is not None and column not in known), None)
            if missing is not None:
                raise DataError(
                    f"`{columns[missing]}` names the column `{missing}`, but `prior.{number}.{place}` has "
                    f"{shorten((f'`{one}`' for one in known), 20)}. Name one of these, or add the column."
                )
