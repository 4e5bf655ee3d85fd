"""`RightClass`: single-label classification, of texts, pairs or images."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mixcd.matter.correctness.reading import CorrectnessRule, Reading, Targets, read_tensor, refuse_output
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Ids


@dataclass(frozen=True)
class RightClass(CorrectnessRule):
    """Right when the arg-max of the class logits is the label.

    Paper: collateral damage in text classification.
    """

    name: ClassVar[str] = "sequence-classification: arg-max of the logits equals the label"

    def require_known(self, targets: Targets, output: Any, sample_ids: Ids, data_name: str) -> None:
        """Refuse labels that the model has no class for."""
        logits = _read_logits(output, targets["labels"])
        require_known_labels(targets["labels"].cpu().numpy(), sample_ids, logits.shape[1], data_name)

    def read(self, output: Any, targets: Targets) -> Reading:
        """Read `logits` of shape (samples, classes); the loss is the cross-entropy, in nats."""
        logits = _read_logits(output, targets["labels"])
        labels = targets["labels"].to(logits.device)
        return Reading(
            correct=is_class_correct(logits, labels),
            loss=functional.cross_entropy(logits.float(), labels, reduction="none"),
            prediction=logits.argmax(-1),
            logits=logits,
        )


def _read_logits(output: Any, labels: torch.Tensor) -> torch.Tensor:
    logits = read_tensor(output, "logits")
    if logits is None:
        kind = f"a {type(output).__name__} without `logits`"
    elif logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        kind = f"`logits` of shape {tuple(logits.shape)} for labels of shape {tuple(labels.shape)} and {labels.dtype}"
    elif logits.shape[1] < 2:
        kind = "`logits` of a single output, which is a regression"
    else:
        return logits
    raise refuse_output(
        kind, "single-label classification", "`logits` of shape (samples, classes), class numbers as labels"
    )


def require_known_labels(labels: NDArray[Any], sample_ids: Ids, class_count: int, data_name: str) -> None:
    """Refuse labels outside 0 … class_count − 1, by a `DataError` that names the samples."""
    unknown = (labels < 0) | (labels >= class_count)
    if unknown.any():
        raise DataError(
            f"`{data_name}` has label {shorten(np.unique(labels[unknown]))} on sample {shorten(sample_ids[unknown])}, "
            f"but the model knows classes 0 to {class_count - 1}. Map the labels to these, or give the model a head "
            "with more classes; in multiple choice, whose classes are a sample's choices, correct them."
        )


def is_class_correct(logits: Any, labels: Any) -> Any:
    """Say which samples a classifier gets right: the arg-max is the label.

    Args:
        logits: Scores, shape (samples, classes); a numpy array or a torch tensor.
        labels: Class numbers, shape (samples,), of the same kind.

    Example:
        >>> import numpy as np
        >>> is_class_correct(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
        array([ True, False])
    """
    return logits.argmax(-1) == labels
