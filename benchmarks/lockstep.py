"""Two trainers in lockstep: they take turns step by step, so that whatever else the machine does meets both.

The turn passes between a step's batch and its forward pass, which begins with cold caches in any case: what follows a
step's end, planning the next batch, follows it at once, as in a lone trainer.
"""

import ctypes
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Trainer, TrainerCallback

HEAP_CHOICES = {-8: 1, -3: 1 << 30, -1: (1 << 31) - 1}
"""Numbers of the C library's `mallopt`: one heap for all threads, for allocations of any size, never given back."""


@dataclass(frozen=True)
class Steps:
    """What one trainer's steps took.

    Args:
        seconds: Time of each step but the last, from one `on_step_begin` to the next, waiting left out.
        cpu_seconds: Processor time of the same steps, over all threads.
        forward_count: Forward passes with gradients.
    """

    seconds: NDArray[np.float64]
    cpu_seconds: NDArray[np.float64]
    forward_count: int


def train_in_lockstep(trainers: Sequence[Trainer], first: int) -> list[Steps]:
    """Train with two trainers, one step of the one after one step of the other.

    Only one of them runs at any time. They share one model, so that its place in memory plays no part.

    Args:
        trainers: Two trainers of the same model and with as many steps as each other.
        first: Which of them begins.

    Returns:
        What each one's steps took.
    """
    _share_heap()
    turns = _Turns(first)
    clocks = [_Clock(turns, player) for player in range(2)]
    forward_counts = [0, 0]

    def count_forward(*_: Any) -> None:
        forward_counts[turns.player] += torch.is_grad_enabled()

    def train(player: int) -> None:
        turns.take(player)
        try:
            trainers[player].train()
        finally:
            turns.leave(player)

    for trainer, clock in zip(trainers, clocks, strict=True):
        trainer.add_callback(clock)
    hook = trainers[0].model.register_forward_hook(count_forward)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, range(2)))
    hook.remove()
    return [Steps(*np.transpose(clock.times), count) for clock, count in zip(clocks, forward_counts, strict=True)]


def _share_heap() -> None:
    """Let both threads allocate as a lone trainer does, where the C library is GNU's.

    With a heap each, that of one of them gave memory back at every step, and page faults made it a tenth slower.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for option, value in HEAP_CHOICES.items():
            library.mallopt(option, value)


class _Turns:
    """Whose turn it is."""

    def __init__(self, first: int) -> None:
        self.player = first
        self._changed = threading.Condition()
        self._left: set[int] = set()

    def take(self, player: int) -> None:
        """Wait until it is this player's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self.player == player)

    def pass_on(self, player: int) -> None:
        """End this player's turn, unless the other has left."""
        with self._changed:
            if 1 - player not in self._left:
                self.player = 1 - player
            self._changed.notify_all()

    def leave(self, player: int) -> None:
        """End this player's last turn."""
        self._left.add(player)
        self.pass_on(player)


class _Clock(TrainerCallback):
    """Times a trainer's steps, and passes the turn on before each."""

    def __init__(self, turns: _Turns, player: int) -> None:
        self.times: list[tuple[float, float]] = []
        self._turns = turns
        self._player = player
        self._start: tuple[float, float] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note what the step before took, let the other make a step, and start the clock again."""
        _await_device()
        wall, cpu = time.perf_counter(), time.process_time()
        if self._start is not None:
            self.times.append((wall - self._start[0], cpu - self._start[1]))
        self._turns.pass_on(self._player)
        self._turns.take(self._player)
        self._start = time.perf_counter(), time.process_time()


def _await_device() -> None:
    """Wait until a GPU has done what it was given: a step is over then."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
