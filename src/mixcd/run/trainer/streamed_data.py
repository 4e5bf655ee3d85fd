"""A trainer's new data as a stream: what it needs, and how it is read in order."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from transformers import Trainer

from mixcd.matter.fine_tuned_model.streamed_batch import STREAM_PLACE
from mixcd.matter.prior_and_new_data.streamed_rows import StreamedRows, StreamPlace, is_stream
from mixcd.run.rehearsal_loop.row_kind import MixUnit, RowKind
from mixcd.words.errors import DataError, ResumeError, SettingError, UnsupportedTrainerError

logger = logging.getLogger(__name__)


def open_stream(trainer: Trainer) -> StreamedRows | None:
    """Return the trainer's new data as a stream's rows; None where they are map-style. All processes must call it.

    Raises:
        SettingError: If `max_steps` is not set.
        UnsupportedTrainerError: If rows of the stream are packed.
        DataError: If the stream is empty, yields other rows when it is opened again, or on another process.
    """
    if not is_stream(trainer.train_dataset):
        return None
    if trainer.args.max_steps <= 0:
        raise SettingError(
            "`trainer.train_dataset` is a stream, which has no length, but `max_steps` is not set, so nobody knows how "
            "many rows training needs. Set `max_steps` in the training arguments."
        )
    if getattr(trainer.args, "packing", False):
        raise UnsupportedTrainerError(
            "The trainer packs the rows of a stream (`packing=True`), which rehearsal does not follow yet. Pass "
            "`packing=False`, or give data that are no stream."
        )
    stream = StreamedRows(trainer.train_dataset, "trainer.train_dataset")
    _require_same_everywhere(trainer, stream)
    _say_how_it_is_read(trainer, stream)
    return stream


def require_mixing_by_rows(kind: RowKind, mix_unit: MixUnit | None) -> None:
    """Refuse to mix a stream by tokens: its rows are not read before their step is planned.

    Raises:
        UnsupportedTrainerError: If rows hold several samples each, or tokens are named as the unit.
    """
    if kind.packed or kind.depends_on_tokens(mix_unit):
        raise UnsupportedTrainerError(
            "The mix ratio would be a share of the tokens, because rows are packed or `mix_unit` says so, but nobody "
            "knows how long the rows of a stream will be. Give rows of one sample each and leave `mix_unit` out, or "
            "give data that are no stream."
        )


@contextmanager
def one_worker(args: Any) -> Iterator[None]:
    """Let one data-loader worker read ahead as far as all of them would: one reader keeps a stream's order."""
    given = args.dataloader_num_workers, args.dataloader_prefetch_factor
    if given[0] > 1:
        args.dataloader_num_workers, args.dataloader_prefetch_factor = 1, given[0] * (given[1] or 2)
    try:
        yield
    finally:
        args.dataloader_num_workers, args.dataloader_prefetch_factor = given


class StreamProgress:
    """How far the completed steps have come in a stream."""

    def __init__(self, stream: StreamedRows) -> None:
        self._stream = stream
        self._taken = self._done = StreamPlace(0)

    @property
    def fault(self) -> str:
        """Why there are no more steps; empty while there are."""
        return self._done.fault

    def begin(self, stored: Mapping[str, Any] | None) -> None:
        """Begin at the first row, or go on where a checkpoint was written.

        Raises:
            ResumeError: If the checkpoint's stream had other rows.
        """
        self._taken = self._done = StreamPlace(0)
        if stored is not None:
            if stored["stream"]["first_rows"] != self._stream.first_print:
                raise ResumeError(
                    f"The checkpoint was written with a stream whose first rows were others than those of "
                    f"`{self._stream.name}` now. A resumed run must read the same rows in the same order. Give it the "
                    "same stream, and shuffle with a fixed seed."
                )
            self._done = replace(StreamPlace(**stored["stream"]["place"]), fault="")
        self._stream.rewind(self._done)

    def take(self, inputs: dict[str, Any]) -> None:
        """Take the place out of a batch that is about to be trained on.

        Raises:
            DataError: If the stream does not have the rows of this step.
        """
        self._taken = StreamPlace(**json.loads(inputs.pop(STREAM_PLACE)))
        if self._taken.is_short:
            raise DataError(self._taken.fault)

    def commit(self) -> None:
        """Complete the step of the batch that was taken last."""
        self._done = self._taken

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"first_rows": self._stream.first_print, "place": asdict(self._done)}


def _require_same_everywhere(trainer: Trainer, stream: StreamedRows) -> None:
    own = torch.tensor([int(stream.first_print[:15], 16)], device=trainer.accelerator.device)
    if (trainer.accelerator.gather(own) != own).any():
        raise DataError(
            "`trainer.train_dataset` is a stream that yields other rows on one process than on another. Rehearsal "
            "gives each process its share of every batch, so all must see the whole stream. Do not split it over "
            "processes (`split_dataset_by_node`), and shuffle with a fixed seed."
        )


def _say_how_it_is_read(trainer: Trainer, stream: StreamedRows) -> None:
    if not trainer.is_world_process_zero():
        return
    workers = trainer.args.dataloader_num_workers
    logger.info(
        "`%s` is a stream: every process reads all of it, in order, and trains on its share; %s. A resumed run %s.",
        stream.name,
        "one worker of each process reads" if workers else "rows are read in the training process",
        "goes on from the stream's own state" if stream.keeps_state else "reads the rows again that were trained on",
    )
    if workers > 1:
        logger.warning(
            "`dataloader_num_workers=%d` are asked for, but one reads the stream, as far ahead as all would: the order "
            "of its rows is known to one reader only.",
            workers,
        )
