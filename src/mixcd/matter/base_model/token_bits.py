"""Which target tokens the base model had right: one bit each, and what became of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixcd.matter.correctness.reading import NO_TARGET
from mixcd.words.errors import DataError
from mixcd.words.vocabulary import Flags, Ids, TokenChange

_SAMPLES_AT_ONCE = 4096


@dataclass(frozen=True)
class TokenBits:
    """One bit a target token, sample after sample.

    Args:
        values: The bits in their order, the first of a byte the lowest, shape (bytes,); each part starts a new byte.
        starts: Where each sample's bits start, shape (samples,).
        counts: How many it has, shape (samples,).
    """

    values: NDArray[np.uint8]
    starts: Ids
    counts: Ids

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, place: int) -> Flags:
        """Return which target tokens of one sample are right, in their order."""
        start, count = int(self.starts[place]), int(self.counts[place])
        bits = np.unpackbits(self.values[start // 8 : (start + count + 7) // 8], bitorder="little")
        return bits[start % 8 : start % 8 + count].astype(bool)

    @cached_property
    def right_count(self) -> Ids:
        """How many target tokens of each sample are right, shape (samples,)."""
        counts = np.zeros(len(self), dtype=np.int64)
        for first in range(0, len(self), _SAMPLES_AT_ONCE):
            chosen = slice(first, first + _SAMPLES_AT_ONCE)
            starts, stops = self.starts[chosen], self.starts[chosen] + self.counts[chosen]
            offset = int(starts[0]) // 8
            bits = np.unpackbits(self.values[offset : (int(stops[-1]) + 7) // 8], bitorder="little")
            before = np.concatenate([[0], np.cumsum(bits, dtype=np.int64)])
            counts[chosen] = before[stops - 8 * offset] - before[starts - 8 * offset]
        return counts


def pack_tokens(right: Iterable[Flags]) -> NDArray[np.uint8]:
    """Pack which target tokens are right, sample after sample, into bits.

    Example:
        >>> pack_tokens([np.array([True, False]), np.array([True])])
        array([5], dtype=uint8)
    """
    return np.packbits(np.concatenate([np.zeros(0, dtype=bool), *right]), bitorder="little")


def join_bits(parts: Sequence[tuple[NDArray[np.uint8], Ids]]) -> TokenBits:
    """Join the bits of parts, each with the number of target tokens of its samples."""
    starts, offset = [], 0
    for values, counts in parts:
        starts.append(8 * offset + np.cumsum(counts) - counts)
        offset += len(values)
    values, all_counts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return TokenBits(values, np.concatenate(starts).astype(np.int64), all_counts.astype(np.int64))


def pack_samples(right: Sequence[Flags]) -> TokenBits:
    """Pack which target tokens of some samples are right.

    Example:
        >>> pack_samples([np.array([True, False]), np.array([True])]).right_count
        array([1, 1])
    """
    return join_bits([(pack_tokens(right), np.array([len(sample) for sample in right], dtype=np.int64))])


def split_tokens(tokens: NDArray[np.int8]) -> NDArray[Any]:
    """Return which target tokens of each sample are right, in their order.

    Args:
        tokens: What `Reading.tokens` holds, shape (samples, tokens).

    Returns:
        Shape (samples,), of one array of flags each.

    Example:
        >>> [sample.tolist() for sample in split_tokens(np.array([[-1, 1, 0], [-1, -1, 1]], dtype=np.int8))]
        [[True, False], [True]]
    """
    found = np.empty(len(tokens), dtype=object)
    for place, sample in enumerate(tokens):
        found[place] = sample[sample != NO_TARGET] == 1
    return found


def compare_tokens(before: TokenBits | None, places: Ids, now: Sequence[Flags], sample_ids: Ids) -> TokenChange:
    """Say what became of the target tokens of some samples.

    Args:
        before: What the base model had right; None where `places` names none of it.
        places: Where each sample is in `before`, shape (samples,); −1 for one without a prediction, of which only the
            target tokens are counted.
        now: Which of its target tokens the model now has right.
        sample_ids: What messages call the samples, shape (samples,).

    Raises:
        DataError: If a sample has another number of target tokens than it had.
    """
    counts = np.zeros((4, len(places)), dtype=np.int64)
    for number, (place, right_now) in enumerate(zip(places.tolist(), now, strict=True)):
        counts[0, number] = len(right_now)
        if before is None or place < 0:
            continue
        right_before = before[place]
        if len(right_before) != len(right_now):
            raise DataError(
                f"Sample {sample_ids[number]} has {len(right_now)} target tokens now, but had {len(right_before)} when "
                "the base model predicted it. Damage by token needs the same targets each time. Prepare rows in one "
                "way: without random masks, crops or templates."
            )
        counts[1:, number] = right_before.sum(), (right_before & ~right_now).sum(), (~right_before & right_now).sum()
    return TokenChange(*counts)
