"""The methods that a sweep compares: how each chooses what to rehearse, what it costs, and how it trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mixcd.edge.bench.rival_estimators import RIVALS
from mixcd.edge.config.named_settings import make_settings
from mixcd.ideas.collateral_damage_estimator import AUTO
from mixcd.ideas.collateral_damage_estimator import ESTIMATORS as PRODUCT_ESTIMATORS
from mixcd.ideas.partition_strategy import ByColumn, ByPriorLoss
from mixcd.run.rehearsal_loop.row_kind import MixUnit
from mixcd.words.vocabulary import EstimatorSettings, PartitionStrategy


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Args:
        estimator: Who says what to rehearse: a name of `attach`, or one of the rivals; None for no rehearsal.
        settings: Changes to the estimator's own settings, for those that have some.
        partition: The bins; None for the default, which leaves "auto" its choice.
        mix_unit: What the mix ratio is a share of; None for the default.
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
    mix_unit: MixUnit | None = None
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
    **{name: Method(name) for name in PRODUCT_ESTIMATORS},
    "none": Method(estimator=None),
    "stratified": Method("stratified", partition=ByColumn("label")),
    "highest-loss": Method("highest-loss"),
    "right-only": Method("right-only"),
    "factored": Method("factored", partition=ByPriorLoss() * ByColumn("label")),
    "permuted": Method("permuted"),
    **{name: Method(name) for name in ("by-loss-increase", "by-target-share", "by-whole-sample")},
    "joint": Method("counts", partition=ByPriorLoss() * ByColumn("label")),
    "candidate-scoring": Method("candidate-scoring", floor=0.0, probe=ProbeSettings(samples_a_draw=4)),
    "unbiased": Method("counts", probe=ProbeSettings(samples_a_draw=1)),
    "ema": Method("ema"),
    "exp3": Method("exp3", floor=0.0),
    "oracle-hard": Method("oracle-hard", floor=0.0, probe=_ORACLE),
    "oracle-soft": Method("oracle-soft", floor=0.0, probe=_ORACLE),
}
"""The methods that need no description of their own."""


ESTIMATORS: Mapping[str, Callable[..., EstimatorSettings]] = {**PRODUCT_ESTIMATORS, **RIVALS}
"""What makes the settings of each estimator that a method may name, besides "auto"."""


def choose_estimator(method: Method) -> str | EstimatorSettings:
    """Return what `attach` is to be given as the estimator.

    Raises:
        SettingError: If there is no such estimator, or it has no such setting.
    """
    if method.estimator == AUTO and not method.settings:
        return AUTO
    return make_settings(ESTIMATORS, method.estimator or "none", method.settings, "estimator")
