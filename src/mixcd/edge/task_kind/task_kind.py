"""`TaskKind`: what `mixcd train` needs to know of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedModel, Trainer, TrainingArguments

from mixcd.edge.config.config import Config
from mixcd.edge.config.data_config import ColumnsConfig


class TaskKind(ABC):
    """A task: how its models are loaded, its rows prepared, and what trains them: `Trainer` where it says no other."""

    model_class: ClassVar[Any]
    """The class of transformers that loads its models."""
    adapter_type: ClassVar[str]
    """What PEFT calls the task: it then trains a head whole, beside the adapter."""
    can_pad_by_end: ClassVar[bool] = False
    """Whether the trainer pads with the token of a text's end, where the tokenizer has none to pad with."""
    own_arguments: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Arguments that the config's `training` may not set, and what to do instead."""

    def require_model(self, model: PreTrainedModel, path: object) -> None:  # noqa: B027
        """Refuse, by a `SettingError`, a model of the right class that is none of the task's."""

    @abstractmethod
    def prepare(
        self, data: Dataset, name: str, columns: ColumnsConfig, model: PreTrainedModel, tokenizer: Any, max_length: Any
    ) -> Dataset:
        """Return rows as the trainer takes them, with all other columns kept; a `DataError` if they are not to be."""

    def arguments_class(self) -> type[TrainingArguments]:
        """Return the class of the trainer's arguments; a `SettingError` if a package is missing."""
        return TrainingArguments

    def default_arguments(self, config: Config) -> Mapping[str, Any]:
        """Return the arguments that the task has where the config's `training` says nothing."""
        return {}

    def trainer_class(self) -> type[Trainer]:
        """Return the class of the trainer; a `SettingError` if a package is missing."""
        return Trainer

    def make_collator(self, tokenizer: Any, model: PreTrainedModel) -> Any:
        """Return the data collator, by default one that pads; None for the trainer's own."""
        return DataCollatorWithPadding(tokenizer)
