"""The prior pass: the one inference of the base model over the prior data, cached on disk."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from mixcd.matter.base_model.batched_inference import Collate, collate
from mixcd.matter.base_model.flat_array import open_array
from mixcd.matter.base_model.inference import ONE_PROCESS, Inference, Processes
from mixcd.matter.base_model.model_fingerprint import fingerprint_batch, fingerprint_model, make_stable_batch
from mixcd.matter.base_model.prediction_cache import (
    TARGET_COUNT,
    Manifest,
    array_path,
    drop_cache,
    read_manifest,
    read_parts_with_bits,
)
from mixcd.matter.base_model.prior_pass import PriorPass, choose_part_size
from mixcd.matter.base_model.reading_noise import note_false_damage
from mixcd.matter.base_model.require_apart import require_apart
from mixcd.matter.base_model.token_bits import TokenBits, compare_tokens, join_bits
from mixcd.matter.correctness import CorrectnessRule, RightTokens, choose_rule
from mixcd.matter.model_shape.model_limits import require_fixed_masks
from mixcd.matter.prior_and_new_data.fingerprint import fingerprint_rows, fingerprint_tokenizer
from mixcd.matter.prior_and_new_data.packed_rows import count_tokens
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.matter.prior_and_new_data.split_choice import choose_rehearsed
from mixcd.words.errors import DataError, SettingError, shorten
from mixcd.words.keyed_random import Stream, choose_distinct
from mixcd.words.vocabulary import (
    UNCACHED_BIN,
    Flags,
    Floats,
    Ids,
    Partition,
    PartitionStrategy,
    PriorTable,
    TokenChange,
)

LEAST_SHARE_RIGHT = 0.2
"""Below this share of right predictions the base model has too little to lose."""

PREPROCESSING_ROWS = 8
"""Rows whose batch shows how rows are collated."""
_LEAST_NAMED, _USUAL_SHARE = 0.01, 0.7
_FIRST_ROWS, _FIRST_ROWS_OF = 256, 4096
"""Samples that a pass over at least so many looks at first, to be refused at once if it is."""
_CERTAINTY = 0.9999

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PriorPredictions:
    """What the base model predicted for the prior samples, in the order of their ids.

    Args:
        sample_count: The number of prior samples; a partial cache holds fewer.
        sample_ids: The cached samples, ascending, shape (cached,).
        loss: The base model's loss on each, in nats (a regression's in squared units), shape (cached,).
        correct: Whether the base model got each right, shape (cached,).
        prediction: The class it predicted, shape (cached,); None where predictions are no class.
        share_right: The share of each one's target tokens that it predicted, NaN without any, shape (cached,); None
            where there are no target tokens.
        token_count: Input tokens that are not padding, shape (cached,).
        columns: Columns of the prior data stored beside them, each of shape (cached,).
        sources: Fingerprints of what the predictions were made from.
        forward_count: Forward passes made to get them in this call; 0 when all came from the cache.
        arrays: `features`, shape (cached, features), and `logits`, shape (cached, classes), 16-bit and memory-mapped:
            the class logits, or how far each way to be wrong is ahead of being right. Empty when they were not cached.
        has_target: Whether each sample has a target that a model could predict, shape (cached,); None where all have.
        right_tokens: Which target tokens of each it had right, one bit a token; None where there are no target tokens.
        false_damage_rate: Of the samples that the base model had right, the share that is wrong when they are read
            again, by random augmentation alone; None where rows are the same each time.
    """

    sample_count: int
    sample_ids: Ids
    loss: Floats
    correct: Flags
    prediction: Ids | None
    share_right: Floats | None
    token_count: Ids
    columns: Mapping[str, NDArray[Any]]
    sources: Mapping[str, str]
    forward_count: int
    arrays: Mapping[str, NDArray[np.float16]]
    has_target: Flags | None = None
    right_tokens: TokenBits | None = None
    false_damage_rate: float | None = None

    @property
    def base_correct(self) -> Flags:
        """Whether the base model got each prior sample right, shape (samples,); False where not cached."""
        correct = np.zeros(self.sample_count, dtype=bool)
        correct[self.sample_ids] = self.correct
        return correct

    @property
    def classes(self) -> Ids:
        """Each sample's class among its logits, shape (cached,): 0, to be right, where predictions are no class."""
        return np.zeros(len(self.correct), dtype=np.int64) if self.prediction is None else self.prediction

    def token_count_of(self, prior: PriorDataset) -> Ids:
        """Return the input tokens of all prior samples, shape (samples,); those that are not cached are read."""
        if self.sample_ids.size == self.sample_count:
            return self.token_count.astype(np.int64)
        counts = count_tokens(prior)
        counts[self.sample_ids] = self.token_count
        return counts

    @property
    def base_loss(self) -> Floats:
        """The base model's loss on each prior sample, shape (samples,); infinite where not cached."""
        loss = np.full(self.sample_count, np.inf)
        loss[self.sample_ids] = self.loss
        return loss

    def compare_tokens(self, sample_ids: Ids, right_now: Sequence[Flags]) -> TokenChange:
        """Say what became of the target tokens of some prior samples, which may lack a prediction.

        Args:
            right_now: Which target tokens of each are right now.

        Raises:
            DataError: If a sample has another number of target tokens than it had.
        """
        places = np.searchsorted(self.sample_ids, sample_ids)
        is_cached = self.sample_ids[np.minimum(places, len(self.sample_ids) - 1)] == sample_ids
        return compare_tokens(self.right_tokens, np.where(is_cached, places, -1), right_now, sample_ids)


