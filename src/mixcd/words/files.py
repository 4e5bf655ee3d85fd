"""Files that appear whole or not at all, errors of writing that name the file, and one writer a folder at a time."""

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mixcd.words.errors import FolderInUseError, SettingError

UNFINISHED = ".unfinished"
"""The ending of a file that is being written; a killed process leaves one behind, and the next run replaces it."""

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_PROBE_SIZE = 2**20


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a file under the temporary name inside the block, then rename it: readers see the old file or the new one.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with naming_file(path):
            yield unfinished
            os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Make a full or read-only disk name the file or folder, and an `OSError` of what libraries raise instead."""
    try:
        yield
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not _find_errno(cause, path):
            cause = cause.__cause__
        number = _find_errno(cause, path)
        if number is None:
            raise
        name = getattr(cause, "filename", None) or str(path)
        raise OSError(number, os.strerror(number), name) from error


def is_disk_fault(error: OSError) -> bool:
    """Whether the disk is full or read-only."""
    return error.errno in _DISK_FAULTS


def _find_errno(error: BaseException, path: Path) -> int | None:
    """What is wrong with the disk: safetensors says it in words; PyTorch does not, so a small file is tried."""
    if isinstance(error, OSError):
        return error.errno if is_disk_fault(error) else None
    told = re.search(r"\(os error (\d+)\)", str(error))
    if told:
        return int(told[1])
    if not any(words in str(error) for words in ("inline_container", "iostream error")):
        return None
    try:
        with tempfile.TemporaryFile(dir=path if path.is_dir() else path.parent) as file:
            file.write(bytes(_PROBE_SIZE))
    except OSError as fault:
        return fault.errno
    return None


def require_free(paths: Iterable[str | Path | None], what: str, *, overwrite: bool, read: Iterable[Path] = ()) -> None:
    """Refuse places where files cannot be written, before anything is computed for them.

    Args:
        paths: The files; None for one that is not wanted.
        what: What messages call such a file, such as "a report".
        overwrite: Whether files that are there may be replaced.
        read: Files that are read, and must not be written.

    Raises:
        SettingError: If one cannot be written, or is named twice.
    """
    taken = {path.resolve() for path in read}
    for path in (Path(one) for one in paths if one is not None):
        if path.resolve() in taken:
            raise SettingError(f"`{path}` is named twice, but {what} needs a file of its own. Name another file.")
        taken.add(path.resolve())
        if path.is_dir():
            raise SettingError(f"`{path}` is a folder, but {what} is a file. Name a file.")
        if path.exists() and not overwrite:
            raise SettingError(
                f"`{path}` exists already, and nothing is overwritten unasked. Name another file, or pass "
                "`overwrite=True` (on the command line `--overwrite`)."
            )
        if not path.parent.is_dir():
            raise SettingError(f"`{path}` cannot be written: there is no folder `{path.parent}`. Make it first.")


LOCK = ".lock"
"""The file that a folder's writer holds; it may stay behind, unheld."""


def lock_folder(folder: Path) -> AbstractContextManager[None]:
    """Hold a folder inside the block, made if it is missing; the lock ends with the process, however it ends.

    Raises:
        FolderInUseError: If another process holds it.
    """
    return _hold(folder / LOCK, folder, "folder")


def lock_file(path: Path) -> AbstractContextManager[None]:
    """Hold a file that is written again and again inside the block, as `lock_folder` holds a folder."""
    return _hold(path.with_name(f".{path.name}{LOCK}"), path, "file")


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
