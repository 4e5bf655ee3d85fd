"""`lock_folder`: one writer a folder at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mixcd.errors import FolderInUseError

LOCK = ".lock"
"""The file that a folder's writer holds; it may stay behind, unheld."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder inside the block; the lock ends with the process, however it ends.

    Args:
        folder: The folder, made if it is missing.

    Raises:
        FolderInUseError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"`{folder}` is in use by another run, which is still going. Two runs must not write to one folder. Wait "
            "for it or stop it, or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
