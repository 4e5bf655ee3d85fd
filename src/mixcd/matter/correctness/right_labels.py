"""`RightLabels`: multi-label classification."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional

from mixcd.matter.correctness.reading import CorrectnessRule, Reading, Targets, read_tensor, refuse_logits, weigh_wrong
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Ids


@dataclass(frozen=True)
class RightLabels(CorrectnessRule):
    """Right when every label is decided rightly, at a probability of one half. Our choice, not the paper's."""

    name: ClassVar[str] = "multi-label classification: every label is decided rightly"

    def require_known(self, targets: Targets, output: Any, sample_ids: Ids, data_name: str) -> None:
        """Refuse labels that are neither 0 nor 1."""
        labels = targets["labels"]
        unknown = ((labels != 0) & (labels != 1)).any(-1).cpu().numpy()
        if unknown.any():
            raise DataError(
                f"`{data_name}` has labels other than 0 and 1 on sample {shorten(sample_ids[unknown])}. In multi-label "
                "classification every label holds or does not. Give every label 1.0 or 0.0."
            )

    def read(self, output: Any, targets: Targets) -> Reading:
        """Read `logits` of the labels' shape; the loss is the mean binary cross-entropy, in nats."""
        logits, labels = read_tensor(output, "logits"), targets["labels"]
        if logits is None or logits.shape != labels.shape:
            raise refuse_logits(logits, labels, "multi-label classification", "one logit a label")
        labels = labels.to(logits.device)
        losses = functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
        against = torch.where(labels > 0.5, -logits, logits)  # a label is decided wrongly
        return Reading(is_label_set_correct(logits, labels), losses.mean(-1), logits=weigh_wrong(against))


def is_label_set(labels: torch.Tensor) -> bool:
    """Whether a batch's labels are sets: two-dimensional floats, as the models' own loss wants them."""
    return labels.ndim == 2 and labels.is_floating_point()


def is_label_set_correct(logits: Any, labels: Any) -> Any:
    """Say which samples a multi-label classifier gets right: every single decision is.

    Args:
        logits: Scores, shape (samples, labels); a label is predicted above 0, a probability of one half.
        labels: 1 where a label holds and 0 where not, shape (samples, labels).

    Example:
        >>> import numpy as np
        >>> is_label_set_correct(np.array([[2.0, -1.0], [2.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
        array([ True, False])
    """
    return ((logits > 0) == (labels > 0.5)).all(-1)
