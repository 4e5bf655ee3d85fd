"""The prediction cache on disk: a manifest and Parquet parts, refused when they do not match."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mixcd.errors import CacheError

FORMAT = 1
MANIFEST = "manifest.json"
PART_SIZE = 16_384
"""Samples in one part: what an interruption can cost."""

_CURES = {
    "model": "If this is a resumed run, build the trainer from the base model, not from the checkpoint",
    "tokenizer": "Use the tokenizer that the cache was made with",
    "data": "Use the same prior data in the same order",
    "preprocessing": "Collate and truncate as before",
    "rule": "Judge correctness as before",
}


@dataclass(frozen=True)
class Manifest:
    """What a cache holds and what it was made from.

    Args:
        sources: Fingerprints of the model, tokenizer, data and preprocessing, and the correctness rule.
        sample_count: The number of samples in the prior data.
        share: The share of them that is cached, in (0, 1].
        seed: Which samples make up the share.
        columns: The columns of the prior data stored beside the predictions.
        part_size: Samples in a part.
        parts: The SHA-256 of each finished part, by file name.
        format: The version of this format.
    """

    sources: Mapping[str, str]
    sample_count: int
    share: float
    seed: int
    columns: tuple[str, ...]
    part_size: int = PART_SIZE
    parts: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


def part_name(number: int) -> str:
    """Return the file name of a part, from 0."""
    return f"part-{number:06d}.parquet"


def read_manifest(folder: Path) -> Manifest | None:
    """Read a cache's manifest.

    Args:
        folder: The cache's folder.

    Returns:
        The manifest, or None when the folder is missing or empty.

    Raises:
        CacheError: If the folder holds something else, or a manifest that cannot be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CacheError(
                f"`{folder}` is not a prediction cache: it holds other files and no `{MANIFEST}`. A cache needs a "
                "folder of its own. Pass an empty or new folder as `cache_dir`."
            )
        return None
    try:
        stored = json.loads(path.read_text("utf-8"))
        if stored["format"] > FORMAT:
            raise CacheError(
                f"`{path}` has format {stored['format']}, but this version of mixcd reads up to {FORMAT}. Upgrade "
                "mixcd, or pass a new folder as `cache_dir`."
            )
        return Manifest(**{**stored, "columns": tuple(stored["columns"])})
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(
            f"`{path}` cannot be read: {error}. It must be the JSON file that mixcd wrote. Restore it, or pass a new "
            "folder as `cache_dir`."
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a cache's manifest, whole or not at all.

    Args:
        folder: The cache's folder, made if it is missing.
        manifest: What to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(manifest), indent=1)
    _replace_file(folder / MANIFEST, lambda path: path.write_text(text, "utf-8"))


def require_match(folder: Path, found: Manifest, wanted: Manifest) -> None:
    """Refuse a cache that was made from something else.

    Args:
        folder: The cache's folder, for the message.
        found: Its manifest.
        wanted: The manifest that a new cache would have.

    Raises:
        CacheError: If a source, the number of samples or the stated share differs; says which.
    """
    if found.sample_count != wanted.sample_count:
        raise CacheError(
            f"The cache `{folder}` covers {found.sample_count} samples, but the prior data have "
            f"{wanted.sample_count}. A cache must cover the samples that training draws from. Use the same prior "
            "data, or pass a new folder as `cache_dir`."
        )
    if found.share != wanted.share:
        raise CacheError(
            f"The cache `{folder}` holds a share of {found.share:g} of the prior data, but {wanted.share:g} was asked "
            "for. Leave `share` out to use the cache as it is, or pass a new folder as `cache_dir`."
        )
    changed = [name for name, value in wanted.sources.items() if found.sources.get(name) != value]
    if changed:
        raise CacheError(
            f"The cache `{folder}` was made from another {' and '.join(changed)}. A cache only holds for what it was "
            f"made from. {_CURES[changed[0]]}; or pass a new folder as `cache_dir` to predict again."
        )


def write_part(folder: Path, manifest: Manifest, number: int, table: pa.Table) -> Manifest:
    """Write one part and enter it in the manifest; both appear whole or not at all.

    Args:
        folder: The cache's folder.
        manifest: The manifest so far.
        number: The part's number, from 0.
        table: The part's rows.

    Returns:
        The manifest with the part, as written.
    """
    path = folder / part_name(number)
    _replace_file(path, lambda unfinished: pq.write_table(table, unfinished, compression="zstd"))
    entered = replace(manifest, parts={**manifest.parts, path.name: _checksum(path)})
    write_manifest(folder, entered)
    return entered


def read_parts(folder: Path, manifest: Manifest) -> pa.Table:
    """Read all parts, each checked against its checksum.

    Args:
        folder: The cache's folder.
        manifest: Its manifest.

    Returns:
        The rows of all parts in the order of their sample ids.

    Raises:
        CacheError: If a part is missing, truncated or altered; names it.
    """
    return pa.concat_tables([_read_part(folder / name, checksum) for name, checksum in sorted(manifest.parts.items())])


def _read_part(path: Path, checksum: str) -> pa.Table:
    if not path.is_file():
        raise CacheError(f"The cache part `{path}` is missing. {_PART_CURE}")
    if _checksum(path) != checksum:
        raise CacheError(f"The cache part `{path}` was truncated or altered after it was written. {_PART_CURE}")
    return pq.read_table(path)


_PART_CURE = (
    "A cache must be as mixcd wrote it. Restore the file, or delete the cache folder and run again to predict anew."
)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace_file(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)
