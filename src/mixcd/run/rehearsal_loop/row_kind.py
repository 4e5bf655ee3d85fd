"""What the new rows hold: one sample each, or several that stand one after the other."""

from dataclasses import dataclass
from typing import Any, Literal

from mixcd.matter.base_model.batched_inference import Collate, collate
from mixcd.matter.model_shape.joined_rows import is_joined, name_collator, require_known_starts
from mixcd.matter.prior_and_new_data.fixed_random_numbers import fixed_random_numbers
from mixcd.matter.prior_and_new_data.packed_rows import (
    SEQ_LENGTHS,
    count_samples,
    count_tokens,
    join_rows,
    split_lengths,
)
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset, fetch_rows
from mixcd.words.errors import SettingError

MixUnit = Literal["rows", "tokens"]


@dataclass(frozen=True)
class RowKind:
    """What the new rows hold, and how prior samples stand beside them.

    Args:
        packed: Whether a new row holds several samples.
        told_apart: Whether each of these is observed by itself: all of a batch stand in one row, which shows where each
            of them starts.
        capacity: Tokens that a pack of prior samples holds; None where each prior sample has a row of its own.
    """

    packed: bool = False
    told_apart: bool = False
    capacity: int | None = None

    def depends_on_tokens(self, mix_unit: MixUnit | None) -> bool:
        """Whether a plan must know how long rows are: to mix or pack by it, or to know how many samples to expect."""
        return self.told_apart or self.counts_tokens(mix_unit)

    def counts_tokens(self, mix_unit: MixUnit | None) -> bool:
        """Whether the mix ratio is a share of the tokens: where that is asked for, or rows are packed."""
        return self.packed if mix_unit is None else mix_unit == "tokens"


def require_mix_unit(mix_unit: str | None) -> None:
    """Refuse a unit of the mix ratio that is not known."""
    if mix_unit not in ("rows", "tokens", None):
        raise SettingError(
            f'`mix_unit` is {mix_unit!r}, but the mix ratio is a share of the "rows" or of the "tokens". Pass one of '
            "these, or leave it out: tokens where new rows are packed, else rows."
        )


def look_at_rows(
    new_data: Any, prior: PriorDataset, collate_fn: Collate, *, packed: bool = False, capacity: int | None = None
) -> RowKind:
    """Look at what two new rows hold, and at the batch that is made of them.

    Args:
        packed: Whether new rows are known to hold several samples each.
        capacity: Tokens that a new row holds at most; None for as many as the longest.

    Raises:
        UnsupportedTrainerError: If a batch joins its rows, and does not show where each sample starts.
    """
    with fixed_random_numbers(0):
        rows = fetch_rows(new_data, range(len(new_data))[:2])
        if split_lengths(rows[0]) is None:
            return RowKind(packed)
        packed = packed or SEQ_LENGTHS in rows[0] or max(map(count_samples, rows)) > 1
        if not is_joined(collate(collate_fn, rows * 2), 2):
            return RowKind(packed)
        packs = SEQ_LENGTHS in rows[0]  # otherwise nobody can say how the collator wants a pack to look
        beside = join_rows(prior.rows([0, 0])) if packs else prior[0]
        sample_count = sum(map(count_samples, [*rows, beside]))
        require_known_starts(collate(collate_fn, [*rows, beside]), sample_count, name_collator(collate_fn))
    return RowKind(packed, True, (capacity or int(count_tokens(new_data).max())) if packs else None)
