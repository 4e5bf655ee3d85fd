"""Randomness keyed on (seed, number): counter-based generators, and no hidden state."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a generator is for; streams of one key never overlap."""

    DRAWS = 0
    PERMUTATIONS = 1
    SHARES = 2
    CONTROLS = 3
    HELD_OUT = 4
    FEATURES = 5
    PROBES = 6


def keyed_generator(seed: int, number: int, stream: Stream) -> np.random.Generator:
    """Return a fresh Philox generator; the same for the same arguments, on every machine.

    Args:
        seed: The run's seed, from 0 to 2⁶⁴ − 1.
        number: The step, the epoch, or whatever the randomness belongs to.
        stream: What it is for.

    Returns:
        The generator.

    Example:
        >>> keyed_generator(0, 7, Stream.DRAWS).integers(100, size=5).tolist()
        [81, 58, 4, 89, 91]
    """
    key = np.array([seed, number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, int(stream)]))
