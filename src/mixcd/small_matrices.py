"""One thread for matrices of a few thousand numbers: more would wait for those that the model computes with."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import LibController, ThreadpoolController


@contextmanager
def small_matrices() -> Iterator[None]:
    """Let numpy compute with one thread inside the block.

    Planning and learning multiply small matrices between two steps of the model. PyTorch's threads are still
    spinning then, and numpy's would compete with them for the cores: on two cores that made a step a fifth longer.

    The first thread of Python's that enters such a block sets the number, for as long as it lives; in other threads the
    block changes nothing (threadpoolctl's rule: the number is the whole process's).
    """
    libraries = _find_libraries()
    counts = [library.get_num_threads() for library in libraries]
    for library in libraries:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, count in zip(libraries, counts, strict=True):
            library.set_num_threads(count)


@cache
def _find_libraries() -> tuple[LibController, ...]:
    """Those that multiply matrices. Looking through all that are loaded takes long, and so does its `limit`."""
    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)
