"""The random numbers of the process: set aside for a while, so that what draws them draws the same every time."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def fixed_random_numbers(seed: int) -> Iterator[None]:
    """Draw the same random numbers inside the block every time; after it they go on as if it had not been.

    What draws from a generator of its own is not reached.

    Example:
        >>> with fixed_random_numbers(0):
        ...     first = random.random()
        >>> with fixed_random_numbers(0):
        ...     first == random.random()
        True
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
