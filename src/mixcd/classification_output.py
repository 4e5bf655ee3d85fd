"""Reading a classifier's forward pass: its labels, its class logits, its loss on every sample."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mixcd.errors import DataError, UnsupportedTrainerError, shorten
from mixcd.vocabulary import Ids

LABEL_KEYS = ("labels", "label")
"""Where a batch may keep its class labels."""


def classification_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return each sample's cross-entropy, in nats, in single precision.

    Args:
        logits: Scores, shape (samples, classes).
        labels: Class numbers, shape (samples,).

    Returns:
        Losses, shape (samples,).
    """
    return functional.cross_entropy(logits.float(), labels, reduction="none")


def read_class_logits(output: Any, labels: torch.Tensor) -> torch.Tensor:
    """Find the class logits in a model's output, or say why there are none to read.

    Args:
        output: What the model returned.
        labels: The labels it was judged against.

    Returns:
        Logits, shape (samples, classes).

    Raises:
        UnsupportedTrainerError: If the output is no mapping with two-dimensional `logits`, or the labels
            are not one class number a sample.
    """
    logits: torch.Tensor | None = output.get("logits") if isinstance(output, Mapping) else None
    if logits is None:
        kind = f"a {type(output).__name__} without `logits`"
    elif logits.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
        kind = f"`logits` of shape {tuple(logits.shape)} for labels of shape {tuple(labels.shape)} and {labels.dtype}"
    elif logits.shape[1] < 2:
        kind = "`logits` of a single output, which is a regression"
    else:
        return logits
    raise UnsupportedTrainerError(
        f"The model returned {kind}. mixcd reads correctness off the forward pass of single-label sequence "
        "classification: `logits` of shape (samples, classes), class numbers as labels. Use such a model, and leave "
        "`return_dict` on."
    )


def find_labels(batch: Mapping[str, Any], data_name: str) -> torch.Tensor:
    """Find the labels in a batch.

    Args:
        batch: Tensors by name.
        data_name: Whose batch it is, for the message.

    Returns:
        The labels.

    Raises:
        DataError: If there are none.
    """
    for key in LABEL_KEYS:
        if key in batch:
            labels: torch.Tensor = batch[key]
            return labels
    raise DataError(
        f"`{data_name}` has no labels: its batches hold {shorten((f'`{key}`' for key in batch), 20)}. Correctness is "
        "judged against `labels`. Give every row a `label` or `labels` column."
    )


def require_known_labels(labels: NDArray[Any], sample_ids: Ids, class_count: int, data_name: str) -> None:
    """Refuse labels that the model has no class for.

    Args:
        labels: Class numbers, shape (samples,).
        sample_ids: Whose labels they are, shape (samples,).
        class_count: The number of classes of the model.
        data_name: Whose labels they are, for the message.

    Raises:
        DataError: If a label lies outside 0 … class_count − 1; names the samples.
    """
    unknown = (labels < 0) | (labels >= class_count)
    if unknown.any():
        raise DataError(
            f"`{data_name}` has label {shorten(np.unique(labels[unknown]))} on sample {shorten(sample_ids[unknown])}, "
            f"but the model knows classes 0 to {class_count - 1}. Map the labels to these, or give the model a head "
            "with more classes."
        )
