"""One thread for matrices of a few thousand numbers: more would wait for those that the model computes with."""

from functools import cache

from threadpoolctl import LibController, ThreadpoolController


class SmallMatrices:
    """Let numpy compute with one thread inside a `with` block. A class: a generator would take half as long again.

    Planning and learning multiply small matrices between two steps of the model. PyTorch's threads are still
    spinning then, and numpy's would compete with them for the cores: on two cores that made a step a fifth longer.

    The first thread of Python's that enters such a block sets the number, for as long as it lives; in other threads the
    block changes nothing (threadpoolctl's rule: the number is the whole process's).
    """

    def __enter__(self) -> None:
        self._counts = [(library, library.get_num_threads()) for library in _find_libraries()]
        for library, _ in self._counts:
            library.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        for library, count in self._counts:
            library.set_num_threads(count)


@cache
def _find_libraries() -> tuple[LibController, ...]:
    """Those that multiply matrices. Looking through all that are loaded takes long, and so does its `limit`."""
    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)
