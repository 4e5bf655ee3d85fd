"""The prior pass: the one inference of the base model over the prior data, part by part into the cache."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from mixcd.batched_inference import Collate, evaluating, predict_rows
from mixcd.errors import CacheError
from mixcd.keyed_random import Stream, keyed_generator
from mixcd.lock_folder import lock_folder
from mixcd.prediction_cache import (
    MANIFEST,
    Manifest,
    check_parts,
    list_parts,
    part_name,
    read_manifest,
    require_match,
    seal,
    write_manifest,
    write_part,
)
from mixcd.prior_dataset import PriorDataset
from mixcd.vocabulary import Ids, require_finite_losses

LEAST_PART_SIZE, MOST_PART_SIZE = 256, 16_384
"""Samples in one part: what an interruption can cost."""
_USUAL_PART_COUNT = 16
_ROWS_AT_ONCE = 4096
"""Rows that are sorted by length together, and held in memory."""


@dataclass(frozen=True)
class Processes:
    """The processes that share a prior pass.

    Args:
        rank: This one's number, from 0.
        count: How many there are.
        wait: Returns when all of them have called it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], object] = lambda: None


ALONE = Processes()


def choose_part_size(cached_count: int) -> int:
    """Choose how many samples a part holds: the same for every number of processes, and so are the results.

    Args:
        cached_count: Samples to predict.

    Returns:
        A sixteenth of them, within bounds.

    Example:
        >>> choose_part_size(100), choose_part_size(30_000), choose_part_size(10**6)
        (256, 1875, 16384)
    """
    return min(max(math.ceil(cached_count / _USUAL_PART_COUNT), LEAST_PART_SIZE), MOST_PART_SIZE)


@dataclass(frozen=True)
class PriorPass:
    """One inference of a model over prior data, on one process or several.

    Args:
        model: The base model, the same on every process.
        prior: The prior data.
        collate_fn: Makes a batch of a list of rows.
        batch_size: Rows a batch at the length of the longest row.
        progress: Whether to show a progress bar with the time left.
        processes: Who shares the pass.
    """

    model: torch.nn.Module
    prior: PriorDataset
    collate_fn: Collate
    batch_size: int
    progress: bool
    processes: Processes = ALONE

    def fill(self, folder: Path, wanted: Manifest, keep_share: bool) -> tuple[Manifest, int]:
        """Predict what a cache lacks; each process writes its own parts, and the first one the manifest.

        Args:
            folder: The cache's folder.
            wanted: The manifest that a new cache would have.
            keep_share: Whether a cache of another share is used as it is.

        Returns:
            The manifest of the complete cache, and the forward passes that this process made.

        Raises:
            CacheError: If the folder holds something else, or a cache that does not match.
            FolderInUseError: If another run is filling the cache.
            DataError: If rows have no labels, unknown labels, or losses that are not finite.
            OSError: If the cache cannot be written.
        """
        is_first, wait = self.processes.rank == 0, self.processes.wait
        with ExitStack() as stack:
            if is_first and not _is_complete(folder, read_manifest(folder)):
                stack.enter_context(lock_folder(folder))
                found = read_manifest(folder)
                if found is None or not list_parts(folder, found):
                    write_manifest(folder, wanted)
                    stack.callback(_drop_empty, folder)
            wait()
            manifest = self._require_manifest(folder)
            require_match(folder, manifest, replace(wanted, share=manifest.share) if keep_share else wanted)
            if not _is_complete(folder, manifest):
                check_parts(folder, manifest)
            with evaluating(self.model):
                forward_count = self._predict_missing(folder, manifest)
            wait()
            if is_first and not _is_complete(folder, manifest):
                seal(folder, manifest)
            wait()
        return self._require_manifest(folder), forward_count

    def _require_manifest(self, folder: Path) -> Manifest:
        manifest = read_manifest(folder)
        if manifest is None:
            raise CacheError(
                f"Process {self.processes.rank} sees no cache in `{folder}`, where process 0 wrote one. All processes "
                "must see the same folder. Choose a folder on a shared file system for the cache."
            )
        return manifest

    def _predict_missing(self, folder: Path, manifest: Manifest) -> int:
        """Predict and write this process's parts that the cache lacks; return the forward passes made."""
        finished, size, count = list_parts(folder, manifest), manifest.part_size, cached_count(manifest)
        covered = _list_ids(manifest)
        own = range(self.processes.rank * size, count, self.processes.count * size)
        hidden = not (self.progress and self.processes.rank == 0) or None
        forward_count = 0
        with tqdm(total=sum(min(size, count - start) for start in own), desc="prior pass", disable=hidden) as bar:
            for start in own:
                ids = np.asarray(covered[start : start + size])
                if part_name(start // size) in finished:
                    bar.update(ids.size)
                    continue
                chunks = [ids[first : first + _ROWS_AT_ONCE] for first in range(0, ids.size, _ROWS_AT_ONCE)]
                tables, forward_counts = zip(
                    *(self._predict_chunk(chunk, manifest.columns, bar.update) for chunk in chunks), strict=True
                )
                write_part(folder, manifest, start // size, pa.concat_tables(tables))
                forward_count += sum(forward_counts)
        return forward_count

    def _predict_chunk(
        self, sample_ids: Ids, columns: tuple[str, ...], advance: Callable[[int], object]
    ) -> tuple[pa.Table, int]:
        rows = self.prior.rows(sample_ids.tolist())
        predicted, forward_count = predict_rows(
            self.model,
            rows,
            sample_ids,
            collate_fn=self.collate_fn,
            batch_size=self.batch_size,
            data_name=self.prior.name,
            advance=advance,
        )
        require_finite_losses(sample_ids, predicted["loss"])
        stored = {name: self.prior.read_column(name, sample_ids, rows) for name in columns}
        return pa.table({"sample_id": sample_ids, **predicted, **stored}), forward_count


def cached_count(manifest: Manifest) -> int:
    """Return how many samples a cache covers when it is complete.

    Args:
        manifest: The cache's manifest.
    """
    return math.ceil(manifest.share * manifest.sample_count)


def _list_ids(manifest: Manifest) -> range | Ids:
    """The samples that a cache covers, ascending: all, or the keyed selection of its share."""
    if manifest.share == 1:
        return range(manifest.sample_count)
    rng = keyed_generator(manifest.seed, 0, Stream.SHARES)
    return np.sort(rng.choice(manifest.sample_count, cached_count(manifest), replace=False, shuffle=False))


def _drop_empty(folder: Path) -> None:
    """Remove the manifest of a pass that was refused before it wrote a part."""
    if not any(folder.glob("part-*")):
        (folder / MANIFEST).unlink()


def _is_complete(folder: Path, manifest: Manifest | None) -> bool:
    """Whether nothing remains to be written: such a cache may lie on a read-only disk."""
    if manifest is None:
        return False
    part_count = math.ceil(cached_count(manifest) / manifest.part_size)
    return len(manifest.parts) == part_count and not any(folder.glob("part-*.sha256"))
