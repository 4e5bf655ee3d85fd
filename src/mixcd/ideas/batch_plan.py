"""The batch plan: who sits where in the batch of every step."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mixcd.words.errors import SettingError
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Ids


@dataclass(frozen=True)
class BatchPlan:
    """The shape of every step's batch, as a pure function of (seed, step).

    A step's block is `block_size` row numbers: new samples are 0 … new_count − 1, prior sample i is
    new_count + i. A fixed share of each block is prior, to within one row, and exactly the mix ratio over
    many steps; it is spread evenly over the micro-batches. New samples come in one permutation after
    another, without gaps, so that an epoch's surplus rows open the next permutation. Those of a stream come in
    its own order, and its one epoch is the whole run.

    Paper: mix ratio β, mixed batch.

    Args:
        mix_ratio: β, the share of prior samples among all trained samples, inside (0, 1).
        micro_batch_size: Rows in one forward pass on one process.
        micro_batch_count: Micro-batches a step: processes × gradient accumulation steps.
        seed: The run's seed, from 0 to 2⁶⁴ − 1.
        by_rows: Whether the mix ratio is a share of the rows, so that every step needs a row of each; else the steps'
            rows are chosen elsewhere, by their tokens, and only dealt out here.
        in_order: Whether new samples come in their own order: those of a stream, as many as `count_new_rows` says.

    Raises:
        SettingError: If the mix ratio lies outside (0, 1), or a step would have less than one prior or
            less than one new row on average; or the seed is out of range.

    Example:
        >>> plan = BatchPlan(6, 9, mix_ratio=0.25, micro_batch_size=4, micro_batch_count=1, seed=0)
        >>> plan.steps_per_epoch, plan.prior_row_count(0)
        (2, 1)
        >>> [int(row) for row in plan.block(0, np.array([5]))]
        [11, 2, 1, 3]
    """

    new_count: int
    prior_count: int
    mix_ratio: float
    micro_batch_size: int
    micro_batch_count: int
    seed: int
    by_rows: bool = True
    in_order: bool = False

    def __post_init__(self) -> None:
        require_mix_ratio(self.mix_ratio)
        if not 0 <= self.seed < 2**64:
            raise SettingError(f"`seed` is {self.seed}, but it must lie between 0 and 2**64 - 1. Pass one of these.")
        prior_rows = self.mix_ratio * self.block_size  # β · block
        for rows, kind, cure in ((prior_rows, "prior", "larger"), (self.block_size - prior_rows, "new", "smaller")):
            if self.by_rows and round(rows, 9) < 1:
                raise SettingError(
                    f"`mix_ratio` {self.mix_ratio} of a block of {self.block_size} rows leaves {rows:.3g} {kind} rows "
                    f"a step, but every step needs at least 1. Use a {cure} mix ratio or a larger batch."
                )

    @property
    def block_size(self) -> int:
        """Rows in one optimizer step, over all processes and micro-batches."""
        return self.micro_batch_size * self.micro_batch_count

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every new sample has been seen: ⌈new / ((1 − β) · block)⌉; of a stream, all."""
        steps = self.new_count / ((1 - self.mix_ratio) * self.block_size)
        return round(steps) if self.in_order else math.ceil(round(steps, 9))

    def prior_row_count(self, step: int) -> int:
        """Return the number of prior rows in a step: β · block, fractions dithered over the steps."""
        return self._prior_rows_before(step + 1) - self._prior_rows_before(step)

    def block(self, step: int, prior_ids: Ids) -> Ids:
        """Return the row numbers of one step's block, micro-batch after micro-batch, shape (block_size,).

        Args:
            step: The optimizer step, from 0.
            prior_ids: The prior samples drawn for this step, shape (prior_row_count(step),).
        """
        new_rows = self.new_rows(self.new_rows_before(step), self.new_rows_before(step + 1))
        return self.deal(self.new_count + prior_ids, new_rows)

    def deal(self, prior_rows: Ids, new_rows: Ids) -> Ids:
        """Deal a step's rows out to its micro-batches, the prior ones evenly, shape (block_size,)."""
        parts, taken = [], 0
        for part in range(self.micro_batch_count):
            own_prior_rows = prior_rows[part :: self.micro_batch_count]
            left = taken + self.micro_batch_size - own_prior_rows.size
            parts += [own_prior_rows, new_rows[taken:left]]
            taken = left
        return np.concatenate(parts)

    def new_rows_before(self, step: int) -> int:
        """Return the number of new rows in all steps before one."""
        return step * self.block_size - self._prior_rows_before(step)

    def _prior_rows_before(self, step: int) -> int:
        return _count_prior_rows(step, self.mix_ratio, self.block_size)

    def new_rows(self, start: int, stop: int) -> Ids:
        """Return the numbers of the new rows from one place in their order to another, shape (stop − start,)."""
        if self.in_order:
            return np.arange(start, stop, dtype=np.int64) % self.new_count
        pieces = []
        for epoch in range(start // self.new_count, (stop - 1) // self.new_count + 1):
            offset = epoch * self.new_count
            pieces.append(_permutation(self.seed, epoch, self.new_count)[max(0, start - offset) : stop - offset])
        return np.concatenate(pieces)


def require_mix_ratio(mix_ratio: float) -> None:
    """Refuse a mix ratio β outside (0, 1), by a `SettingError`."""
    if not 0 < mix_ratio < 1:
        raise SettingError(
            f"`mix_ratio` is {mix_ratio}, but it must lie strictly between 0 and 1: it is the share of prior samples "
            "in every batch. Pass a value such as 0.25."
        )


def count_new_rows(step_count: int, mix_ratio: float, block_size: int) -> int:
    """Return the number of new rows in the first steps of a run.

    Example:
        >>> count_new_rows(10, mix_ratio=0.25, block_size=4)
        30
    """
    return step_count * block_size - _count_prior_rows(step_count, mix_ratio, block_size)


def _count_prior_rows(step_count: int, mix_ratio: float, block_size: int) -> int:
    return math.floor(step_count * mix_ratio * block_size + 0.5)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> Ids:
    rows = keyed_generator(seed, epoch, Stream.PERMUTATIONS).permutation(count)
    rows.setflags(write=False)
    return rows
