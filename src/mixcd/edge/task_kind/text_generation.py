"""`TextGeneration`: a causal language model, tuned on conversations, prompts with completions, or texts."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from mixcd.edge.config.config import Config
from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.edge.task_kind.task_kind import TaskKind
from mixcd.matter.prior_and_new_data.preparation.preparation import is_text, require_texts, write_rows
from mixcd.words.errors import DataError, SettingError, shorten

FORMATS = (("messages",), ("prompt", "completion"), ("text",))
"""The columns that TRL's `SFTTrainer` reads, one format a data set."""


@dataclass(frozen=True)
class TextGeneration(TaskKind):
    """Trained by TRL's `SFTTrainer`, which prepares the rows itself; TRL need not be installed for other tasks."""

    model_class: ClassVar[Any] = AutoModelForCausalLM
    adapter_type: ClassVar[str] = "CAUSAL_LM"
    can_pad_by_end: ClassVar[bool] = True
    own_arguments: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "chat_template_path": "the tokenizer brings its template, so leave it out",
            "max_length": "set `model.max_length`",
            "model_init_kwargs": "the model is loaded already, so leave it out",
        }
    )

    def prepare(
        self, data: Dataset, name: str, columns: ColumnsConfig, model: PreTrainedModel, tokenizer: Any, max_length: Any
    ) -> Dataset:
        """Check that TRL can read the rows; they stay raw, in a file of our own: TRL writes beside what it reads."""
        if "input_ids" in data.column_names:
            return data
        read = _find_format(data, name)
        for column in read:
            if is_text(data.features[column]):
                require_texts(data, column, name)
            elif getattr(tokenizer, "chat_template", None) is None:
                raise DataError(
                    f"`{name}` has conversations in its column `{column}`, but the tokenizer "
                    f"`{getattr(tokenizer, 'name_or_path', '')}` has no chat template to write them with. Save one "
                    "there as `chat_template.jinja`, take the tokenizer of a chat model, or give texts."
                )
        return write_rows(data, dict, ("raw",), features=data.features)

    def arguments_class(self) -> type[TrainingArguments]:
        """Return TRL's."""
        return cast(type[TrainingArguments], import_trl().SFTConfig)

    def default_arguments(self, config: Config) -> Mapping[str, Any]:
        """Return the longest input, if it is said; and no 16-bit floats where there is no GPU that has them."""
        is_said = config.model.max_length is not None or config.training.get("padding_free")  # which cuts nothing
        length = {"max_length": config.model.max_length} if is_said else {}
        return length if _has_short_floats(config.training) else {**length, "bf16": False}

    def trainer_class(self) -> type[Trainer]:
        """Return TRL's."""
        return cast(type[Trainer], import_trl().SFTTrainer)

    def make_collator(self, tokenizer: Any, model: PreTrainedModel) -> Any:
        """Return None: TRL's own is made by the trainer."""


def import_trl() -> Any:
    """Import TRL, which is needed for text generation alone.

    Raises:
        SettingError: If it is not installed.
    """
    try:
        return importlib.import_module("trl")
    except ImportError as error:
        raise SettingError(
            "Text generation (`text-generation`) is prepared and trained by TRL's `SFTTrainer`, but the package `trl` "
            f"cannot be imported: {' '.join(str(error).split()).rstrip('.')}. Run `pip install trl`."
        ) from error


def _has_short_floats(training: Mapping[str, Any]) -> bool:
    if training.get("use_cpu") or not torch.cuda.is_available():
        return False
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _find_format(data: Dataset, name: str) -> tuple[str, ...]:
    found = [one for one in FORMATS if {*one} & {*data.column_names}]
    if len(found) == 1 and {*found[0]} <= {*data.column_names}:
        return found[0]
    formats = "; ".join(" and ".join(f"`{column}`" for column in one) for one in FORMATS)
    raise DataError(
        f"`{name}` has the columns {shorten((f'`{one}`' for one in data.column_names), 20)}, but TRL reads one of "
        f"these formats: {formats}. Rename the columns, or leave those of another format out."
    )
