"""The prior pass: the one inference of the base model over the prior data, part by part into the cache."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mixcd.matter.base_model.batched_inference import GROUP_ROWS
from mixcd.matter.base_model.flat_array import create_array
from mixcd.matter.base_model.head_features import FITTED_ROWS, FeatureBasis, fit_basis
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prediction_cache import (
    Manifest,
    array_path,
    cached_count,
    check_parts,
    drop_cache,
    list_parts,
    part_name,
    read_basis,
    read_manifest,
    require_match,
    seal,
    write_basis,
    write_manifest,
    write_part,
)
from mixcd.words.errors import CacheError, DataError, UnsupportedTrainerError
from mixcd.words.files import lock_folder
from mixcd.words.keyed_random import Stream, choose_distinct
from mixcd.words.vocabulary import Ids, require_finite_losses

LEAST_PART_SIZE, MOST_PART_SIZE = 1024, 16_384
"""Samples in one part: what an interruption can cost."""
_USUAL_PART_COUNT = 16


def choose_part_size(cached_count: int) -> int:
    """Choose how many samples a part holds: a sixteenth of all, within bounds.

    It is the same for every number of processes, and so are the results.

    Example:
        >>> choose_part_size(100), choose_part_size(30_000), choose_part_size(10**6)
        (1024, 1875, 16384)
    """
    return min(max(math.ceil(cached_count / _USUAL_PART_COUNT), LEAST_PART_SIZE), MOST_PART_SIZE)


@dataclass(frozen=True)
class PriorPass:
    """One inference of a model over prior data, on one process or several.

    Args:
        feature_count: Features to cache, with the class logits where there are any; 0 for neither.
    """

    inference: Inference
    feature_count: int = 0

    def fill(self, folder: Path, wanted: Manifest, keep_share: bool) -> tuple[Manifest, int]:
        """Predict what a cache lacks; each process writes its own parts, and the first one the manifest.

        Args:
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
        is_first, wait = self.inference.processes.rank == 0, self.inference.processes.wait
        fit_count = 0
        with ExitStack() as stack:
            if is_first and not _is_complete(folder, read_manifest(folder)):
                stack.enter_context(lock_folder(folder))
                found = read_manifest(folder)
                if found is None or not list_parts(folder, found):
                    stack.callback(_drop_empty, folder)
                    created, fit_count = self._create_arrays(folder, wanted)
                    write_manifest(folder, created)
            wait()
            manifest = self._require_manifest(folder)
            require_match(folder, manifest, replace(wanted, share=manifest.share) if keep_share else wanted)
            if not _is_complete(folder, manifest):
                check_parts(folder, manifest)
            self._require_features(folder, manifest)
            try:
                forward_count = self._predict_missing(folder, manifest)
            except (DataError, UnsupportedTrainerError):  # what was predicted is of no use to the corrected run
                drop_cache(folder)
                raise
            wait()
            if is_first and not _is_complete(folder, manifest):
                seal(folder, manifest)
            wait()
        return self._require_manifest(folder), forward_count + fit_count

    def predict_some(self, sample_ids: Ids) -> tuple[dict[str, NDArray[Any]], int]:
        """Predict some samples as `Inference.predict` does, and write nothing."""
        predicted, forward_count = self.inference.predict(sample_ids)
        require_finite_losses(sample_ids, predicted["loss"])
        return predicted, forward_count

    def _require_manifest(self, folder: Path) -> Manifest:
        manifest = read_manifest(folder)
        if manifest is None:
            raise CacheError(
                f"Process {self.inference.processes.rank} sees no cache in `{folder}`, where process 0 wrote one. All "
                "processes must see the same folder. Choose a folder on a shared file system for the cache."
            )
        return manifest

    def _create_arrays(self, folder: Path, wanted: Manifest) -> tuple[Manifest, int]:
        """Fit the features on some samples, and create the flat arrays; return the manifest, and the forward passes."""
        if not self.feature_count:
            return wanted, 0
        covered = _list_ids(wanted)
        chosen = choose_distinct(wanted.seed, 0, Stream.FEATURES, FITTED_ROWS, among=len(covered))
        ids = np.asarray(covered)[chosen]
        predicted, forward_count = self.inference.predict(ids, with_head_input=True)
        basis = fit_basis(predicted["head_input"], self.feature_count)
        folder.mkdir(parents=True, exist_ok=True)
        checksum = write_basis(folder, basis)
        arrays = {"features": basis.components.shape[1]}
        if "logits" in predicted:
            arrays["logits"] = predicted["logits"].shape[1]
        for name, width in arrays.items():
            create_array(array_path(folder, name), cached_count(wanted), width)
        return replace(wanted, arrays=arrays, basis=checksum), forward_count

    def _require_features(self, folder: Path, manifest: Manifest) -> None:
        if self.feature_count and not manifest.arrays:
            raise CacheError(
                f"The cache `{folder}` holds no features, which the estimator or the partition needs. They are cached "
                "when the base model predicts. Choose a new folder for the cache to predict again."
            )

    def _predict_missing(self, folder: Path, manifest: Manifest) -> int:
        """Predict and write this process's parts that the cache lacks; return the forward passes made."""
        processes = self.inference.processes
        finished, size, count = list_parts(folder, manifest), manifest.part_size, cached_count(manifest)
        covered = _list_ids(manifest)
        own = range(processes.rank * size, count, processes.count * size)
        hidden = not (self.inference.progress and processes.rank == 0) or None
        basis = read_basis(folder, manifest) if manifest.arrays else None
        forward_count = 0
        with tqdm(total=sum(min(size, count - start) for start in own), desc="prior pass", disable=hidden) as bar:
            for start in own:
                ids = np.asarray(covered[start : start + size])
                if part_name(start // size) in finished:
                    bar.update(ids.size)
                    continue
                chunks = [ids[first : first + GROUP_ROWS] for first in range(0, ids.size, GROUP_ROWS)]
                tables, arrays, forward_counts = zip(
                    *(self._predict_chunk(chunk, manifest.columns, basis, bar.update) for chunk in chunks), strict=True
                )
                flat = {name: np.concatenate([chunk[name] for chunk in arrays]) for name in manifest.arrays}
                right = [sample for chunk in arrays for sample in chunk.get("right_tokens", ())]
                write_part(folder, manifest, start // size, pa.concat_tables(tables), flat, right)
                forward_count += sum(forward_counts)
        return forward_count

    def _predict_chunk(
        self, sample_ids: Ids, columns: tuple[str, ...], basis: FeatureBasis | None, advance: Callable[[int], object]
    ) -> tuple[pa.Table, dict[str, NDArray[Any]], int]:
        stored: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}

        def store(ids: Ids, rows: list[Any], _: object) -> None:
            for name, parts in stored.items():
                parts.append(self.inference.data.read_column(name, ids, rows))

        predicted, forward_count = self.inference.predict(
            sample_ids, advance=advance, look=store, with_head_input=basis is not None
        )
        require_finite_losses(sample_ids, predicted["loss"])
        arrays: dict[str, NDArray[Any]] = {}
        if basis is not None:
            arrays["features"] = basis.apply(predicted.pop("head_input"))
            if "logits" in predicted:
                arrays["logits"] = predicted.pop("logits")
        if "right_tokens" in predicted:
            arrays["right_tokens"] = predicted.pop("right_tokens")
            predicted["target_count"] = np.array([len(sample) for sample in arrays["right_tokens"]], dtype=np.int32)
        columns_found = {name: np.concatenate(parts) for name, parts in stored.items()}
        return pa.table({"sample_id": sample_ids, **predicted, **columns_found}), arrays, forward_count


def _list_ids(manifest: Manifest) -> range | Ids:
    """The samples that a cache covers, ascending: all, or the keyed selection of its share."""
    if manifest.share == 1:
        return range(manifest.sample_count)
    return choose_distinct(manifest.seed, 0, Stream.SHARES, cached_count(manifest), among=manifest.sample_count)


def _drop_empty(folder: Path) -> None:
    """Remove what a pass began that was refused before it wrote a part."""
    if not any(folder.glob("part-*")):
        drop_cache(folder)


def _is_complete(folder: Path, manifest: Manifest | None) -> bool:
    """Whether nothing remains to be written: such a cache may lie on a read-only disk."""
    if manifest is None:
        return False
    part_count = math.ceil(cached_count(manifest) / manifest.part_size)
    return len(manifest.parts) == part_count and not any(folder.glob("part-*.sha256"))