def predict_prior(
    model: torch.nn.Module,
    prior_data: Any,
    cache_dir: str | Path,
    *,
    collate_fn: Collate,
    correctness: CorrectnessRule | str | None = None,
    tokenizer: Any = None,
    batch_size: int = 8,
    columns: Sequence[str] = (),
    share: float | None = None,
    seed: int = 0,
    progress: bool = True,
    part_size: int | None = None,
    least_share_right: float = LEAST_SHARE_RIGHT,
    processes: Processes = ONE_PROCESS,
    features: int = 0,
) -> PriorPredictions:
    """Run the base model once over the prior data, or read what an earlier run cached.

    No gradient is computed, and the model's training mode is put back. An interrupted pass resumes at the
    first missing part. Nothing in the folder is overwritten: a cache made from something else is refused.

    Paper: the prior model's predictions are cached once, before fine-tuning.

    Args:
        model: The base model: called with a batch, it returns its `logits` by name, as those of transformers do.
        prior_data: Prepared rows (what `collate_fn` takes): a `datasets.Dataset`, a map-style dataset, or
            a dict of them. Of a `DatasetDict` with a split for training, splits for evaluation are left out.
        cache_dir: The cache's folder.
        collate_fn: Makes a batch of a list of rows, with `labels` in it, as in training.
        correctness: When a prediction is right: `RightClass`, `RightLabels`, `RightSpan`, `RightTokens` or
            `NearTarget`; or `EachToken`. By default what model and labels are made for.
        tokenizer: Fingerprinted, so that a cache made with another one is refused.
        batch_size: Rows a batch at the length of the longest row. Shorter rows share larger batches of no
            more padded tokens than that.
        columns: Columns of the prior data to store beside the predictions of a new cache.
        share: The share of the prior samples to predict, in (0, 1]; None for what the cache has, or all.
        seed: Which samples make up the share of a new cache.
        progress: Whether to show a progress bar with the time left.
        part_size: Samples in a part of a new cache: what an interruption can cost. A sixteenth of the
            samples by default, from 1,024 to 16,384.
        least_share_right: The share of right predictions below which the predictions are refused.
        processes: The processes that share the pass, each predicting its own parts.
        features: Principal components of the input of the model's head to cache, in classification beside the logits,
            as `DriftEstimator` needs them; 0 for neither. Fitting them takes up to 4,096 forward passes of one
            sample more.

    Returns:
        The predictions.

    Raises:
        SettingError: If `share` or `batch_size` make no sense.
        DataError: If the data are empty, lack labels or a column, have labels outside the model's classes
            or losses that are not finite; or if the model is right on too few samples.
        CacheError: If the folder holds something else, or a cache that does not match or was altered.
        FolderInUseError: If another run is filling the cache.
        UnsupportedTrainerError: If the model's output shows no predictions, or fits no task that is known.
        OSError: If the cache cannot be written or read.
    """
    if not isinstance(prior_data, PriorDataset):
        prior_data = PriorDataset(choose_rehearsed(prior_data, "prior_data"))
    require_fixed_masks(collate_fn)
    rule = choose_rule(correctness, model, collate(collate_fn, [prior_data[0]]), prior_data.name)
    inference = Inference(model, prior_data, rule, collate_fn, batch_size, tokenizer, processes, progress)
    return complete_predictions(
        PriorPass(inference, features),
        Path(cache_dir),
        columns=columns,
        share=share,
        seed=seed,
        part_size=part_size,
        least_share_right=least_share_right,
    )


