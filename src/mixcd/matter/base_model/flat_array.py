"""Flat arrays of 16-bit floats on disk: written row by row in any order, memory-mapped when read."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from mixcd.words.errors import CacheError

_ITEM = np.dtype("<f2")
_NAME = "values"
RESTORE = (
    "A cache must be as mixcd wrote it. Restore the file, or delete the cache folder and run again to predict anew."
)
"""What to do about a file of a cache that is not as it was written."""


def create_array(path: Path, row_count: int, width: int) -> None:
    """Create a safetensors file of zeros, which takes no room on the disk until rows are written."""
    size = row_count * width * _ITEM.itemsize
    header = json.dumps({_NAME: {"dtype": "F16", "shape": [row_count, width], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def write_rows(path: Path, start: int, rows: NDArray[np.floating]) -> bytes:
    """Write consecutive rows, from number `start` on, and return the bytes that were written.

    Raises:
        CacheError: If the file is not as `create_array` made it.
        OSError: If they cannot be written, for example because the disk is full.
    """
    array, content = open_array(path), np.ascontiguousarray(rows, dtype=_ITEM).tobytes()
    with path.open("r+b") as file:  # a full disk would kill a process that writes to a memory map
        file.seek(array.offset + array[:start].nbytes)
        file.write(content)
    return content


def read_rows(path: Path, start: int, stop: int) -> bytes:
    """Read the bytes of consecutive rows; `stop` is the number after the last row's. Errors are `open_array`'s."""
    array = open_array(path)
    with path.open("rb") as file:
        file.seek(array.offset + array[:start].nbytes)
        return file.read(array[start:stop].nbytes)


def open_array(path: Path) -> np.memmap[Any, np.dtype[np.float16]]:
    """Map an array, shape (rows, width), into memory: rows are read from the disk when they are asked for.

    Raises:
        CacheError: If the file is not as `create_array` made it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> create_array(path, row_count=3, width=2)
        >>> _ = write_rows(path, 1, np.array([[1.0, 2.0]]))
        >>> open_array(path).tolist()
        [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]
    """
    try:
        with safe_open(path, "np") as file:
            shape = file.get_slice(_NAME).get_shape()
    except (OSError, SafetensorError) as error:
        raise CacheError(f"`{path}` cannot be read: {error}. {RESTORE}") from error
    return np.memmap(path, _ITEM, "r", path.stat().st_size - math.prod(shape) * _ITEM.itemsize, tuple(shape))
