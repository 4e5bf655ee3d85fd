"""Partition strategies: each gives every prior sample a bin."""

from mixcd.ideas.partition_strategy.by_column import ByColumn
from mixcd.ideas.partition_strategy.by_features import ByFeatures
from mixcd.ideas.partition_strategy.by_prior_loss import ByPriorLoss
from mixcd.ideas.partition_strategy.combined import Combined

__all__ = ["ByColumn", "ByFeatures", "ByPriorLoss", "Combined"]
