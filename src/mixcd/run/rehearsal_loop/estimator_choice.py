"""From the name of an estimator to the estimator: what `attach(estimator=...)` means."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from mixcd.ideas.collateral_damage_estimator import CountEstimator, DriftEstimator, FactoredEstimator
from mixcd.ideas.collateral_damage_estimator.drift_estimator import UNCACHED_ROW
from mixcd.ideas.partition_strategy import Combined
from mixcd.ideas.sampling_scheduler import FLOOR
from mixcd.matter.base_model.prediction_cache import read_manifest
from mixcd.matter.base_model.prior_predictions import PriorPredictions, assign_bins
from mixcd.matter.correctness import CorrectnessRule, RightClass
from mixcd.matter.model_shape.model_kind import is_multiple_choice
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import SettingError, shorten
from mixcd.words.vocabulary import CollateralDamageEstimator, Partition, PartitionStrategy

EstimatorName = Literal["auto", "counts", "shrunk", "factored", "drift", "paper", "uniform"]
MakeEstimator = Callable[[Partition, PriorPredictions], CollateralDamageEstimator[Any]]
"""Makes an estimator of the bins and the base model's predictions."""

_INTERFACE = ("init", "update", "belief", "damage_probability")
"""The methods of a `CollateralDamageEstimator`."""
_MAKER = (
    "a function from (partition, predictions) to an estimator, such as "
    "`lambda partition, predictions: mixcd.CountEstimator(partition, predictions.base_correct)`"
)

FEATURES = 64
"""Features a sample that are cached for the drift estimator, and for partitions that read features."""


def require_estimator(estimator: EstimatorName | MakeEstimator) -> None:
    """Refuse an estimator that is neither a known name nor a function of bins and predictions.

    Args:
        estimator: What `attach` was given.

    Raises:
        SettingError: If it is unknown, a class, an estimator that is made already, or takes other arguments.
    """
    names = get_args(EstimatorName)
    if isinstance(estimator, str) and estimator in names:
        return
    if isinstance(estimator, type):
        fault = f"is the class `{estimator.__name__}`, whose settings are not said"
    elif not _lacks(estimator):
        fault = f"is a `{type(estimator).__name__}`, made before the bins and the base model's predictions are known"
    elif callable(estimator):
        if _takes_two(estimator):
            return
        fault = f"is the function `{getattr(estimator, '__name__', estimator)}`, which takes other arguments"
    else:
        known = ", ".join(f'"{name}"' for name in names[:-1])
        given = repr(estimator) if isinstance(estimator, str) else f"a `{type(estimator).__name__}`"
        fault = f'is {given}, but only {known} and "{names[-1]}" have names'
    raise SettingError(f"`estimator` {fault}. Pass a name, or {_MAKER}.")


def _lacks(estimator: object) -> list[str]:
    """The methods of the interface that something does not have."""
    return [name for name in _INTERFACE if not callable(getattr(estimator, name, None))]


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    return True


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
        "counts" when it is another one, predictions are no class or only the place of a choice, the model has no
        linear layer to take features from, or the cache has or shall have no features; else "drift".

    Raises:
        SettingError: If drift is asked for where correctness follows from no logits, or in multiple choice.
        CacheError: If the folder holds something else than a cache.
    """
    if estimator == "drift" and not rule.has_logits:
        raise SettingError(
            f'`estimator` is "drift", but with {rule.name} nothing can be forecast. Pass "auto" or "counts".'
        )
    if estimator == "drift" and is_multiple_choice(model):
        raise SettingError(
            '`estimator` is "drift", which forecasts how the logit of each class moves, but in multiple choice a class '
            'is only the place of a choice, which says nothing of the next sample. Pass "auto" or "counts".'
        )
    if estimator != "auto":
        return estimator
    if partition is not None:
        return "factored" if isinstance(partition, Combined) else "counts"
    has_head = any(isinstance(module, torch.nn.Linear) for module in model.modules())
    found = read_manifest(cache)
    lacks_features = features == 0 or (found is not None and bool(found.parts) and not found.arrays)
    is_class = isinstance(rule, RightClass) and not is_multiple_choice(model)
    return "drift" if is_class and has_head and not lacks_features else "counts"


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
        SettingError: If the function makes no estimator.
    """
    bins = assign_bins(strategy, prior, predictions)
    base_correct = predictions.base_correct
    if callable(estimator):
        made = estimator(bins, predictions)
        _require_made(made)
        return made, bins
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


def _require_made(made: object) -> None:
    """Refuse what a function returned that is no estimator, before the first step fails on it."""
    if isinstance(made, type):
        fault = f"the class `{made.__name__}`"
    elif missing := _lacks(made):
        fault = f"a `{type(made).__name__}`, which has no {shorten(f'`{name}`' for name in missing)}"
    else:
        return
    raise SettingError(f"The function that `estimator` is returned {fault}. Pass {_MAKER}.")


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
