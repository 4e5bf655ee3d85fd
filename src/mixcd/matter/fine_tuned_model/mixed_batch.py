"""The mixed training data: new and prior rows in one dataset, each batch tagged with its sample ids."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from mixcd.matter.base_model.batched_inference import Collate, collate
from mixcd.matter.fine_tuned_model.prediction_observer import NEW_SAMPLE
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset, fetch_rows

SAMPLE_IDS = "mixcd_sample_ids"
"""The batch key that carries the rows' prior sample ids."""


class MixedDataset(Dataset[Any]):
    """New rows 0 … new − 1, then the prior rows; each item is (prior sample id, row)."""

    def __init__(self, new_data: Any, prior: PriorDataset) -> None:
        self._new_data = new_data
        self._new_count = len(new_data)
        self._prior = prior

    def __len__(self) -> int:
        return self._new_count + len(self._prior)

    def __getitem__(self, number: int) -> tuple[int, Any]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[tuple[int, Any]]:
        """Return several items at once, the new rows in one fetch and the prior rows in another."""
        new = iter(fetch_rows(self._new_data, [number for number in numbers if number < self._new_count]))
        prior_ids = [number - self._new_count for number in numbers if number >= self._new_count]
        prior = iter(zip(prior_ids, self._prior.rows(prior_ids), strict=True))
        return [(NEW_SAMPLE, next(new)) if number < self._new_count else next(prior) for number in numbers]


class TaggingCollator:
    """Collates plain rows with the trainer's own collator, which never sees their sample ids, and adds these."""

    def __init__(self, collate_fn: Collate) -> None:
        self.collate_fn = collate_fn

    def __call__(self, items: list[tuple[int, Any]]) -> Any:
        """Collate the items' rows."""
        batch = collate(self.collate_fn, [row for _, row in items])
        batch[SAMPLE_IDS] = torch.tensor([sample_id for sample_id, _ in items])  # type: ignore[index]
        return batch
