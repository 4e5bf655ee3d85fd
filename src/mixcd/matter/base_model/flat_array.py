"""Flat arrays of 16-bit floats on disk: written row by row in any order, memory-mapped when read."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ITEM = np.dtype("<f2")
_NAME = "values"


def create_array(path: Path, row_count: int, width: int) -> None:
    """Create a safetensors file of zeros, which takes no room on the disk until rows are written.

    Args:
        path: The file.
        row_count: Its rows.
        width: Numbers in a row.

    Raises:
        OSError: If it cannot be written.
    """
    size = row_count * width * _ITEM.itemsize
    header = json.dumps({_NAME: {"dtype": "F16", "shape": [row_count, width], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def write_rows(path: Path, start: int, rows: NDArray[np.floating]) -> bytes:
    """Write consecutive rows.

    Args:
        path: A file that `create_array` made.
        start: The first row's number.
        rows: Shape (rows, width).

    Returns:
        The bytes that were written.

    Raises:
        OSError: If they cannot be written, for example because the disk is full.
    """
    content = np.ascontiguousarray(rows, dtype=_ITEM).tobytes()
    with path.open("r+b") as file:
        file.seek(_data_start(path) + start * rows.shape[1] * _ITEM.itemsize)
        file.write(content)
    return content


def read_rows(path: Path, start: int, stop: int) -> bytes:
    """Read the bytes of consecutive rows.

    Args:
        path: A file that `create_array` made.
        start: The first row's number.
        stop: The number after the last row's.

    Returns:
        The bytes; fewer when the file was cut short.
    """
    width = open_array(path).shape[1]
    with path.open("rb") as file:
        file.seek(_data_start(path) + start * width * _ITEM.itemsize)
        return file.read((stop - start) * width * _ITEM.itemsize)


def open_array(path: Path) -> NDArray[np.float16]:
    """Map an array into memory: rows are read from the disk when they are asked for.

    Args:
        path: A file that `create_array` made.

    Returns:
        Shape (rows, width).

    Raises:
        ValueError: If the file is not as `create_array` made it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> create_array(path, row_count=3, width=2)
        >>> _ = write_rows(path, 1, np.array([[1.0, 2.0]]))
        >>> open_array(path).tolist()
        [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]
    """
    start = _data_start(path)
    with path.open("rb") as file:
        file.seek(8)
        shape = tuple(json.loads(file.read(start - 8))[_NAME]["shape"])
    return np.memmap(path, dtype=_ITEM, mode="r", offset=start, shape=shape)


def _data_start(path: Path) -> int:
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    if start > path.stat().st_size:
        raise ValueError(f"`{path}` has no whole header")
    return start
