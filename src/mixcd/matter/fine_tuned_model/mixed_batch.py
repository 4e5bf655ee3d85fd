"""The mixed training data: new and prior rows in one dataset, each batch tagged with its sample ids."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset

from mixcd.matter.base_model.batched_inference import Collate, collate
from mixcd.matter.fine_tuned_model.prediction_observer import NEW_SAMPLE
from mixcd.matter.prior_and_new_data.packed_rows import count_samples, join_rows
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset, fetch_rows

SAMPLE_IDS = "mixcd_sample_ids"
"""The batch key that carries the rows' prior sample ids."""


Slot = int | tuple[int, ...]
"""A row number, or those of the prior samples of a pack."""


class MixedDataset(Dataset[Any]):
    """New rows 0 … new − 1, then the prior rows; each item is (prior sample id, row).

    Args:
        joins: Whether a row may hold several samples; an item of such a row has a tuple of ids.
    """

    def __init__(self, new_data: Any, prior: PriorDataset, joins: bool = False) -> None:
        self._new_data = new_data
        self._new_count = len(new_data)
        self._prior = prior
        self._joins = joins

    def __len__(self) -> int:
        return self._new_count + len(self._prior)

    def __getitem__(self, slot: Slot) -> tuple[Slot, Any]:
        return self.__getitems__([slot])[0]

    def __getitems__(self, slots: Sequence[Slot]) -> list[tuple[Slot, Any]]:
        """Return several items at once, the new rows in one fetch and the prior rows in another."""
        numbers = [number for slot in slots for number in (slot if isinstance(slot, tuple) else (slot,))]
        new = iter(fetch_rows(self._new_data, [number for number in numbers if number < self._new_count]))
        prior_ids = [number - self._new_count for number in numbers if number >= self._new_count]
        prior = iter(zip(prior_ids, self._prior.rows(prior_ids), strict=True))
        return [self._make_item(slot, new, prior) for slot in slots]

    def _make_item(self, slot: Slot, new: Iterator[Any], prior: Iterator[tuple[int, Any]]) -> tuple[Slot, Any]:
        if isinstance(slot, tuple):
            ids, rows = zip(*islice(prior, len(slot)), strict=True)
            return ids, join_rows(rows)
        if slot >= self._new_count:
            return next(prior)
        row = next(new)
        return ((NEW_SAMPLE,) * count_samples(row) if self._joins else NEW_SAMPLE), row


class TaggingCollator:
    """Collates plain rows with the trainer's own collator, which never sees their sample ids, and adds these."""

    def __init__(self, collate_fn: Collate) -> None:
        self.collate_fn = collate_fn

    def __call__(self, items: list[tuple[Slot, Any]]) -> Any:
        """Collate the items' rows; there is one id a sample, as many as a row holds."""
        batch = collate(self.collate_fn, [row for _, row in items])
        ids = [sample_id for tag, _ in items for sample_id in (tag if isinstance(tag, tuple) else (tag,))]
        batch[SAMPLE_IDS] = torch.tensor(ids)  # type: ignore[index]
        return batch
