"""Correctness: one rule for the base and the fine-tuned model, on numpy arrays and torch tensors alike."""

from typing import Any

CLASSIFICATION_RULE = "sequence-classification: arg-max of the logits equals the label"


def is_class_correct(logits: Any, labels: Any) -> Any:
    """Say which samples a classifier gets right.

    Args:
        logits: Scores, shape (samples, classes); a numpy array or a torch tensor.
        labels: Class numbers, shape (samples,), of the same kind.

    Returns:
        Booleans of the same kind, shape (samples,).

    Example:
        >>> import numpy as np
        >>> is_class_correct(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
        array([ True, False])
    """
    return logits.argmax(-1) == labels
