"""Samplers that yield the planned rows: for a trainer's data loader, and for a loop of your own."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop

Row = int | tuple[int, ...]
"""A row number, or those of the prior samples of a pack."""


class PlanSampler(Sampler[Any]):
    """Yields the row numbers of one epoch's blocks, planned only when a trainer's loader asks for them.

    Where the new rows are a stream's, each comes as (step, number): whoever reads ahead must know where steps end.
    """

    def __init__(self, loop: RehearsalLoop) -> None:
        self._loop = loop
        self.skipped_steps = 0
        """Steps of the resumed epoch that were done before; set once, after a resume."""

    def __len__(self) -> int:
        return self._loop.plan.block_size * self._loop.steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        skipped, self.skipped_steps = self.skipped_steps, 0
        plan = self._loop.plan
        for _ in range(skipped * plan.block_size):
            yield 0  # a placeholder: the resumed trainer skips these batches without reading them
        if plan.in_order:  # a stream's one epoch is the whole run, also where a resumed trainer skips nothing
            yield from _plan_stream(self._loop)
        else:
            yield from _plan(self._loop, self._loop.steps_per_epoch - skipped)


class EpochSampler(Sampler[Row]):
    """Yields the row numbers of the blocks that are left of an epoch, planned only when they are asked for."""

    def __init__(self, loop: RehearsalLoop) -> None:
        self._loop = loop

    def __len__(self) -> int:
        return self._left() * self._loop.plan.block_size

    def __iter__(self) -> Iterator[Row]:
        yield from _plan(self._loop, self._left())

    def _left(self) -> int:
        per_epoch = self._loop.steps_per_epoch
        return per_epoch - self._loop.steps_done % per_epoch


def _plan(loop: RehearsalLoop, step_count: int) -> Iterator[Row]:
    first = loop.steps_done
    for step in range(first, first + step_count):
        yield from loop.block(step).tolist()


def _plan_stream(loop: RehearsalLoop) -> Iterator[tuple[int, int]]:
    for step in range(loop.steps_done, loop.plan.steps_per_epoch):
        yield from ((step, number) for number in loop.block(step).tolist())
