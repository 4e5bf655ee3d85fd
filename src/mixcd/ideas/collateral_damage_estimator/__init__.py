"""Collateral damage estimators: each turns observations into a belief about damage."""

from mixcd.ideas.collateral_damage_estimator.count_estimator import CountEstimator, damage_intervals
from mixcd.ideas.collateral_damage_estimator.drift_estimator import DriftEstimator
from mixcd.ideas.collateral_damage_estimator.factored_estimator import FactoredEstimator

__all__ = ["CountEstimator", "DriftEstimator", "FactoredEstimator", "damage_intervals"]
