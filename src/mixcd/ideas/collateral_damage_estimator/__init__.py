"""Collateral damage estimators: each turns observations into a belief about damage."""

from collections.abc import Callable, Mapping
from functools import partial

from mixcd.ideas.collateral_damage_estimator.count_estimator import (
    CountEstimator,
    Counts,
    Paper,
    Uniform,
    damage_intervals,
)
from mixcd.ideas.collateral_damage_estimator.drift_estimator import Drift, DriftEstimator
from mixcd.ideas.collateral_damage_estimator.factored_estimator import Factored, FactoredEstimator
from mixcd.words.vocabulary import EstimatorSettings

AUTO = "auto"
"""The name that stands for what measured best; which that is depends on the task."""
ESTIMATORS: Mapping[str, Callable[..., EstimatorSettings]] = {
    "counts": Counts,
    "shrunk": partial(Counts, smoothing="shrunk"),
    "factored": Factored,
    "drift": Drift,
    "paper": Paper,
    "uniform": Uniform,
}
"""What makes the settings of each estimator, by its name in `attach`, configs and sweeps."""

__all__ = [
    "AUTO",
    "ESTIMATORS",
    "CountEstimator",
    "Counts",
    "Drift",
    "DriftEstimator",
    "Factored",
    "FactoredEstimator",
    "Paper",
    "Uniform",
    "damage_intervals",
]
