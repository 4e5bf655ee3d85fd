"""From what `attach(estimator=...)` was given to the estimator."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mixcd.ideas.collateral_damage_estimator import AUTO, ESTIMATORS
from mixcd.ideas.partition_strategy import Combined
from mixcd.ideas.sampling_scheduler import FLOOR
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prediction_cache import read_manifest
from mixcd.matter.base_model.prior_predictions import PriorPredictions, assign_bins
from mixcd.matter.correctness import RightClass
from mixcd.matter.model_shape.model_kind import is_multiple_choice
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import SettingError, end_sentence, nearest_name
from mixcd.words.vocabulary import CollateralDamageEstimator, EstimatorSettings, Partition, PartitionStrategy

MakeEstimator = Callable[[Partition, PriorPredictions], CollateralDamageEstimator[Any]]
"""Makes an estimator of the bins and the base model's predictions."""
Estimator = str | EstimatorSettings | MakeEstimator
"""What `attach` takes: a name, settings, or a function that makes one."""

_OTHERWISE = (
    "Pass a name; settings such as `mixcd.Counts(discount=0.98)`; or a function from (partition, predictions) to an "
    "estimator, such as `lambda partition, predictions: mixcd.CountEstimator(partition, predictions.base_correct)`."
)
FEATURES = 64
"""Features a sample that are cached for estimators and partitions that read them."""


def estimator_names() -> tuple[str, ...]:
    """Return the names that `attach(estimator=...)` takes."""
    return AUTO, *ESTIMATORS


def require_estimator(estimator: Estimator) -> None:
    """Refuse an estimator that is no known name, no settings and no function of bins and predictions.

    Raises:
        SettingError: If it is unknown, a class, an estimator that is made already, or takes other arguments.
    """
    if isinstance(estimator, str):
        if estimator in estimator_names():
            return
        fault = f'is "{estimator}", which is unknown{nearest_name(estimator, estimator_names())}'
    elif isinstance(estimator, type):
        fault = f"is the class `{estimator.__name__}`, not yet made"
    elif isinstance(estimator, EstimatorSettings):
        return
    elif isinstance(estimator, CollateralDamageEstimator):
        fault = f"is a `{type(estimator).__name__}`, made before the bins and the base model's predictions are known"
    elif callable(estimator):
        if _takes_two(estimator):
            return
        fault = f"is the function `{getattr(estimator, '__name__', estimator)}`, which takes other arguments"
    else:
        fault = f"is a `{type(estimator).__name__}`"
    raise SettingError(f"{end_sentence(f'`estimator` {fault}')} {_OTHERWISE}")


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    return True


def choose_settings(
    estimator: Estimator, partition: PartitionStrategy | None, base: Inference, cache: Path, features: int | None
) -> EstimatorSettings | MakeEstimator:
    """Say what a name means; "auto" is what measured best (`docs/results.md`) among those that can be had.

    Args:
        partition: What `attach` was given; None when the caller named none.

    Returns:
        Settings, or the function that was given. In the place of "auto": "factored" when the caller named a combined
        partition to draw by; "counts" when it is another one, predictions are no class or only the place of a choice,
        the model has no linear layer to take features from, or the cache has or shall have no features; else "drift".

    Raises:
        SettingError: If logits are to be forecast where correctness follows from none, or in multiple choice.
        CacheError: If the folder holds something else than a cache.
    """
    name = _choose_best(partition, base, cache, features) if estimator == AUTO else estimator
    chosen = ESTIMATORS[name]() if isinstance(name, str) else name
    if isinstance(chosen, EstimatorSettings) and chosen.reads_features:
        told = f'"{name}"' if isinstance(name, str) else f"`{type(chosen).__name__}`"
        if not base.rule.has_logits:
            cure = 'Pass "auto" or "counts".'
            if base.rule.is_graded:
                cure += " Or judge whole samples, by `correctness=mixcd.RightTokens()`."
            raise SettingError(f"`estimator` is {told}, but with {base.rule.name} nothing can be forecast. {cure}")
        if is_multiple_choice(base.model):
            raise SettingError(
                f"`estimator` is {told}, which forecasts how the logit of each class moves, but in multiple choice a "
                "class is only the place of a choice, which says nothing of the next sample. Pass "
                '"auto" or "counts".'
            )
    return chosen


def _choose_best(partition: PartitionStrategy | None, base: Inference, cache: Path, features: int | None) -> str:
    if partition is not None:
        return "factored" if isinstance(partition, Combined) else "counts"
    has_head = any(isinstance(module, torch.nn.Linear) for module in base.model.modules())
    found = read_manifest(cache)
    lacks_features = features == 0 or (found is not None and bool(found.parts) and not found.arrays)
    is_class = isinstance(base.rule, RightClass) and not is_multiple_choice(base.model)
    return "drift" if is_class and has_head and not lacks_features else "counts"


def make_estimator(
    chosen: EstimatorSettings | MakeEstimator,
    strategy: PartitionStrategy,
    prior: PriorDataset,
    predictions: PriorPredictions,
) -> tuple[CollateralDamageEstimator[Any], Partition]:
    """Make the estimator, and the bins that damage is counted in.

    Raises:
        DataError: If a column is missing, or the strategy covers other samples.
        SettingError: If the function makes no estimator.
    """
    bins = assign_bins(strategy, prior, predictions)
    if isinstance(chosen, EstimatorSettings):
        bins = chosen.choose_bins(bins)
        return chosen.bind(bins, predictions), bins
    made = chosen(bins, predictions)
    if not isinstance(made, CollateralDamageEstimator):
        what = f"the class `{made.__name__}`" if isinstance(made, type) else f"a `{type(made).__name__}`"
        raise SettingError(
            f"The function that `estimator` is returned {what}, which is not a `mixcd.CollateralDamageEstimator`. "
            "Return an estimator; derive a class of your own from that one, which has the defaults."
        )
    return made, bins


def choose_feature_count(
    chosen: EstimatorSettings | MakeEstimator, strategy: PartitionStrategy, features: int | None = None
) -> int:
    """Return how many features a sample to cache.

    Returns:
        What the caller said; by default `FEATURES` when the estimator or the partition reads features, else 0.

    Raises:
        SettingError: If the number is negative.
    """
    if features is not None:
        if features < 0:
            raise SettingError(
                f"`features` is {features}, but it is a number of features a sample. Pass {FEATURES}, say, or 0 for "
                "none."
            )
        return features
    reads = isinstance(chosen, EstimatorSettings) and chosen.reads_features
    return FEATURES if reads or strategy.reads_features else 0


def choose_floor(estimator: Estimator, floor: float | None) -> float:
    """Return ε of the sampling scheduler: what the caller said, else the estimator's own, else `FLOOR`.

    Raises:
        SettingError: If it lies outside [0, 1].
    """
    if floor is None:
        chosen = ESTIMATORS[estimator]() if isinstance(estimator, str) and estimator != AUTO else estimator
        own = chosen.floor if isinstance(chosen, EstimatorSettings) else None
        return FLOOR if own is None else own
    if not 0 <= floor <= 1:
        raise SettingError(
            f"`floor` is {floor}, but it is a share of the draws, between 0 and 1. Pass {FLOOR}, say: the share of "
            "rehearsed samples that is drawn uniformly."
        )
    return floor
