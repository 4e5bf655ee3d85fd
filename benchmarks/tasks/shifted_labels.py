"""A prior task that drifts while the model is fine-tuned: halfway, the positive prior tweets become neutral ones.

Judged is what holds at the end: the held-out prior tweets have the new labels from the start, and so has "before".
Which samples are "damaged" changes at once, and the question is which window of counts notices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fast_lane
from torch.utils.data import Dataset
from transformers import TrainerCallback

from mixcd.edge.bench.sweep.sweep_task import SweepTask

FROM_LABEL, TO_LABEL = 2, 1


class ShiftingRows(Dataset[Any]):
    """Rows whose labels change when `is_shifted` is set.

    Args:
        rows: The rows, with their labels of before.
        is_shifted: Whether the labels are those of after.
    """

    def __init__(self, rows: Any, is_shifted: bool = False) -> None:
        self._rows = rows
        self.is_shifted = is_shifted

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
        """Return several rows at once."""
        rows: list[Mapping[str, Any]] = self._rows.__getitems__(numbers)
        if not self.is_shifted:
            return rows
        return [{**row, "label": TO_LABEL if row["label"] == FROM_LABEL else row["label"]} for row in rows]


class Shift(TrainerCallback):
    """Shifts the prior labels halfway through training."""

    def __init__(self, prior: ShiftingRows) -> None:
        self._prior = prior

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start with the labels of before."""
        self._prior.is_shifted = False

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Shift when half of the steps are done."""
        self._prior.is_shifted = state.global_step >= state.max_steps // 2

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the data as they were, for the next run."""
        self._prior.is_shifted = False


def tweets(seed: int, folder: Path) -> SweepTask:
    """The fast lane's tweets, with a prior task that drifts."""
    task = fast_lane.tweets(seed, folder)
    prior = ShiftingRows(task.prior)
    held_out = ShiftingRows(task.held_out_prior, is_shifted=True)
    return replace(task, prior=prior, held_out_prior=held_out, callbacks=(Shift(prior),))
