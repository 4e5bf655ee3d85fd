"""Collateral damage estimators: each turns observations into a belief about damage."""

from mixcd.collateral_damage_estimator.count_estimator import CountEstimator
from mixcd.collateral_damage_estimator.drift_estimator import DriftEstimator

__all__ = ["CountEstimator", "DriftEstimator"]