def complete_predictions(
    prior_pass: PriorPass,
    folder: Path,
    *,
    columns: Sequence[str] = (),
    share: float | None = None,
    seed: int = 0,
    part_size: int | None = None,
    least_share_right: float = LEAST_SHARE_RIGHT,
) -> PriorPredictions:
    """Read what the cache holds, and predict what it lacks; arguments and errors are those of `predict_prior`."""
    inference = prior_pass.inference
    with inference.autocast():
        _require_settings(share, inference.batch_size)
        require_apart(inference)
        first_count = _look_first(prior_pass, folder, least_share_right)
        manifest, forward_count = cache_predictions(
            prior_pass, folder, columns=columns, share=share, seed=seed, part_size=part_size
        )
    predictions = _load(folder, manifest, first_count + forward_count)
    _warn_of_untargeted(predictions, inference.data.name, inference.rule)
    try:
        _require_something_right(predictions, inference, least_share_right)
    except DataError:
        inference.processes.wait()  # until all have read it
        if inference.processes.rank == 0 and predictions.forward_count:
            drop_cache(folder)
        raise
    return predictions


def _look_first(prior_pass: PriorPass, folder: Path, least_share_right: float) -> int:
    """Predict some samples of a long pass that is to begin, and refuse now what it would be refused for at its end.

    Returns:
        Forward passes made.
    """
    if prior_pass.inference.rule.is_graded:
        return 0  # nothing is refused for what is right of it
    is_new = read_manifest(folder) is None
    prior_pass.inference.processes.wait()  # until all have looked
    sample_count = len(prior_pass.inference.data)
    if not is_new or sample_count < _FIRST_ROWS_OF:
        return 0
    ids = choose_distinct(0, 0, Stream.FIRST_ROWS, _FIRST_ROWS, among=sample_count)
    found, forward_count = prior_pass.predict_some(ids)
    right_count = int(found["correct"].sum())
    most = binomtest(right_count, _FIRST_ROWS).proportion_ci(_CERTAINTY, method="wilson").high
    if most < least_share_right:
        share, token_shares = right_count / _FIRST_ROWS, found.get("share_right")
        require_enough_right(share, least_share_right, prior_pass.inference.rule, token_shares, _FIRST_ROWS)
    return forward_count


def cache_predictions(
    prior_pass: PriorPass,
    folder: Path,
    *,
    columns: Sequence[str],
    share: float | None = None,
    seed: int = 0,
    part_size: int | None = None,
) -> tuple[Manifest, int]:
    """Complete a prediction cache without loading it: memory does not grow with the number of samples.

    Arguments and errors are those of `predict_prior`.

    Returns:
        The cache's manifest, and the forward passes that this process made.
    """
    inference = prior_pass.inference
    prior = inference.data
    _require_settings(share, inference.batch_size)
    for name in columns:
        prior.require_plain_column(name)
    first = range(len(prior))[:PREPROCESSING_ROWS]

    def make_batch() -> Mapping[str, Any]:
        return collate(inference.collate_fn, prior.rows(first))

    with inference.autocast():
        wanted = Manifest(
            sources={
                **fingerprint_model(inference.model, inference.rule, make_batch(), len(first)),
                "tokenizer": fingerprint_tokenizer(inference.tokenizer),
                "data": fingerprint_rows(prior),
                "preprocessing": fingerprint_batch(make_stable_batch(make_batch)),
                "rule": inference.rule.name,
            },
            sample_count=len(prior),
            share=share or 1.0,
            seed=seed,
            columns=tuple(columns),
            part_size=part_size or choose_part_size(math.ceil((share or 1.0) * len(prior))),
        )
        manifest, forward_count = prior_pass.fill(folder, wanted, keep_share=share is None)
        manifest, more = note_false_damage(prior_pass, folder, manifest)
    return manifest, forward_count + more


