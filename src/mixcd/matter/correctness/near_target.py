"""`NearTarget`: regression."""

from dataclasses import dataclass
from typing import Any

import torch

from mixcd.matter.correctness.reading import CorrectnessRule, Reading, Targets, read_tensor, refuse_logits, weigh_wrong
from mixcd.words.errors import DataError, SettingError, shorten
from mixcd.words.vocabulary import Ids


@dataclass(frozen=True)
class NearTarget(CorrectnessRule):
    """Right when every predicted number is within a tolerance of its target. Our choice, not the paper's.

    Args:
        tolerance: The largest absolute error that is right, in the unit of the labels.

    Raises:
        SettingError: If it is negative or not finite.
    """

    tolerance: float

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < float("inf"):
            raise SettingError(
                f"`tolerance` is {self.tolerance}, but it must be finite and not negative: the largest absolute error "
                "that is right, in the unit of the labels. Pass a value such as 0.5."
            )

    @property
    def name(self) -> str:
        """The rule in words, with its tolerance."""
        return f"regression: absolute error ≤ {self.tolerance:g}"

    def require_known(self, targets: Targets, output: Any, sample_ids: Ids, data_name: str) -> None:
        """Refuse targets that are not finite."""
        labels = targets["labels"]
        unknown = (~torch.isfinite(labels.reshape(len(labels), -1)).all(-1)).cpu().numpy()
        if unknown.any():
            raise DataError(
                f"`{data_name}` has a label that is NaN or infinite on sample {shorten(sample_ids[unknown])}. Every "
                "sample needs a finite target. Leave such samples out."
            )

    def read(self, output: Any, targets: Targets) -> Reading:
        """Read `logits`, one number a target; the loss is the mean squared error."""
        logits, labels = read_tensor(output, "logits"), targets["labels"]
        if logits is None or logits.numel() != labels.numel():
            raise refuse_logits(logits, labels, "regression", "`logits` of one number a target")
        wanted = labels.to(logits.device).reshape(len(labels), -1).float()
        predicted = logits.reshape(wanted.shape).float()
        error = predicted - wanted
        too_far = torch.cat([error, -error], dim=-1) - self.tolerance  # above, below
        return Reading(
            correct=is_near(predicted, wanted, self.tolerance),
            loss=torch.square(error).mean(-1),
            logits=weigh_wrong(too_far / (self.tolerance or 1.0)),
        )


def is_near(predicted: Any, targets: Any, tolerance: float) -> Any:
    """Say which samples, shape (samples, numbers), are predicted with every absolute error within the tolerance.

    Example:
        >>> import numpy as np
        >>> is_near(np.array([[1.2], [2.0]]), np.array([[1.0], [1.0]]), tolerance=0.5)
        array([ True, False])
    """
    return (abs(predicted - targets) <= tolerance).all(-1)
