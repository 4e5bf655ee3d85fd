"""Collateral damage estimators: each turns observations into a belief about damage."""

from mixcd.collateral_damage_estimator.count_estimator import CountEstimator

__all__ = ["CountEstimator"]
