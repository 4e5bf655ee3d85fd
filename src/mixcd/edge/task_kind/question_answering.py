"""`QuestionAnswering`: the answer is a span of the context, as in SQuAD."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from mixcd.edge.config.config import Config
from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.matter.prior_and_new_data.preparation.spans import SpanColumns, prepare_spans


@dataclass(frozen=True)
class QuestionAnswering:
    """Trained by `Trainer`; the first answer is the gold one."""

    model_class: ClassVar[Any] = AutoModelForQuestionAnswering
    adapter_type: ClassVar[str] = "QUESTION_ANS"
    can_pad_by_end: ClassVar[bool] = False
    own_arguments: ClassVar[Mapping[str, str]] = {}

    def require_model(self, model: PreTrainedModel, path: object) -> None:
        """Refuse nothing more."""

    def prepare(
        self, data: Dataset, name: str, columns: ColumnsConfig, model: PreTrainedModel, tokenizer: Any, max_length: Any
    ) -> Dataset:
        """Tokenise questions with their contexts, and find the answers' tokens."""
        del model
        named = SpanColumns(columns.question, columns.context, columns.answers)
        return prepare_spans(data, name=name, columns=named, tokenizer=tokenizer, max_length=max_length)

    def arguments_class(self) -> type[TrainingArguments]:
        """Return transformers' own."""
        return TrainingArguments

    def default_arguments(self, config: Config) -> Mapping[str, Any]:
        """Return none."""
        del config
        return {}

    def trainer_class(self) -> type[Trainer]:
        """Return transformers' own."""
        return Trainer

    def make_collator(self, tokenizer: Any, model: PreTrainedModel) -> Any:
        """Return one that pads."""
        del model
        return DataCollatorWithPadding(tokenizer)
