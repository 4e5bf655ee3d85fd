"""`QuestionAnswering`: the answer is a span of the context, as in SQuAD."""

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.edge.task_kind.task_kind import TaskKind
from mixcd.matter.prior_and_new_data.preparation.spans import SpanColumns, prepare_spans


@dataclass(frozen=True)
class QuestionAnswering(TaskKind):
    """The first answer is the gold one."""

    model_class: ClassVar[Any] = AutoModelForQuestionAnswering
    adapter_type: ClassVar[str] = "QUESTION_ANS"

    def prepare(
        self, data: Dataset, name: str, columns: ColumnsConfig, model: PreTrainedModel, tokenizer: Any, max_length: Any
    ) -> Dataset:
        """Tokenise questions with their contexts, and find the answers' tokens."""
        named = SpanColumns(columns.question, columns.context, columns.answers)
        return prepare_spans(data, name=name, columns=named, tokenizer=tokenizer, max_length=max_length)
