"""What differs from task to task in `mixcd train`, one file a task."""

from collections.abc import Mapping

from mixcd.edge.config.data_config import Task
from mixcd.edge.task_kind.classification import Classification
from mixcd.edge.task_kind.question_answering import QuestionAnswering
from mixcd.edge.task_kind.sequence_to_sequence import SequenceToSequence
from mixcd.edge.task_kind.task_kind import TaskKind
from mixcd.edge.task_kind.text_generation import TextGeneration

TASK_KINDS: Mapping[Task, TaskKind] = {
    "classification": Classification(),
    "question-answering": QuestionAnswering(),
    "sequence-to-sequence": SequenceToSequence(),
    "text-generation": TextGeneration(),
}
"""The tasks, by what a config calls them."""
