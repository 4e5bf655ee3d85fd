"""`Classification`: one of several classes a sample, for texts and pairs of them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.edge.task_kind.task_kind import TaskKind
from mixcd.matter.correctness.right_class import require_known_labels
from mixcd.matter.prior_and_new_data.label_names import number_labels
from mixcd.matter.prior_and_new_data.preparation.classes import LABEL, ColumnNames, prepare_classes
from mixcd.words.errors import SettingError


@dataclass(frozen=True)
class Classification(TaskKind):
    """Labels may be class numbers, or names that the model knows."""

    model_class: ClassVar[Any] = AutoModelForSequenceClassification
    adapter_type: ClassVar[str] = "SEQ_CLS"

    def require_model(self, model: PreTrainedModel, path: object) -> None:
        """Refuse regressions and several labels a sample."""
        problem, class_count = model.config.problem_type, int(model.config.num_labels or 0)
        if class_count < 2 or problem not in (None, "single_label_classification"):
            raise SettingError(
                f"The model `{path}` has {class_count} class(es) and the problem type `{problem}`, but every "
                "sample needs one of several classes: `single_label_classification`. Name such a classifier."
            )

    def prepare(
        self, data: Dataset, name: str, columns: ColumnsConfig, model: PreTrainedModel, tokenizer: Any, max_length: Any
    ) -> Dataset:
        """Tokenise texts, and number labels as the model does."""
        class_count: Any = model.config.num_labels
        rows = prepare_classes(
            data,
            name=name,
            columns=ColumnNames(columns.text, columns.text_pair, columns.label),
            label_ids=number_labels(model.config),
            tokenizer=tokenizer,
            max_length=max_length,
        )
        labels = np.asarray(rows.with_format("numpy")[LABEL][:])
        require_known_labels(labels, np.arange(len(rows)), class_count, name)
        return rows
