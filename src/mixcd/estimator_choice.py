"""From the name of an estimator to the estimator: what `attach(estimator=...)` means."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from mixcd.collateral_damage_estimator import CountEstimator, DriftEstimator, FactoredEstimator
from mixcd.collateral_damage_estimator.drift_estimator import UNCACHED_ROW
from mixcd.correctness_rule import CorrectnessRule, RightClass
from mixcd.errors import SettingError
from mixcd.partition_strategy import Combined
from mixcd.prediction_cache import read_manifest
from mixcd.prior_dataset import PriorDataset
from mixcd.prior_predictions import PriorPredictions, assign_bins
from mixcd.sampling_scheduler import FLOOR
from mixcd.vocabulary import CollateralDamageEstimator, Partition, PartitionStrategy

EstimatorName = Literal["auto", "counts", "shrunk", "factored", "drift", "paper", "uniform"]
MakeEstimator = Callable[[Partition, PriorPredictions], CollateralDamageEstimator[Any]]
"""Makes an estimator of the bins and the base model's predictions."""

FEATURES = 64
"""Features a sample that are cached for the drift estimator, and for partitions that read features."""


def require_estimator(estimator: EstimatorName | MakeEstimator) -> None:
    """Refuse an estimator that is neither a known name nor a function.

    Args:
        estimator: What `attach` was given.

    Raises:
        SettingError: If it is unknown.
    """
    names = get_args(EstimatorName)
    if not callable(estimator) and estimator not in names:
        known = ", ".join(f'"{name}"' for name in names[:-1])
        raise SettingError(
            f'`estimator` is {estimator!r}, but only {known} and "{names[-1]}" have names. Pass '
            "one of them, or a function from (partition, predictions) to an estimator."
        )


def choose_named(
    estimator: EstimatorName | MakeEstimator,
    partition: PartitionStrategy | None,
    model: torch.nn.Module,
    rule: CorrectnessRule,
    cache: Path,
    features: int | None = None,
) -> EstimatorName | MakeEstimator:
    """Say what "auto" means: what measured best (`docs/results.md`) among those that can be had.

    Args:
        estimator: What `attach` was given.
        partition: What `attach` was given; None when the caller named none.
        model: The base model.
        rule: Says which predictions are right.
        cache: The folder of the prediction cache.
        features: What `attach` was given.

    Returns:
        The estimator. In the place of "auto": "factored" when the caller named a combined partition to draw by;
        "counts" when it is another one, predictions are no class, the model has no linear layer to take features from,
        or the cache has or shall have no features; else "drift".

    Raises:
        SettingError: If drift is asked for where correctness follows from no logits.
        CacheError: If the folder holds something else than a cache.
    """
    if estimator == "drift" and not rule.has_logits:
        raise SettingError(
            f'`estimator` is "drift", but with {rule.name} nothing can be forecast. Pass "auto" or "counts".'
        )
    if estimator != "auto":
        return estimator
    if partition is not None:
        return "factored" if isinstance(partition, Combined) else "counts"
    has_head = any(isinstance(module, torch.nn.Linear) for module in model.modules())
    found = read_manifest(cache)
    lacks_features = features == 0 or (found is not None and bool(found.parts) and not found.arrays)
    return "drift" if isinstance(rule, RightClass) and has_head and not lacks_features else "counts"


def make_estimator(
    estimator: EstimatorName | MakeEstimator,
    strategy: PartitionStrategy,
    prior: PriorDataset,
    predictions: PriorPredictions,
) -> tuple[CollateralDamageEstimator[Any], Partition]:
    """Make the estimator, and the bins that damage is counted in.

    Args:
        estimator: Its name, or a function that makes it.
        strategy: The partition strategy.
        prior: The prior data.
        predictions: The base model's predictions on them.

    Returns:
        The estimator, and the partition.

    Raises:
        DataError: If a column is missing, or the strategy covers other samples.
    """
    bins = assign_bins(strategy, prior, predictions)
    base_correct = predictions.base_correct
    if callable(estimator):
        return estimator(bins, predictions), bins
    if estimator == "uniform":
        one_bin = Partition(np.minimum(bins.bin_ids, 0), ("all",))
        return CountEstimator(one_bin, base_correct), one_bin
    if estimator == "drift":
        return make_drift_estimator(predictions), bins
    if estimator == "factored":
        parts = strategy.parts if isinstance(strategy, Combined) else (strategy,)
        return FactoredEstimator(tuple(assign_bins(part, prior, predictions) for part in parts), base_correct), bins
    if estimator == "paper":
        return CountEstimator(bins, base_correct, smoothing="raw"), bins
    return CountEstimator(bins, base_correct, smoothing="shrunk" if estimator == "shrunk" else "beta"), bins


def make_drift_estimator(
    predictions: PriorPredictions,
    *,
    discount: float = 0.98,
    ridge: float = 3.0,
    noise: float = 1.0,
    score: Literal["chance", "drop", "product"] = "chance",
) -> DriftEstimator:
    """Make the drift estimator of what the prior pass cached.

    Args:
        predictions: The base model's predictions, with logits and features.
        discount: γ in (0, 1].
        ridge: λ > 0.
        noise: See `DriftEstimator`.
        score: See `DriftEstimator`.

    Returns:
        The estimator.

    Raises:
        SettingError: If a setting makes no sense, or logits and features were not cached.
    """
    if "logits" not in predictions.arrays:
        raise SettingError(
            "The drift estimator needs logits and features of the base model, but none were cached. Pass "
            '`features=64` to `attach`, or `estimator="drift"`, which asks for them.'
        )
    rows = None
    if predictions.sample_ids.size < predictions.sample_count:
        rows = np.full(predictions.sample_count, UNCACHED_ROW)
        rows[predictions.sample_ids] = np.arange(predictions.sample_ids.size)
    logits, features = predictions.arrays["logits"], predictions.arrays["features"]
    return DriftEstimator(
        logits,
        features,
        predictions.classes,
        predictions.correct,
        rows,
        discount=discount,
        ridge=ridge,
        noise=noise,
        score=score,
    )


def choose_feature_count(
    estimator: EstimatorName | MakeEstimator, strategy: PartitionStrategy, features: int | None = None
) -> int:
    """Return how many features a sample to cache.

    Args:
        estimator: Its name, or a function that makes it.
        strategy: The partition strategy.
        features: What the caller said, or None.

    Returns:
        What the caller said; by default `FEATURES` when the estimator or the partition reads features, else 0.

    Raises:
        SettingError: If the number is negative.
    """
    if features is not None:
        if features < 0:
            raise SettingError(
                f"`features` is {features}, but it is a number of features a sample. Pass such as {FEATURES}, or 0 for "
                "none."
            )
        return features
    return FEATURES if estimator == "drift" or getattr(strategy, "reads_features", False) else 0


def choose_floor(estimator: EstimatorName | MakeEstimator, floor: float | None) -> float:
    """Return ε of the sampling scheduler: what the caller said, else 0 for the paper's rule and `FLOOR` otherwise.

    Args:
        estimator: Its name, or a function that makes it.
        floor: What the caller said, or None.

    Returns:
        The floor.

    Raises:
        SettingError: If it lies outside [0, 1].
    """
    if floor is None:
        return 0.0 if estimator == "paper" else FLOOR
    if not 0 <= floor <= 1:
        raise SettingError(
            f"`floor` is {floor}, but it is a share of the draws, between 0 and 1. Pass such as {FLOOR}: the share of "
            "rehearsed samples that is drawn uniformly."
        )
    return floor