def assign_bins(strategy: PartitionStrategy, prior: PriorDataset, predictions: PriorPredictions) -> Partition:
    """Give every predicted prior sample its bin, and `UNCACHED_BIN` to those without a prediction.

    Raises:
        DataError: If a column is missing, or the strategy covers other samples.
    """
    cached = predictions.sample_ids
    columns = {name: prior.column(name)[cached] for name in strategy.column_names}
    partition = strategy.assign(PriorTable(predictions.loss, columns, predictions.arrays.get("features")))
    if len(partition.bin_ids) != cached.size:
        raise DataError(
            f"The partition covers {len(partition.bin_ids)} samples, but the base model's predictions cover "
            f"{cached.size}. A partition must give every predicted sample a bin. Return one bin id for each row of the "
            "table that `assign` is given."
        )
    return _spread(partition, cached, len(prior))


def _spread(partition: Partition, cached: Ids, sample_count: int) -> Partition:
    """The bins of all prior samples, of those of the cached ones."""
    bin_ids = np.full(sample_count, UNCACHED_BIN, dtype=np.int32)
    bin_ids[cached] = partition.bin_ids
    factors = tuple(_spread(factor, cached, sample_count) for factor in partition.factors)
    return Partition(bin_ids, partition.bin_names, factors)


def require_enough_right(
    share_right: float,
    least_share_right: float,
    rule: CorrectnessRule,
    token_shares: Floats | None = None,
    first_count: int | None = None,
) -> None:
    """Refuse, by a `DataError`, a base model that is right on too few prior samples.

    Args:
        token_shares: The share of each sample's target tokens that are right, in language models, where it is known.
        first_count: How many samples were looked at first; None when all were predicted.
    """
    if share_right < least_share_right:
        cure = "Check that the model was trained on the prior task, and that labels and preprocessing are those it was "
        cure += "trained with."
        if isinstance(rule, RightTokens):
            cure = _advise_on_tokens(rule, token_shares) or cure
        samples = "the prior samples" if first_count is None else f"{first_count} prior samples drawn at random"
        raise DataError(
            f"The base model is right on {share_right:.1%} of {samples}, but rehearsal needs at least "
            f"{least_share_right:.0%}: only what it gets right can be damaged. {cure}"
        )


def _require_something_right(predictions: PriorPredictions, inference: Inference, least_share_right: float) -> None:
    """Refuse predictions of which too little is right to be lost; damage by token needs no more than some token."""
    bits, name = predictions.right_tokens, inference.data.name
    if bits is None or not inference.rule.is_graded:
        share_right = float(predictions.correct.mean())
        require_enough_right(share_right, least_share_right, inference.rule, predictions.share_right)
    elif not bits.counts.sum():
        raise DataError(
            f"No sample of `{name}` has a target token: every label is masked (-100), or the answers were truncated "
            "away. Nothing could be rehearsed or lost. Check the labels, that answers fit the length limit, and that a "
            "chat template marks what the assistant says (`{% generation %}`)."
        )
    elif not bits.right_count.sum():
        logger.warning(
            "The base model predicts none of the %d target tokens of `%s`, so none can be damaged, and all samples are "
            "drawn alike. Check that it was trained on the prior task, with this tokenizer and these labels.",
            bits.counts.sum(),
            name,
        )


