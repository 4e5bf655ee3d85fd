"""Synthetic outcomes of two models on the same samples."""

import numpy as np

from mixcd.words.vocabulary import Partition


def make_uneven(count=20_000, seed=0):
    """Topic 2 is damaged at 40 %, the others at 4 %."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 3, count)
    damaged = rng.random(count) < np.where(topic == 2, 0.4, 0.04)
    return np.ones(count, dtype=bool), ~damaged, Partition(topic, ("topic=0", "topic=1", "topic=2"))
