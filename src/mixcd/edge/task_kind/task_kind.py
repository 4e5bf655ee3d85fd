"""`TaskKind`: what `mixcd train` needs to know of a task."""

from collections.abc import Mapping
from typing import Any, Protocol

from datasets import Dataset
from transformers import PreTrainedModel, Trainer, TrainingArguments

from mixcd.edge.config.config import Config
from mixcd.edge.config.data_config import ColumnsConfig


class TaskKind(Protocol):
    """A task: how its models are loaded, its rows prepared, and what trains them."""

    @property
    def model_class(self) -> Any:
        """The class of transformers that loads its models."""

    @property
    def adapter_type(self) -> str:
        """What PEFT calls the task: it then trains a head whole, beside the adapter."""

    @property
    def can_pad_by_end(self) -> bool:
        """Whether the trainer pads with the token of a text's end, where the tokenizer has none to pad with."""

    @property
    def own_arguments(self) -> Mapping[str, str]:
        """Arguments that the config's `training` may not set, and what to do instead."""

    def require_model(self, model: PreTrainedModel, path: object) -> None:
        """Refuse, by a `SettingError`, a model of the right class that is none of the task's."""

    def prepare(
        self, data: Dataset, name: str, columns: ColumnsConfig, model: PreTrainedModel, tokenizer: Any, max_length: Any
    ) -> Dataset:
        """Return rows as the trainer takes them, with all other columns kept; a `DataError` if they are not to be."""

    def arguments_class(self) -> type[TrainingArguments]:
        """Return the class of the trainer's arguments; a `SettingError` if a package is missing."""

    def default_arguments(self, config: Config) -> Mapping[str, Any]:
        """Return the arguments that the task has where the config's `training` says nothing."""

    def trainer_class(self) -> type[Trainer]:
        """Return the class of the trainer; a `SettingError` if a package is missing."""

    def make_collator(self, tokenizer: Any, model: PreTrainedModel) -> Any:
        """Return the data collator; None for the trainer's own."""
