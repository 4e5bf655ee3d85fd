"""A pool of texts: all rows of one task, from which each seed draws those that are held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Ids


@dataclass(frozen=True)
class TextPool:
    """All rows of one task, training and held-out, in an order that does not depend on a seed.

    Args:
        name: Names its files.
        texts: One text, or a pair of texts, a row.
        labels: Class numbers, shape (rows,).
        held_out_count: How many rows to hold out, at most.
        first_test_row: Where rows begin that the data give as test rows; None when there are none.
        groups: Group numbers from 0 on, shape (rows,): rows of one group are held out together, as many groups as fit;
            None for no groups.
        is_compared: Whether a pair's features are the differences and the products of those of its two texts, instead
            of those of the pair read as one.
    """

    name: str
    texts: Sequence[tuple[str, ...]]
    labels: NDArray[np.int64]
    held_out_count: int
    first_test_row: int | None = None
    groups: NDArray[np.int64] | None = None
    is_compared: bool = False

    def split(self, seed: int) -> tuple[Ids, Ids]:
        """Draw which rows are held out.

        Args:
            seed: The seed.

        Returns:
            The row numbers of the training rows and of the held-out rows, each in random order.
        """
        rng = keyed_generator(seed, 0, Stream.HELD_OUT)
        order = rng.permutation(len(self.labels))
        if self.first_test_row is not None:
            return order[order < self.first_test_row], order[order >= self.first_test_row][: self.held_out_count]
        if self.groups is None:
            return order[self.held_out_count :], order[: self.held_out_count]
        sizes = np.bincount(self.groups)
        drawn = rng.permutation(sizes.size)
        is_held_out = np.isin(self.groups[order], drawn[np.cumsum(sizes[drawn]) <= self.held_out_count])
        return order[~is_held_out], order[is_held_out]
