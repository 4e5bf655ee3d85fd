"""`replace_file`: a file appears whole or not at all; `naming_file`: an error of writing says which."""

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished"
"""The ending of a file that is being written; a killed process leaves one behind, and the next run replaces it."""

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_PROBE_SIZE = 2**20


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
        with naming_file(path):
            write(unfinished)
            os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Make an error of writing name the file or folder; those that safetensors and PyTorch raise become `OSError`.

    Args:
        path: What is written inside the block.

    Raises:
        OSError: If it cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _DISK_FAULTS:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    except Exception as error:
        number = _find_errno(error, path)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _find_errno(error: Exception, path: Path) -> int | None:
    """Why a library could not write: safetensors says it in words, PyTorch does not, so a small file is tried."""
    told = re.search(r"\(os error (\d+)\)", str(error))
    if told:
        return int(told[1])
    if "inline_container" not in str(error):
        return None
    try:
        with tempfile.TemporaryFile(dir=path if path.is_dir() else path.parent) as file:
            file.write(bytes(_PROBE_SIZE))
    except OSError as fault:
        return fault.errno
    return None
