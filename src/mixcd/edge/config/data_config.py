"""`DataConfig` and `PriorConfig`: where the data of a task are, and which of their columns are what."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixcd.edge.config.toml_file import Section

Task = Literal["classification", "question-answering", "sequence-to-sequence", "text-generation"]
COLUMNS: dict[Task, tuple[str, ...]] = {
    "classification": ("text", "text_pair", "label"),
    "question-answering": ("question", "context", "answers"),
    "sequence-to-sequence": ("source", "target"),
    "text-generation": (),
}
"""The keys of `columns` that each task knows."""


class ColumnsConfig(Section):
    """Which of the data's columns are what; each task has its own, text generation none."""

    text: str | None = Field(None, description='Classification: the text; "text" by default.')
    text_pair: str | None = Field(None, description="Classification: the second text of a pair.")
    label: str | None = Field(None, description='Classification: the label; "label" or "labels" by default.')
    question: str | None = Field(None, description='Question answering: the question; "question" by default.')
    context: str | None = Field(None, description='Question answering: where the answer is; "context" by default.')
    answers: str | None = Field(
        None, description='Question answering: lists `text` and `answer_start`, as in SQuAD; "answers" by default.'
    )
    source: str | None = Field(None, description='Sequence to sequence: the input; "source" by default.')
    target: str | None = Field(None, description='Sequence to sequence: the output; "target" by default.')


class HeldOutConfig(Section):
    """Held-out data that are given, in the same columns."""

    path: str | list[str] | None = Field(None, description="Where they are; the same path by default.")
    split: str | None = Field(None, description="Which split.")
    subset: str | None = Field(None, description="Which subset of a data set on the hub.")

    @model_validator(mode="after")
    def _names_something(self) -> "HeldOutConfig":
        if self.path is None and self.split is None:
            raise ValueError("needs a `path` or a `split` of its own")
        return self


class DataConfig(Section):
    """Data of one task."""

    path: str | list[str] = Field(description="Parquet, CSV, TSV or JSONL files, a folder, or a hub data set's name.")
    split: str | None = Field(None, description="Which split, when the data have several.")
    subset: str | None = Field(None, description="Which subset of a data set on the hub.")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig, description="Which columns are what.")
    held_out: Annotated[float, Field(ge=0, lt=1)] | HeldOutConfig = Field(
        0.1, description="Samples never trained on: their share, drawn by the seed; or where they are."
    )


class PriorConfig(DataConfig):
    """Data of the prior task, or of one of several prior tasks."""

    name: str | None = Field(None, description="With several: its name, a value of the column `prior_set`.")


def find_foreign_columns(source: DataConfig, place: str, task: Task) -> list[str]:
    """Find the columns that are named for another task.

    Returns:
        A fault for each, the start of a sentence.
    """
    named = [key for key, column in source.columns if column is not None and key not in COLUMNS[task]]
    if not COLUMNS[task]:
        known = "whose data TRL reads by the names `messages`, `prompt` and `completion`, or `text`"
    else:
        known = f"which has {', '.join(f'`{key}`' for key in COLUMNS[task])}"
    return [f"`{place}.columns.{key}` is of another task than `{task}`, {known}" for key in named]
