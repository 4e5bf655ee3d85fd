"""Packing: which prior samples share a row of a step, and how many of its rows are prior, by their tokens."""

import math
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Ids

_TRIED_ROWS, _TRIED_STEPS = 2048, 512
"""New rows, and steps, after which it is known well enough how many a step takes."""


@dataclass(frozen=True)
class Mixture:
    """What was planned so far: a value.

    Args:
        new_row_count: New rows that were taken.
        prior_tokens: Tokens of prior samples.
        all_tokens: Tokens of prior samples and of new rows.
    """

    new_row_count: int = 0
    prior_tokens: int = 0
    all_tokens: int = 0

    def error(self, mix_ratio: float) -> float:
        """Return by how many tokens the prior data are ahead of their share: prior − β · all."""
        return self.prior_tokens - mix_ratio * self.all_tokens


@dataclass(frozen=True)
class FilledStep:
    """The rows of a step.

    Args:
        packs: The prior samples of each prior row; one in each where samples are not packed.
        new_row_count: New rows, which come next in their order.
        drawn_count: Prior samples, which are the first in the order of arrival.
        mixture: What was planned so far, with this step.
    """

    packs: list[tuple[int, ...]]
    new_row_count: int
    drawn_count: int
    mixture: Mixture


@dataclass(frozen=True)
class Packing:
    """Fills the rows of a step: a pure function of what was planned before and of the order of arrival.

    Row after row is prior while the prior data are behind their share of the tokens, and new otherwise. So they are
    never further from it than one row is long: new rows and packs hold tokens that are known when they are planned.

    Paper: mix ratio β, here of tokens.

    Args:
        mix_ratio: β, the share of the prior samples.
        block_size: Rows of a step.
        new_tokens: Tokens of each new row, shape (new,), positive.
        prior_tokens: Tokens of each prior sample, shape (prior,), positive.
        capacity: Tokens that a pack of prior samples holds, at least as many as the longest has; None where each has
            a row of its own.

    Example:
        >>> packing = Packing(0.25, 4, np.array([8, 8, 8, 8]), np.array([5, 3, 4]), capacity=8)
        >>> filled = packing.fill(Mixture(), np.array([0, 1, 2, 3]), np.array([2, 0, 1]))
        >>> filled.packs, filled.new_row_count, filled.mixture.error(0.25)
        ([(2,), (0, 1)], 2, 5.0)
    """

    mix_ratio: float
    block_size: int
    new_tokens: Ids
    prior_tokens: Ids
    capacity: int | None

    @property
    def longest_row(self) -> int:
        """The tokens of the longest row, new or prior: the mix ratio is exact to within so many."""
        return int(max(self.new_tokens.max(), self.capacity or self.prior_tokens.max()))

    def fill(self, before: Mixture, new_rows: Ids, arriving: Ids, prior_row_count: int | None = None) -> FilledStep:
        """Choose the rows of the step that follows.

        Samples are packed in the order of arrival, each into the fullest row with room for it. When the next fits in
        none, another prior row is opened for it, or, when the step has enough, it is left out.

        Args:
            new_rows: The new rows that come next, shape (at least the block size,).
            arriving: Prior samples in the order in which they are drawn, shape (samples,); again from the first one
                when all are used.
            prior_row_count: How many rows are prior; None for as many as the share of the tokens asks for.
        """
        packs, now = _Packs(), before
        taken = drawn = 0
        for _ in range(self.block_size):
            behind = now.error(self.mix_ratio) < 0
            if behind if prior_row_count is None else len(packs.samples) < prior_row_count:
                count, tokens = self._fill_one(packs, arriving, drawn, bounded=prior_row_count is None)
                drawn += count
                now = replace(now, prior_tokens=now.prior_tokens + tokens, all_tokens=now.all_tokens + tokens)
            else:
                tokens = int(self.new_tokens[new_rows[taken]])
                taken += 1
                now = replace(now, new_row_count=now.new_row_count + 1, all_tokens=now.all_tokens + tokens)
        return FilledStep([tuple(pack) for pack in packs.samples], taken, drawn, now)

    def _fill_one(self, packs: "_Packs", arriving: Ids, drawn: int, bounded: bool) -> tuple[int, int]:
        """Open one more prior row, and place as many samples as fit in all that are open.

        Args:
            bounded: Whether they may have no more tokens than one row holds.

        Returns:
            How many samples were placed, and their tokens.
        """
        first_id = int(arriving[drawn % len(arriving)])
        placed, count = int(self.prior_tokens[first_id]), 1
        capacity = placed if self.capacity is None else self.capacity
        packs.open(first_id, capacity - placed)
        while True:
            sample_id = int(arriving[(drawn + count) % len(arriving)])
            tokens = int(self.prior_tokens[sample_id])
            if (bounded and placed + tokens > capacity) or not packs.place(sample_id, tokens):
                return count, placed
            count, placed = count + 1, placed + tokens


class _Packs:
    """The prior rows of a step while they are filled."""

    def __init__(self) -> None:
        self.samples: list[list[int]] = []
        self._rooms: list[tuple[int, int]] = []  # of each row, by room

    def open(self, sample_id: int, room: int) -> None:
        """Open a row for a sample, with room left after it."""
        insort(self._rooms, (room, len(self.samples)))
        self.samples.append([sample_id])

    def place(self, sample_id: int, tokens: int) -> bool:
        """Place a sample in the row with the least room that is enough; say whether there is one."""
        at = bisect_left(self._rooms, (tokens, 0))
        if at == len(self._rooms):
            return False
        room, row = self._rooms.pop(at)
        self.samples[row].append(sample_id)
        insort(self._rooms, (room - tokens, row))
        return True


@dataclass(frozen=True)
class Pace:
    """How fast a run goes through the data.

    Args:
        steps_per_epoch: Steps after which about every new row was taken once.
        draws_a_step: Prior samples of a step, on average, rounded up.
    """

    steps_per_epoch: int
    draws_a_step: int


def measure_pace(packing: Packing, seed: int, prior_row_count: Callable[[int], int | None] = lambda _: None) -> Pace:
    """Fill some steps with uniform draws, and see how many new rows and prior samples they take.

    Args:
        prior_row_count: How many rows of a step are prior, as in `Packing.fill`.
    """
    rng = keyed_generator(seed, 0, Stream.PACES)
    new_count = packing.new_tokens.size
    rows = rng.permutation(new_count)
    mixture, step, drawn = Mixture(), 0, 0
    while not mixture.new_row_count or (mixture.new_row_count < _TRIED_ROWS and step < _TRIED_STEPS):
        start = mixture.new_row_count
        coming = np.take(rows, range(start, start + packing.block_size), mode="wrap")
        arriving = rng.integers(packing.prior_tokens.size, size=packing.block_size * 8)
        filled = packing.fill(mixture, coming, arriving, prior_row_count(step))
        mixture, step, drawn = filled.mixture, step + 1, drawn + filled.drawn_count
    return Pace(math.ceil(new_count * step / mixture.new_row_count), math.ceil(drawn / step))
