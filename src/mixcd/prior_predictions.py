"""The prior pass: the one inference of the base model over the prior data, cached on disk."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mixcd.batched_inference import Collate, collate, evaluating, predict_rows
from mixcd.correctness import CLASSIFICATION_RULE
from mixcd.errors import CacheError, DataError, SettingError
from mixcd.fingerprint import fingerprint_batch, fingerprint_rows, fingerprint_tokenizer, fingerprint_weights
from mixcd.keyed_random import Stream, keyed_generator
from mixcd.prediction_cache import (
    PART_SIZE,
    Manifest,
    part_name,
    read_manifest,
    read_parts,
    require_match,
    write_manifest,
    write_part,
)
from mixcd.prior_dataset import PriorDataset
from mixcd.vocabulary import Flags, Floats, Ids, require_finite_losses

LEAST_SHARE_RIGHT = 0.2
"""Below this share of right predictions the base model has too little to lose."""

_PREPROCESSING_ROWS = 8


@dataclass(frozen=True)
class PriorPredictions:
    """What the base model predicted for the prior samples, in the order of their ids.

    Args:
        sample_count: The number of prior samples; a partial cache holds fewer.
        sample_ids: The cached samples, ascending, shape (cached,).
        loss: The base model's loss on each, in nats, shape (cached,).
        correct: Whether the base model got each right, shape (cached,).
        prediction: The class it predicted, shape (cached,).
        token_count: Input tokens that are not padding, shape (cached,).
        columns: Columns of the prior data stored beside them, each of shape (cached,).
        sources: Fingerprints of what the predictions were made from.
        forward_count: Forward passes made to get them in this call; 0 when all came from the cache.
    """

    sample_count: int
    sample_ids: Ids
    loss: Floats
    correct: Flags
    prediction: Ids
    token_count: Ids
    columns: Mapping[str, NDArray[Any]]
    sources: Mapping[str, str]
    forward_count: int

    @property
    def base_correct(self) -> Flags:
        """Whether the base model got each prior sample right, shape (samples,); False where not cached."""
        correct = np.zeros(self.sample_count, dtype=bool)
        correct[self.sample_ids] = self.correct
        return correct


def predict_prior(
    model: torch.nn.Module,
    prior_data: Any,
    cache_dir: str | Path,
    *,
    collate_fn: Collate,
    tokenizer: Any = None,
    batch_size: int = 8,
    columns: Sequence[str] = (),
    share: float | None = None,
    seed: int = 0,
    progress: bool = True,
    part_size: int = PART_SIZE,
    least_share_right: float = LEAST_SHARE_RIGHT,
) -> PriorPredictions:
    """Run the base model once over the prior data, or read what an earlier run cached.

    No gradient is computed, and the model's training mode is put back. An interrupted pass resumes at the
    first missing part. Nothing in the folder is overwritten: a cache made from something else is refused.

    Paper: the prior model's predictions are cached once, before fine-tuning.

    Args:
        model: The base model: called with a batch, it returns `logits` of shape (samples, classes).
        prior_data: Prepared rows (what `collate_fn` takes): a `datasets.Dataset`, a map-style dataset, or
            a dict of them.
        cache_dir: The cache's folder.
        collate_fn: Makes a batch of a list of rows, with `labels` in it, as in training.
        tokenizer: Fingerprinted, so that a cache made with another one is refused.
        batch_size: Rows a batch at the length of the longest row. Shorter rows share larger batches of no
            more padded tokens than that.
        columns: Columns of the prior data to store beside the predictions of a new cache.
        share: The share of the prior samples to predict, in (0, 1]; None for what the cache has, or all.
        seed: Which samples make up the share of a new cache.
        progress: Whether to show a progress bar with the time left.
        part_size: Samples in a part of a new cache: what an interruption can cost.
        least_share_right: The share of right predictions below which the pass is refused.

    Returns:
        The predictions.

    Raises:
        SettingError: If `share` or `batch_size` make no sense.
        DataError: If the data are empty, lack labels or a column, have labels outside the model's classes
            or losses that are not finite; or if the model is right on too few samples.
        CacheError: If the folder holds something else, or a cache that does not match or was altered.
        UnsupportedTrainerError: If the model's output shows no class logits.
    """
    _require_settings(share, batch_size)
    prior = prior_data if isinstance(prior_data, PriorDataset) else PriorDataset(prior_data)
    folder = Path(cache_dir)
    wanted = Manifest(
        sources={
            "model": fingerprint_weights(model),
            "tokenizer": fingerprint_tokenizer(tokenizer),
            "data": fingerprint_rows(prior),
            "preprocessing": fingerprint_batch(
                collate(collate_fn, prior.rows(range(len(prior))[:_PREPROCESSING_ROWS]))
            ),
            "rule": CLASSIFICATION_RULE,
        },
        sample_count=len(prior),
        share=share or 1.0,
        seed=seed,
        columns=tuple(columns),
        part_size=part_size,
    )
    manifest = read_manifest(folder)
    if manifest is None or not manifest.parts:
        manifest = wanted
        write_manifest(folder, manifest)
    require_match(folder, manifest, wanted if share else replace(wanted, share=manifest.share))
    with evaluating(model):
        manifest, forward_count = _predict_missing(model, prior, folder, manifest, collate_fn, batch_size, progress)
    predictions = _load(folder, manifest, forward_count)
    _require_enough_right(predictions, least_share_right)
    return predictions


def _predict_missing(
    model: torch.nn.Module,
    prior: PriorDataset,
    folder: Path,
    manifest: Manifest,
    collate_fn: Collate,
    batch_size: int,
    progress: bool,
) -> tuple[Manifest, int]:
    """Predict and write the parts that the manifest lacks; return it with them, and the forward passes made."""
    stored = {name: prior.column(name) for name in manifest.columns}
    forward_count = 0
    with tqdm(total=_cached_count(manifest), desc="prior pass", disable=not progress) as bar:
        for number, ids in _parts(manifest):
            if part_name(number) in manifest.parts:
                bar.update(ids.size)
                continue
            predicted, part_forward_count = predict_rows(
                model,
                prior.rows(ids.tolist()),
                ids,
                collate_fn=collate_fn,
                batch_size=batch_size,
                data_name=prior.name,
                advance=bar.update,
            )
            require_finite_losses(ids, predicted["loss"])
            extra = {name: column[ids] for name, column in stored.items()}
            manifest = write_part(folder, manifest, number, pa.table({"sample_id": ids, **predicted, **extra}))
            forward_count += part_forward_count
    return manifest, forward_count


def _require_settings(share: float | None, batch_size: int) -> None:
    if share is not None and not 0 < share <= 1:
        raise SettingError(f"`share` is {share}, but it must lie in (0, 1]. Pass 1 to predict every prior sample.")
    if batch_size < 1:
        raise SettingError(f"`batch_size` is {batch_size}, but a batch needs at least 1 row. Pass 1 or more.")


def _parts(manifest: Manifest) -> list[tuple[int, Ids]]:
    ids = _cached_ids(manifest)
    starts = range(0, ids.size, manifest.part_size)
    return [(number, ids[start : start + manifest.part_size]) for number, start in enumerate(starts)]


def _cached_count(manifest: Manifest) -> int:
    return math.ceil(manifest.share * manifest.sample_count)


def _cached_ids(manifest: Manifest) -> Ids:
    if manifest.share == 1:
        return np.arange(manifest.sample_count)
    rng = keyed_generator(manifest.seed, 0, Stream.SHARES)
    return np.sort(rng.choice(manifest.sample_count, _cached_count(manifest), replace=False, shuffle=False))


def _load(folder: Path, manifest: Manifest, forward_count: int) -> PriorPredictions:
    table = read_parts(folder, manifest)
    sample_ids = table["sample_id"].to_numpy()
    if not np.array_equal(sample_ids, _cached_ids(manifest)):
        raise CacheError(
            f"The cache `{folder}` covers other samples than its manifest says. A cache must be as mixcd wrote it. "
            "Delete the folder and run again to predict anew."
        )
    return PriorPredictions(
        sample_count=manifest.sample_count,
        sample_ids=sample_ids,
        loss=table["loss"].to_numpy().astype(np.float64),
        correct=table["correct"].to_numpy(),
        prediction=table["prediction"].to_numpy(),
        token_count=table["token_count"].to_numpy(),
        columns={name: table[name].to_numpy() for name in manifest.columns},
        sources=manifest.sources,
        forward_count=forward_count,
    )


def _require_enough_right(predictions: PriorPredictions, least_share_right: float) -> None:
    share_right = float(predictions.correct.mean())
    if share_right < least_share_right:
        raise DataError(
            f"The base model is right on {share_right:.1%} of the prior samples, but rehearsal needs at least "
            f"{least_share_right:.0%}: only what it gets right can be damaged. Check that the model was trained on the "
            "prior task, and that labels and preprocessing are those it was trained with."
        )