def _advise_on_tokens(rule: RightTokens, token_shares: Floats | None) -> str:
    """Name the rules under which a language model gets more samples right; nothing where it predicts next to none."""
    half = halve_by_tokens(token_shares)
    if token_shares is not None and half is None:
        return ""
    wanted = "every target token" if rule.least_share == 1 else f"{rule.least_share:.0%} of the target tokens"
    known = "" if half is None else f"; half of the samples have {half:.0%} of theirs right"
    share = _USUAL_SHARE if half is None else half
    return (
        f"A sample counts as right only with {wanted} predicted, which is rare in usual texts and answers{known}. "
        "Leave `correctness` out, which counts damage by token (`EachToken`). Or pass "
        f"`correctness=mixcd.RightTokens({share:g})`: right while that share of its tokens is; or "
        "`mixcd.RightTokens(loss_tolerance=0.1)`: while its loss is at most the base model's + 0.1 nats a token. In a "
        f"config: `rehearsal.least_share = {share:g}` or `rehearsal.loss_tolerance = 0.1`."
    )


def halve_by_tokens(token_shares: Floats | None) -> float | None:
    """Return the share of its target tokens that half of the samples have right, in whole percents.

    Args:
        token_shares: The share of each sample's target tokens that are right, NaN without any, shape (samples,); None
            where there are no target tokens.

    Returns:
        The share; None where it is below one percent, or not known.

    Example:
        >>> halve_by_tokens(np.array([0.2, 0.618, 1.0, np.nan]))
        0.61
    """
    if token_shares is None or np.isnan(token_shares).all() or np.nanmedian(token_shares) < _LEAST_NAMED:
        return None
    return float(np.floor(100 * np.nanmedian(token_shares)) / 100)


def _warn_of_untargeted(predictions: PriorPredictions, data_name: str, rule: CorrectnessRule) -> None:
    """Count and name the samples that no model can get right: they cannot be damaged, either."""
    if predictions.has_target is None or predictions.has_target.all():
        return
    if rule.is_graded and not predictions.has_target.any():
        return  # which is refused
    untargeted = predictions.sample_ids[~predictions.has_target]
    logger.warning(
        "`%s` has %s on %d of %d samples: %s. They are never counted as right. Leave them out, or prepare them anew.",
        data_name,
        rule.untargeted,
        untargeted.size,
        predictions.sample_ids.size,
        shorten(untargeted),
    )


def _require_settings(share: float | None, batch_size: int) -> None:
    if share is not None and not 0 < share <= 1:
        raise SettingError(f"`share` is {share}, but it must lie in (0, 1]. Pass 1 to predict every prior sample.")
    if batch_size < 1:
        raise SettingError(f"`batch_size` is {batch_size}, but a batch needs at least 1 row. Pass 1 or more.")


def _load(folder: Path, manifest: Manifest, forward_count: int) -> PriorPredictions:
    tables, bits = zip(*read_parts_with_bits(folder, manifest), strict=True)
    table = pa.concat_tables(tables)
    return PriorPredictions(
        sample_count=manifest.sample_count,
        sample_ids=table["sample_id"].to_numpy(),
        loss=table["loss"].to_numpy().astype(np.float64),
        correct=table["correct"].to_numpy(),
        prediction=_read_optional(table, "prediction"),
        share_right=_read_optional(table, "share_right"),
        token_count=table["token_count"].to_numpy(),
        columns={name: table[name].to_numpy() for name in manifest.columns},
        sources=manifest.sources,
        forward_count=forward_count,
        arrays={name: open_array(array_path(folder, name)) for name in manifest.arrays},
        has_target=_read_optional(table, "has_target"),
        right_tokens=_join_tokens(tables, bits),
        false_damage_rate=manifest.false_damage_rate,
    )


def _join_tokens(tables: Sequence[pa.Table], bits: Sequence[NDArray[np.uint8]]) -> TokenBits | None:
    if TARGET_COUNT not in tables[0].column_names:
        return None
    return join_bits([(part, table[TARGET_COUNT].to_numpy()) for table, part in zip(tables, bits, strict=True)])


def _read_optional(table: pa.Table, name: str) -> NDArray[Any] | None:
    return table[name].to_numpy() if name in table.column_names else None
