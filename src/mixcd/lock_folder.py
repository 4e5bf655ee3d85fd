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
    with _hold(folder / LOCK, folder, "folder"):
        yield


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold a file that is written again and again inside the block, likewise.

    Args:
        path: The file; its folder is made if it is missing.

    Raises:
        FolderInUseError: If another process holds it.
    """
    with _hold(path.with_name(f".{path.name}{LOCK}"), path, "file"):
        yield


@contextmanager
def _hold(lock_path: Path, what: Path, kind: str) -> Iterator[None]:
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"`{what}` is in use by another run, which is still going. Two runs must not write to one {kind}. Wait "
            f"for it or stop it, or choose another {kind}."
        ) from error
    try:
        yield
    finally:
        lock.release()
