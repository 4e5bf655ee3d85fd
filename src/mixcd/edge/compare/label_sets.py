"""The sets of labels of multi-label samples, by name: what bins and reports call them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

NO_LABEL = "none"
"""What the set without a label is called."""


def name_label_set(labels: Any, names: Sequence[str]) -> str:
    """Name a set of labels.

    Args:
        labels: 1 for each label that holds, 0 for the others, shape (labels,).
        names: The labels' names; their numbers where they have none.

    Example:
        >>> name_label_set([1.0, 0.0, 1.0], ["joy", "fear", "awe"]), name_label_set([0.0], [])
        ('joy + awe', 'none')
    """
    held = np.flatnonzero(np.asarray(labels) > 0.5).tolist()
    return " + ".join(names[number] if names else str(number) for number in held) or NO_LABEL


def name_label_sets(column: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """Name the set of labels of every sample: each sample has one set, so that sets are the bins of a partition.

    Args:
        column: Lists of zeros and ones, as long as there are labels, shape (samples,).

    Example:
        >>> name_label_sets(pa.chunked_array([[[1.0, 0.0], [1.0, 1.0]]]), ["joy", "awe"]).to_pylist()
        ['joy', 'joy + awe']
    """
    held = compute.list_flatten(column).to_numpy().reshape(len(column), -1) > 0.5
    packed = np.ascontiguousarray(np.packbits(held, axis=1))
    keys = packed.view(np.dtype((np.void, packed.shape[1])))[:, 0]  # a number a set, so that each is named once
    _, first, codes = np.unique(keys, return_index=True, return_inverse=True)
    set_names = pa.array([name_label_set(held[row], names) for row in first])
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(codes), set_names)])
