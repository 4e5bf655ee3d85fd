"""The prediction cache on disk: a manifest and Parquet parts, refused when they do not match."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load, save

from mixcd.matter.base_model.flat_array import RESTORE, read_rows, write_rows
from mixcd.matter.base_model.head_features import FeatureBasis
from mixcd.matter.base_model.token_bits import pack_tokens
from mixcd.words.errors import CacheError
from mixcd.words.files import LOCK, UNFINISHED, replace_file
from mixcd.words.vocabulary import Flags

FORMAT = 3
MANIFEST = "manifest.json"
TARGET_COUNT = "target_count"
"""The column of a part with each sample's number of target tokens, in language models."""
BASIS = "basis.safetensors"
TEXTS = "texts.json"
"""What the base model wrote by itself, beside held-out predictions."""
BESIDE = (BASIS, TEXTS, "features.safetensors", "logits.safetensors")
"""What may lie beside the parts; a pass that was killed before its manifest leaves some of it behind."""

_CURES = {
    "model": "If this is a resumed run, build the trainer from the base model, not from the checkpoint",
    "settings": "Let the model compute as it did then",
    "tokenizer": "Use the tokenizer that the cache was made with",
    "data": "Use the same prior data in the same order",
    "preprocessing": "Collate and truncate as before",
    "rule": "Judge correctness as before",
}


@dataclass(frozen=True)
class Manifest:
    """What a cache holds and what it was made from.

    Args:
        sources: Fingerprints of the model, tokenizer, data and preprocessing; what the model computes with; the
            correctness rule.
        share: The share of them that is cached, in (0, 1].
        seed: Which samples make up the share.
        columns: The columns of the prior data stored beside the predictions.
        part_size: Samples in a part.
        arrays: Numbers a sample in each flat array beside the parts: `logits`, `features`.
        basis: The checksum of the file that maps head inputs to features, when there are features.
        parts: The checksum of each part, by file name; those of an unfinished pass lie beside the parts.
        false_damage_rate: The share of samples that were right and are wrong when they are read again; None where
            rows are the same each time, or that was not looked at yet.
    """

    sources: Mapping[str, str]
    sample_count: int
    share: float
    seed: int
    columns: tuple[str, ...]
    part_size: int
    arrays: Mapping[str, int] = field(default_factory=dict)
    basis: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    false_damage_rate: float | None = None
    format: int = FORMAT


def part_name(number: int) -> str:
    """Return the file name of a part, from 0."""
    return f"part-{number:06d}.parquet"


def read_manifest(folder: Path) -> Manifest | None:
    """Read a cache's manifest; None when the folder is missing or empty.

    Raises:
        CacheError: If the folder holds something else, or a manifest that is not as it was written.
    """
    path = folder / MANIFEST
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(map(_is_foreign, folder.iterdir()))):
            raise CacheError(
                f"`{folder}` is not a prediction cache: it holds other files and no `{MANIFEST}`. A cache needs a "
                "folder of its own. Choose an empty or new folder for the cache."
            )
        return None
    try:
        content = path.read_bytes()
        stored = json.loads(content)
        if stored["format"] != FORMAT:
            cure = "Upgrade mixcd" if stored["format"] > FORMAT else "Read it with the version of mixcd that wrote it"
            raise CacheError(
                f"`{path}` has format {stored['format']}, but this version of mixcd reads format {FORMAT}. {cure}, or "
                "choose a new folder for the cache to predict again."
            )
        del stored["checksum"]
        manifest = Manifest(**{**stored, "columns": tuple(stored["columns"])})
        if _render(manifest) != content:
            raise ValueError("it was altered after it was written")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CacheError):
            raise
        raise CacheError(
            f"`{path}` cannot be read: {error}. It must be the JSON file that mixcd wrote. Restore it, or choose a new "
            "folder for the cache."
        ) from error
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a cache's manifest, whole or not at all; the folder is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(folder / MANIFEST) as unfinished:
        unfinished.write_bytes(_render(manifest))


