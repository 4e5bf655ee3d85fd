"""Which splits of a `datasets.DatasetDict` are used: what is for evaluation is not rehearsed, unless asked for."""

import logging
import re
from typing import Any

from datasets import DatasetDict

from mixcd.words.errors import shorten

_TRAINING = {"train", "training"}
_EVALUATION = {"validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}

logger = logging.getLogger(__name__)


def choose_rehearsed(data: Any, name: str) -> Any:
    """Leave the splits for evaluation out of data that are rehearsed, and name them in the log.

    All but a `DatasetDict` with splits for training beside such for evaluation is left as it is; a plain dict is always
    taken whole.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_dict({"x": [1]})
        >>> list(choose_rehearsed(DatasetDict(train=rows, unlabelled=rows, test_matched=rows), "prior_data"))
        ['train', 'unlabelled']
    """
    return _leave_out(data, name, _EVALUATION, "splits for evaluation are not rehearsed", "rehearse")


def choose_held_out(data: Any, name: str) -> Any:
    """Leave the splits for training out of held-out data, as `choose_rehearsed` does, and name them in the log."""
    return _leave_out(
        data, name, _TRAINING, "splits for training may be rehearsed, so nothing is measured on them", "measure on"
    )


def _leave_out(data: Any, name: str, kind: set[str], reason: str, verb: str) -> Any:
    if not isinstance(data, DatasetDict):
        return data
    kinds = {split: _kind_of(str(split)) for split in data}
    left_out = [split for split, found in kinds.items() if found is kind]
    if not left_out or not any(found not in (kind, None) for found in kinds.values()):
        return data
    kept = {split: rows for split, rows in data.items() if split not in left_out}
    logger.warning(
        "`%s` has %s beside %s: %s. Pass `dict(%s)` to %s every split.",
        name,
        shorten((f"`{split}`" for split in left_out), 20),
        shorten((f"`{split}`" for split in kept), 20),
        reason,
        name,
        verb,
    )
    return kept


def _kind_of(split: str) -> set[str] | None:
    words = set(re.findall("[a-z]+", split.lower()))
    return next((kind for kind in (_TRAINING, _EVALUATION) if words & kind), None)
