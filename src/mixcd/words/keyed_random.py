"""Randomness keyed on (seed, number): counter-based generators, and no hidden state."""

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray


class Stream(IntEnum):
    """What a generator is for; streams of one key never overlap."""

    DRAWS = 0
    PERMUTATIONS = 1
    SHARES = 2
    CONTROLS = 3
    HELD_OUT = 4
    FEATURES = 5
    PROBES = 6
    FIRST_ROWS = 7
    SECOND_READINGS = 8
    PACES = 9
    RESAMPLES = 10


def keyed_generator(seed: int, number: int, stream: Stream) -> np.random.Generator:
    """Return a fresh Philox generator; the same for the same arguments, on every machine.

    Args:
        seed: The run's seed, from 0 to 2⁶⁴ − 1.
        number: The step, the epoch, or whatever the randomness belongs to.

    Example:
        >>> keyed_generator(0, 7, Stream.DRAWS).integers(100, size=5).tolist()
        [81, 58, 4, 89, 91]
    """
    key = _Key(np.array([seed, number], dtype=np.uint64))
    counter = np.array([0, 0, 0, stream], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key, counter=counter))  # type: ignore[arg-type]  # a seed sequence


def choose_distinct(seed: int, number: int, stream: Stream, count: int, *, among: int) -> NDArray[np.int64]:
    """Choose distinct numbers from 0 to `among` − 1 at random, all of them where there are no more; ascending."""
    rng = keyed_generator(seed, number, stream)
    return np.sort(rng.choice(among, min(count, among), replace=False, shuffle=False))


class _Key(ISeedSequence):
    """The key of a Philox generator; given one as `key`, numpy would ask the system for entropy beside it: slow."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[np.uint64]:
        """Return the key."""
        return self._words