def require_match(folder: Path, found: Manifest, wanted: Manifest) -> None:
    """Refuse a cache that was made from something else than the manifest says that a new one would have.

    Raises:
        CacheError: If a source, the number of samples or the stated share differs; says which.
    """
    if found.sample_count != wanted.sample_count:
        raise CacheError(
            f"The cache `{folder}` covers {found.sample_count} samples, but the prior data have "
            f"{wanted.sample_count}. A cache must cover the samples that training draws from. Use the same prior "
            "data, or choose a new folder for the cache."
        )
    if found.share != wanted.share:
        raise CacheError(
            f"The cache `{folder}` holds a share of {found.share:g} of the prior data, but {wanted.share:g} was asked "
            "for. Leave `share` out to use the cache as it is, or choose a new folder for the cache."
        )
    changed = [name for name, value in wanted.sources.items() if found.sources.get(name) != value]
    if changed == ["settings"]:
        raise CacheError(
            f"The cache `{folder}` was made by this model with other settings, which decide what it predicts: "
            f"{differing_settings(found.sources['settings'], wanted.sources['settings'])}. {_CURES['settings']}; or "
            "choose a new folder for the cache to predict again."
        )
    if changed:
        raise CacheError(
            f"The cache `{folder}` was made from another {' and '.join(changed)}. A cache only holds for what it was "
            f"made from. {_CURES[changed[0]]}; or choose a new folder for the cache to predict again."
        )


def differing_settings(before: str, now: str) -> str:
    """Say in which settings two texts of `describe_settings` differ; empty where in none.

    Example:
        >>> differing_settings('{"padding token": 3, "autocast": null}', '{"padding token": 2, "autocast": null}')
        'padding token 3, now 2'
    """
    old, new = json.loads(before), json.loads(now)
    return ", ".join(f"{name} {old.get(name)}, now {new.get(name)}" for name in new if old.get(name) != new.get(name))


def write_part(
    folder: Path,
    manifest: Manifest,
    number: int,
    table: pa.Table,
    arrays: Mapping[str, NDArray[np.floating]] = MappingProxyType({}),
    right_tokens: Sequence[Flags] = (),
) -> None:
    """Write one part, then its checksum beside it; each appears whole or not at all.

    Processes may write different parts at the same time.

    Args:
        number: The part's number, from 0.
        arrays: Its rows of the flat arrays, by their names in the manifest.
        right_tokens: Which target tokens of each row are right, where there are target tokens.
    """
    path = folder / part_name(number)
    start = number * manifest.part_size
    flat = [write_rows(array_path(folder, name), start, arrays[name]) for name in sorted(manifest.arrays)]
    if TARGET_COUNT in table.column_names:
        bits = pack_tokens(right_tokens).tobytes()
        with replace_file(bits_path(folder, path.name)) as unfinished:
            unfinished.write_bytes(bits)
        flat.append(bits)
    with replace_file(path) as unfinished:
        others = [name for name in table.column_names if name != TARGET_COUNT]
        split = {TARGET_COUNT: "BYTE_STREAM_SPLIT"} if len(others) < table.num_columns else None  # a quarter smaller
        pq.write_table(table, unfinished, compression="zstd", use_dictionary=others, column_encoding=split)
    checksum = _checksum(manifest, path.name, path.read_bytes() + b"".join(flat))
    with replace_file(path.with_suffix(".sha256")) as unfinished:
        unfinished.write_text(checksum, "ascii")


def bits_path(folder: Path, part: str) -> Path:
    """Return the file of the bits of a part's target tokens, by the file name of the part."""
    return (folder / part).with_suffix(".bits")


def array_path(folder: Path, name: str) -> Path:
    """Return the file of a flat array, by its name in the manifest."""
    return folder / f"{name}.safetensors"


def write_basis(folder: Path, basis: FeatureBasis) -> str:
    """Write what maps head inputs to features, and return the file's checksum, for the manifest."""
    values = {"mean": basis.mean, "components": np.ascontiguousarray(basis.components)}
    with replace_file(folder / BASIS) as unfinished:
        unfinished.write_bytes(save(values))
    return hashlib.sha256((folder / BASIS).read_bytes()).hexdigest()


def read_basis(folder: Path, manifest: Manifest) -> FeatureBasis:
    """Read what maps head inputs to features; a `CacheError` if the file is missing or was altered."""
    path = folder / BASIS
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != manifest.basis:
        raise CacheError(f"The cache file `{path}` is missing, or was altered after it was written. {RESTORE}")
    return FeatureBasis(**load(content))


def cached_count(manifest: Manifest) -> int:
    """Return how many samples a cache covers when it is complete."""
    return math.ceil(manifest.share * manifest.sample_count)


