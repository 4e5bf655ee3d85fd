"""Correctness: one rule for the base and the fine-tuned model, on numpy arrays and torch tensors alike."""

from typing import Any

IGNORED = -100
"""The label of a token that no model is judged on."""


def is_class_correct(logits: Any, labels: Any) -> Any:
    """Say which samples a classifier gets right: the arg-max is the label.

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


def is_label_set_correct(logits: Any, labels: Any) -> Any:
    """Say which samples a multi-label classifier gets right: every single decision is.

    Args:
        logits: Scores, shape (samples, labels); a label is predicted above 0, a probability of one half.
        labels: 1 where a label holds and 0 where not, shape (samples, labels).

    Returns:
        Booleans, shape (samples,).

    Example:
        >>> import numpy as np
        >>> is_label_set_correct(np.array([[2.0, -1.0], [2.0, 3.0]]), np.array([[1.0, 0.0], [1.0, 0.0]]))
        array([ True, False])
    """
    return ((logits > 0) == (labels > 0.5)).all(-1)


def is_span_correct(start_logits: Any, end_logits: Any, starts: Any, ends: Any) -> Any:
    """Say which answers are found: the arg-max start and the arg-max end are both the gold ones.

    Args:
        start_logits: Scores of the tokens as start, shape (samples, tokens).
        end_logits: Scores as end, shape (samples, tokens).
        starts: The gold start tokens, shape (samples,).
        ends: The gold end tokens, shape (samples,).

    Returns:
        Booleans, shape (samples,).

    Example:
        >>> import numpy as np
        >>> scores = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
        >>> is_span_correct(scores, scores, np.array([1, 1]), np.array([1, 2]))
        array([ True, False])
    """
    return (start_logits.argmax(-1) == starts) & (end_logits.argmax(-1) == ends)


def share_of_tokens_right(right: Any, target: Any) -> Any:
    """Return the share of the target tokens that are predicted, given all true tokens before each of them.

    Args:
        right: Whether the likeliest token at each position is the true one, shape (samples, tokens).
        target: Which positions are targets, shape (samples, tokens).

    Returns:
        Shares, shape (samples,): 1 when greedy decoding would give exactly the target; 0 without a target.

    Example:
        >>> import numpy as np
        >>> share_of_tokens_right(np.array([[True, False], [True, False]]), np.array([[True, True], [True, False]]))
        array([0.5, 1. ])
    """
    return (right & target).sum(-1) / target.sum(-1).clip(min=1)


def is_near(predicted: Any, targets: Any, tolerance: float) -> Any:
    """Say which numbers are predicted well enough: every absolute error is within the tolerance.

    Args:
        predicted: Shape (samples, numbers).
        targets: Shape (samples, numbers).
        tolerance: The largest error that is right, in the unit of the targets.

    Returns:
        Booleans, shape (samples,).

    Example:
        >>> import numpy as np
        >>> is_near(np.array([[1.2], [2.0]]), np.array([[1.0], [1.0]]), tolerance=0.5)
        array([ True, False])
    """
    return (abs(predicted - targets) <= tolerance).all(-1)
