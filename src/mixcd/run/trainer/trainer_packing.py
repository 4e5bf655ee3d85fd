"""What a trainer's settings say about rows that hold several samples, and which of them can be followed."""

from collections.abc import Iterator
from typing import Any

from transformers import Trainer

from mixcd.matter.base_model.batched_inference import Collate
from mixcd.matter.prior_and_new_data.packed_rows import split_lengths
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset, fetch_rows
from mixcd.run.rehearsal_loop.row_kind import RowKind, look_at_rows
from mixcd.run.trainer.sft_trainer import is_sft_trainer
from mixcd.words.errors import UnsupportedTrainerError

_FLAGS = ("packing", "sample_packing", "neat_packing")
"""How it is called that a row holds several samples: by TRL and ms-swift, axolotl, LLaMA-Factory."""
_HOLDERS = ("args", "data_args", "template")
"""Where trainers keep such settings."""


def require_whole_samples(trainer: Trainer) -> None:
    """Refuse settings that cut samples in pieces.

    Raises:
        UnsupportedTrainerError: If there is one; names it.
    """
    args, template = trainer.args, getattr(trainer, "template", None)
    if getattr(args, "packing", False) and getattr(args, "packing_strategy", None) == "bfd_split":
        raise UnsupportedTrainerError(
            'The trainer uses `packing_strategy="bfd_split"`, which cuts a sample that is longer than a row and packs '
            "the pieces apart; rehearsal could not tell whether such a sample is right. Use "
            '`packing_strategy="bfd"`.'
        )
    sizes = (getattr(template, name, None) for name in ("sequence_parallel", "sequence_parallel_size"))
    if any(size is True or (size or 1) > 1 for size in sizes):
        raise UnsupportedTrainerError(
            "The trainer uses `template.sequence_parallel_size`, which splits a sample over processes; rehearsal "
            "cannot follow. Set it to 1."
        )


def find_row_kind(trainer: Trainer, new_data: Any, prior: PriorDataset, collate_fn: Collate) -> RowKind:
    """Find out what the trainer's rows hold: by its settings, and by the rows and the batch that is made of them.

    Args:
        new_data: The trainer's new rows, or the first ones of a stream.

    Raises:
        UnsupportedTrainerError: If rows hold several samples and do not say where each of them starts.
    """
    args: Any = trainer.args
    flags = list(_find_flags(trainer))
    is_trl = bool(flags) and is_sft_trainer(trainer)
    if flags and not is_trl and split_lengths(fetch_rows(new_data, [0])[0]) is None:
        raise UnsupportedTrainerError(
            f"The trainer uses `{flags[0]}`, which puts several samples in one row, but the rows of "
            "`trainer.train_dataset` do not say where each of them starts, so their predictions cannot be told apart. "
            f"Turn `{flags[0]}` off, or pack the data first, with `position_ids` that start anew with every sample."
        )
    longest = getattr(args, "max_length", None) if is_trl else None
    return look_at_rows(new_data, prior, collate_fn, packed=bool(flags), capacity=longest)


def _find_flags(trainer: Trainer) -> Iterator[str]:
    """Return the names of the settings by which a row holds several samples."""
    for holder in _HOLDERS:
        for flag in _FLAGS:
            if getattr(getattr(trainer, holder, None), flag, False) is True:
                yield f"{holder}.{flag}"
