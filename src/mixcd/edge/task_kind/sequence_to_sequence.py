"""`SequenceToSequence`: an encoder-decoder writes a target text for a source text."""

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.edge.task_kind.task_kind import TaskKind
from mixcd.matter.prior_and_new_data.preparation.pairs import PairColumns, prepare_pairs


@dataclass(frozen=True)
class SequenceToSequence(TaskKind):
    """Trained by `Seq2SeqTrainer`."""

    model_class: ClassVar[Any] = AutoModelForSeq2SeqLM
    adapter_type: ClassVar[str] = "SEQ_2_SEQ_LM"

    def prepare(
        self, data: Dataset, name: str, columns: ColumnsConfig, model: PreTrainedModel, tokenizer: Any, max_length: Any
    ) -> Dataset:
        """Tokenise sources and targets."""
        named = PairColumns(columns.source, columns.target)
        return prepare_pairs(data, name=name, columns=named, tokenizer=tokenizer, max_length=max_length)

    def arguments_class(self) -> type[TrainingArguments]:
        """Return those that can generate in evaluation."""
        return Seq2SeqTrainingArguments

    def trainer_class(self) -> type[Trainer]:
        """Return the one that can generate in evaluation."""
        return Seq2SeqTrainer

    def make_collator(self, tokenizer: Any, model: PreTrainedModel) -> Any:
        """Return one that pads sources and targets, and makes the decoder's inputs."""
        return DataCollatorForSeq2Seq(tokenizer, model=model)
