"""`replace_file`: a file appears whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

UNFINISHED = ".unfinished"
"""The ending of a file that is being written; a killed process leaves one behind, and the next run replaces it."""


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, then rename it: readers see the old file or the new one.

    Args:
        path: The file.
        write: Writes the content to the path it is given.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        write(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
