"""One thread for matrices of a few thousand numbers: more would wait for those that the model computes with."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def small_matrices() -> Iterator[None]:
    """Let numpy compute with one thread inside the block.

    Planning and learning multiply small matrices between two steps of the model. PyTorch's threads are still
    spinning then, and numpy's would compete with them for the cores: on two cores that made a step a fifth longer.
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries: once
