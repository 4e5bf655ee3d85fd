"""Samplers that yield the planned rows: for a trainer's data loader, and for a loop of your own."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop

Row = int | tuple[int, ...]
"""A row number, or those of the prior samples of a pack."""


class PlanSampler(Sampler[Row]):
    """Yields the row numbers of one epoch's blocks, planned only when a trainer's loader asks for them."""

    def __init__(self, loop: RehearsalLoop) -> None:
        self._loop = loop
        self.skipped_steps = 0
        """Steps of the resumed epoch that were done before; set once, after a resume."""

    def __len__(self) -> int:
        return self._loop.plan.block_size * self._loop.steps_per_epoch

    def __iter__(self) -> Iterator[Row]:
        skipped, self.skipped_steps = self.skipped_steps, 0
        for _ in range(skipped * self._loop.plan.block_size):
            yield 0  # a placeholder: the resumed trainer skips these batches without reading them
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
