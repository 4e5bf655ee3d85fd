"""Mixed batches whose new rows come from a stream."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from mixcd.matter.base_model.batched_inference import Collate
from mixcd.matter.fine_tuned_model.mixed_batch import MixedDataset, Slot
from mixcd.matter.prior_and_new_data.streamed_rows import StreamedRows

STREAM_PLACE = "mixcd_stream_place"
"""The batch key that carries where the batch's step ends in the stream, as text."""


class StreamedDataset(Dataset[Any]):
    """Mixed rows that are asked for as (step, number), so that each process reads the stream as far as the step goes.

    It does so also for batches without new rows: all processes then see the stream's end in the same step.
    """

    def __init__(self, mixed: MixedDataset, stream: StreamedRows) -> None:
        self._mixed = mixed
        self._stream = stream

    def __len__(self) -> int:
        return len(self._mixed)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Slot, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[tuple[Slot, Any]]:
        """Return the items of one batch, all of one step."""
        self._stream.read_step(places[0][0])
        return self._mixed.__getitems__([number for _, number in places])


class PlaceCollator:
    """Adds to each batch where its step ends in the stream: it shares the stream with the dataset of its worker."""

    def __init__(self, collate_fn: Collate, stream: StreamedRows) -> None:
        self.collate_fn = collate_fn
        self._stream = stream

    def __call__(self, items: list[Any]) -> Any:
        """Collate the items."""
        batch: Any = self.collate_fn(items)
        batch[STREAM_PLACE] = self._stream.place.to_text()
        return batch
