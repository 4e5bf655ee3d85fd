"""The methods that a sweep compares: how each chooses what to rehearse, what it costs, and how it trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter, signature
from typing import Any

import numpy as np

from mixcd.edge.bench.rival_estimators import Exp3Estimator, FixedWeights, ScoredSamples, keep_highest_loss, stratify
from mixcd.ideas.collateral_damage_estimator import CountEstimator
from mixcd.ideas.partition_strategy import ByColumn, ByPriorLoss
from mixcd.matter.base_model.prior_predictions import PriorPredictions
from mixcd.run.rehearsal_loop.estimator_choice import (
    EstimatorName,
    MakeEstimator,
    make_drift_estimator,
    require_estimator,
)
from mixcd.words.errors import SettingError, shorten
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import CollateralDamageEstimator, Partition, PartitionStrategy


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Args:
        estimator: Who says what to rehearse: a name of `attach`, or one of the rivals; None for no rehearsal.
        settings: Changes to the estimator's own settings, for those that have some.
        partition: The bins; None for the default, which leaves "auto" its choice.
        floor: ε of the draws; None for the estimator's own.
        lag: In steps; None for the default.
        features: Features a sample to cache; None for the default.
        probe: What a probe feeds the estimator with, if anything does.
        trainer: "FILE.py:FUNCTION" that makes the trainer, for rivals that change loss or weights; None for
            `transformers.Trainer`.
        trainer_settings: What that function is told.
        training: Changes to the task's `TrainingArguments`.
        wise_ft: Shares of the fine-tuned weights at which averages with the base model are judged, too.
    """

    estimator: str | None = "uniform"
    settings: Mapping[str, Any] = field(default_factory=dict)
    partition: PartitionStrategy | None = None
    floor: float | None = None
    lag: int | None = None
    features: int | None = None
    probe: "ProbeSettings | None" = None
    trainer: str | None = None
    trainer_settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    wise_ft: tuple[float, ...] = ()


@dataclass(frozen=True)
class ProbeSettings:
    """The probe of a method.

    Args:
        sample_count: Samples a probing; None when they follow from the draws.
        samples_a_draw: Samples for each rehearsed one; None when their number is given.
        every: Steps from one probing to the next.
        is_charged: Whether the probe's forward passes cost the method steps; those of oracles do not.
        use: Whether they feed the estimator or are for the audit.
    """

    sample_count: int | None = None
    samples_a_draw: int | None = None
    every: int = 1
    is_charged: bool = True
    use: str = "estimate"


_ORACLE = ProbeSettings(sample_count=5000, every=25, is_charged=False)

BUILT_IN: Mapping[str, Method] = {
    "none": Method(estimator=None),
    "uniform": Method("uniform"),
    "stratified": Method("stratified", partition=ByColumn("label")),
    "highest-loss": Method("highest-loss"),
    "right-only": Method("right-only"),
    "paper": Method("paper"),
    "counts": Method("counts"),
    "shrunk": Method("shrunk"),
    "factored": Method("factored", partition=ByPriorLoss() * ByColumn("label")),
    "permuted": Method("permuted"),
    "joint": Method("counts", partition=ByPriorLoss() * ByColumn("label")),
    "drift": Method("drift"),
    "candidate-scoring": Method("candidate-scoring", floor=0.0, probe=ProbeSettings(samples_a_draw=4)),
    "unbiased": Method("counts", probe=ProbeSettings(samples_a_draw=1)),
    "exp3": Method("exp3", floor=0.0),
    "oracle-hard": Method("oracle-hard", floor=0.0, probe=_ORACLE),
    "oracle-soft": Method("oracle-soft", floor=0.0, probe=_ORACLE),
}
"""The methods that need no description of their own."""


def _stratify(partition: Partition, _: PriorPredictions) -> FixedWeights:
    return stratify(partition)


def _keep_right(_: Partition, predictions: PriorPredictions) -> FixedWeights:
    return FixedWeights(predictions.base_correct.astype(np.float64))


def _keep_highest_loss(_: Partition, predictions: PriorPredictions, *, share: float = 0.1) -> FixedWeights:
    return keep_highest_loss(predictions.loss, share)


def _learn_by_bandit(partition: Partition, _: PriorPredictions, *, smoothing: float = 0.9) -> Exp3Estimator:
    return Exp3Estimator(partition, smoothing)


def _score_damage(_: Partition, predictions: PriorPredictions) -> ScoredSamples:
    return ScoredSamples(predictions.loss, predictions.base_correct, "damaged")


def _score_drop(_: Partition, predictions: PriorPredictions) -> ScoredSamples:
    return ScoredSamples(predictions.loss, predictions.base_correct, "drop")


def _score_loss(_: Partition, predictions: PriorPredictions, *, takes_highest: bool = True) -> ScoredSamples:
    return ScoredSamples(predictions.loss, predictions.base_correct, "loss", takes_highest)


def _count(
    partition: Partition, predictions: PriorPredictions, *, discount: float = 1.0, smoothing: Any = "beta"
) -> CountEstimator:
    return CountEstimator(partition, predictions.base_correct, discount, smoothing)


def _count_permuted(partition: Partition, predictions: PriorPredictions, *, seed: int = 0) -> CountEstimator:
    """The control: bins that mean nothing."""
    order = keyed_generator(seed, 0, Stream.CONTROLS).permutation(len(partition.bin_ids))
    return CountEstimator(Partition(partition.bin_ids[order], partition.bin_names), predictions.base_correct)


def _forecast_drift(_: Partition, predictions: PriorPredictions, **settings: Any) -> CollateralDamageEstimator[Any]:
    return make_drift_estimator(predictions, **settings)


_MAKERS: Mapping[str, MakeEstimator] = {
    "stratified": _stratify,
    "right-only": _keep_right,
    "highest-loss": _keep_highest_loss,
    "exp3": _learn_by_bandit,
    "oracle-hard": _score_damage,
    "oracle-soft": _score_drop,
    "candidate-scoring": _score_loss,
    "counts": _count,
    "permuted": _count_permuted,
    "drift": _forecast_drift,
}
_NAMED_BY_ATTACH = ("auto", "shrunk", "factored", "paper", "uniform")
ESTIMATORS = (*_NAMED_BY_ATTACH, *_MAKERS)
"""Names that a method's `estimator` may have."""


def choose_estimator(method: Method) -> EstimatorName | MakeEstimator:
    """Return what `attach` is to be given as the estimator.

    Args:
        method: The method; it rehearses.

    Returns:
        A name, or a function that makes the estimator.

    Raises:
        SettingError: If there is no such estimator, or it has no such setting.
    """
    name: Any = method.estimator
    maker = _MAKERS.get(name) if isinstance(name, str) else None
    known = [] if maker is None else _list_settings(make_drift_estimator if name == "drift" else maker)
    unknown = sorted(set(method.settings) - set(known))
    if unknown:
        raise SettingError(
            f'`settings` names {shorten(f"`{one}`" for one in unknown)}, but the estimator "{name}" has '
            f"{shorten((f'`{one}`' for one in known), 9) or 'no settings'}. Correct the method."
        )
    chosen: EstimatorName | MakeEstimator = name if maker is None else partial(maker, **method.settings)
    require_estimator(chosen)
    return chosen


def _list_settings(maker: MakeEstimator | Callable[..., Any]) -> list[str]:
    return [name for name, one in signature(maker).parameters.items() if one.kind is Parameter.KEYWORD_ONLY]
