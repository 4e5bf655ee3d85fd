"""The ledger: what a chain of fine-tuning stages kept of each task that it learnt."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Floats


@dataclass(frozen=True)
class Ledger:
    """The scores of a chain of stages, and what they say of forgetting. Stage t learns task t.

    Args:
        scores: R[t, i], the score on task i after stage t, shape (stages, tasks); NaN above the diagonal where a task
            was not measured before its own stage.
        task_names: One name a task.
        is_by_token: Whether the scores are token accuracies, and not shares of samples.
    """

    scores: Floats
    task_names: tuple[str, ...]
    is_by_token: bool = False

    @property
    def average(self) -> float:
        """The mean score over all tasks after the last stage."""
        return float(self.scores[-1].mean())  # mean_i R[T, i]

    @property
    def backward_transfer(self) -> float | None:
        """How far the earlier tasks' scores moved since their own stage, on average; None for a single stage.

        Negative where later stages cost earlier tasks something.
        """
        return _mean(self.scores[-1] - self.scores.diagonal())  # mean_{i<T} (R[T, i] − R[i, i])

    @property
    def forgetting(self) -> float | None:
        """How far the earlier tasks' last scores lie below their best, on average; None for a single stage."""
        return _mean(self.lost)  # mean_{i<T} (max_t R[t, i] − R[T, i])

    @property
    def lost(self) -> Floats:
        """How far each task's last score lies below its best, shape (tasks,)."""
        best = np.fmax.reduce(self.scores, axis=0)  # max_t R[t, i], over what was measured
        return np.asarray(best - self.scores[-1], dtype=np.float64)


def make_ledger(scores: Any, task_names: tuple[str, ...] | None = None, *, is_by_token: bool = False) -> Ledger:
    """Make the ledger of a chain of stages from its matrix of scores.

    Args:
        scores: R[t, i], the score on task i after stage t, shape (stages, stages): stage t learns task t. NaN where a
            task was not measured before its own stage.
        task_names: One name a task; their numbers, from 0, by default.
        is_by_token: Whether the scores are token accuracies.

    Returns:
        The ledger.

    Raises:
        DataError: If the matrix is not square, lacks a score on or below its diagonal, or has another number of
            tasks than there are names.

    Example:
        >>> ledger = make_ledger([[0.9, 0.4], [0.7, 0.8]], ("tweets", "news"))
        >>> ledger.average, round(ledger.backward_transfer, 3), round(ledger.forgetting, 3)
        (0.75, -0.2, 0.2)
    """
    matrix = np.array(scores, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size or matrix.shape[0] != matrix.shape[1]:
        raise DataError(
            f"`scores` is of shape {matrix.shape}, but a ledger needs one row a stage and one column a task, and each "
            "stage learns one task. Pass a square matrix."
        )
    stages, tasks = np.nonzero(np.tril(~np.isfinite(matrix)))
    if stages.size:
        raise DataError(
            f"`scores` has no finite score of task {shorten(tasks, 3)} after stage {shorten(stages, 3)} (counted from "
            "0). Every task must be measured after its own stage and all later ones. Measure it there."
        )
    names = tuple(str(number) for number in range(len(matrix))) if task_names is None else tuple(task_names)
    if len(names) != len(matrix):
        raise DataError(
            f"`task_names` has {len(names)} name(s), but `scores` has {len(matrix)} task(s). Pass one name a task."
        )
    return Ledger(matrix, names, is_by_token)


def _mean(of_tasks: Floats) -> float | None:
    """The mean over all tasks but the last."""
    return float(of_tasks[:-1].mean()) if of_tasks.size > 1 else None