def list_parts(folder: Path, manifest: Manifest) -> dict[str, str]:
    """List the checksums of the finished parts by file name, in sample order, those of an unfinished pass too."""
    beside = {
        path.with_suffix(".parquet").name: path.read_text("ascii", errors="replace")
        for path in folder.glob("part-*.sha256")
    }
    return dict(sorted({**beside, **manifest.parts}.items()))


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Enter all parts in the manifest, and return it as written; nothing is left beside them."""
    parts = list_parts(folder, manifest)
    if parts != manifest.parts:
        manifest = replace(manifest, parts=parts)
        write_manifest(folder, manifest)
    for path in folder.glob("part-*.sha256"):
        path.unlink()
    return manifest


def drop_cache(folder: Path) -> None:
    """Remove a cache: one of a pass that was refused would only stand in the way of the corrected one.

    Other files in the folder are left.
    """
    for path in (path for kind in ("parquet", "bits", "sha256") for path in folder.glob(f"part-*.{kind}")):
        path.unlink(missing_ok=True)
    for name in (MANIFEST, *BESIDE):
        (folder / name).unlink(missing_ok=True)


def read_parts(folder: Path, manifest: Manifest) -> Iterator[pa.Table]:
    """Read the tables of `read_parts_with_bits`."""
    return (table for table, _ in read_parts_with_bits(folder, manifest))


def read_parts_with_bits(folder: Path, manifest: Manifest) -> Iterator[tuple[pa.Table, NDArray[np.uint8]]]:
    """Read the parts one after another, in the order of the sample ids, each checked before anything in it is used.

    Yields:
        A part's table, and the bits of its target tokens, as `pack_tokens` packs them; none for other tasks.

    Raises:
        CacheError: If a part is missing, truncated or altered; names it.
    """
    for name, checksum in sorted(manifest.parts.items()):
        content, bits = _read_checked(folder, manifest, name, checksum)
        yield pq.read_table(pa.BufferReader(content)), np.frombuffer(bits, dtype=np.uint8)


def check_parts(folder: Path, manifest: Manifest) -> None:
    """Refuse an unfinished cache with an altered part, before the pass goes on and anything is written."""
    for name, checksum in list_parts(folder, manifest).items():
        _read_checked(folder, manifest, name, checksum)


def _read_checked(folder: Path, manifest: Manifest, name: str, checksum: str) -> tuple[bytes, bytes]:
    path = folder / name
    if not path.is_file():
        raise CacheError(f"The cache part `{path}` is missing. {RESTORE}")
    content = path.read_bytes()
    flat = _read_flat(folder, manifest, int(path.stem.removeprefix("part-")))
    bits = bits_path(folder, name).read_bytes() if bits_path(folder, name).is_file() else b""
    if _checksum(manifest, name, content + flat + bits) != checksum:
        if not bits and _counts_targets(content):
            raise CacheError(f"The cache file `{bits_path(folder, name)}` is missing or empty. {RESTORE}")
        arrays = " and ".join(f"`{array_path(Path(), array)}`" for array in sorted(manifest.arrays))
        beside = f", or its rows of {arrays}" if arrays else ""
        beside += f", or `{bits_path(folder, name).name}` beside it" if bits else ""
        raise CacheError(f"The cache part `{path}`{beside} was truncated or altered after it was written. {RESTORE}")
    return content, bits


def _counts_targets(content: bytes) -> bool:
    """Whether a part has bits of target tokens beside it, as far as it can be read."""
    try:
        return TARGET_COUNT in pq.read_schema(pa.BufferReader(content)).names
    except (pa.ArrowException, OSError):
        return False


def _read_flat(folder: Path, manifest: Manifest, number: int) -> bytes:
    start = number * manifest.part_size
    stop = min(start + manifest.part_size, cached_count(manifest))
    return b"".join(read_rows(array_path(folder, name), start, stop) for name in sorted(manifest.arrays))


def _render(manifest: Manifest) -> bytes:
    """The one text of a manifest: any other byte in the file shows that it was altered."""
    values: dict[str, Any] = asdict(manifest)
    checksum = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return json.dumps({**values, "checksum": checksum}, indent=1).encode()


def _checksum(manifest: Manifest, name: str, content: bytes) -> str:
    """A part's SHA-256, keyed by its place: parts do not pass for each other, nor for another cache's."""
    shape = [manifest.sample_count, manifest.share, manifest.seed, list(manifest.columns), manifest.part_size]
    place = [dict(manifest.sources), *shape, dict(manifest.arrays), manifest.basis, name]
    return hashlib.sha256(json.dumps(place, sort_keys=True).encode() + content).hexdigest()


def _is_foreign(path: Path) -> bool:
    return path.name not in (LOCK, *BESIDE) and not path.name.endswith(UNFINISHED)
