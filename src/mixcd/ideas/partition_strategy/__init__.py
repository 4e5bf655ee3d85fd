"""Partition strategies: each gives every prior sample a bin."""

from mixcd.ideas.partition_strategy.by_column import ByColumn
from mixcd.ideas.partition_strategy.by_features import ByFeatures
from mixcd.ideas.partition_strategy.by_prior_loss import ByPriorLoss
from mixcd.ideas.partition_strategy.combined import Combined
from mixcd.ideas.partition_strategy.parse_partition import PARTITIONS, parse_partition, partition_examples

__all__ = ["PARTITIONS", "ByColumn", "ByFeatures", "ByPriorLoss", "Combined", "parse_partition", "partition_examples"]
