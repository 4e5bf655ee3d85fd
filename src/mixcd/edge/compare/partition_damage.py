"""How damage falls on the bins of a partition."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mixcd.ideas.lift import Lift, estimate_lift
from mixcd.run.outcome.evaluation import TaskChange, compare_bins
from mixcd.words.vocabulary import DamageCounts, Flags, Partition, TokenChange


@dataclass(frozen=True)
class BinDamage:
    """What became of the samples of one bin."""

    name: str
    change: TaskChange


@dataclass(frozen=True)
class PartitionDamage:
    """How damage falls on the bins of one partition.

    Args:
        name: `PRIOR_LOSS`, or a column.
        lift: How much likelier a sample is damaged that is drawn in proportion to its bin's damage rate than one drawn
            uniformly, corrected for noise: 1 where damage is even.
        bins: The bins, hardest hit first: by the lower bound of their damaged share.
    """

    name: str
    lift: Lift
    bins: tuple[BinDamage, ...]


def measure_damage(
    name: str,
    partition: Partition,
    before: Flags,
    after: Flags,
    tokens: TokenChange | None = None,
    *,
    is_graded: bool = False,
) -> PartitionDamage:
    """Measure how damage falls on the bins of a partition.

    Args:
        before: Whether the base model got each sample right, shape (samples,).
        after: The same for the fine-tuned model.
        tokens: What became of their target tokens; None where there are none.
        is_graded: Whether damage is counted by token.

    Example:
        >>> partition = Partition(np.array([0, 0, 1, 1]), ("easy", "hard"))
        >>> right = np.array([True, True, True, True])
        >>> measure_damage("kind", partition, right, np.array([True, True, True, False])).bins[0].name
        'hard'
    """
    changes = compare_bins(partition, before, after, tokens, is_graded=is_graded)
    damage = tokens.damage if tokens is not None and is_graded else (before & ~after).astype(np.float64)
    sizes, every = partition.bin_sizes, np.arange(len(before))
    counts = DamageCounts(sizes.astype(np.float64), partition.sum(every, damage))
    lift = estimate_lift(counts, sizes, partition.sum(every, damage**2))
    bins = [one for one in map(BinDamage, partition.bin_names, changes) if one.change.sample_count]
    return PartitionDamage(name, lift, tuple(sorted(bins, key=hardness)))


def rank_partitions(partitions: Iterable[PartitionDamage]) -> tuple[PartitionDamage, ...]:
    """Rank partitions by their lift, the most uneven first; those of unknown lift come last."""
    return tuple(sorted(partitions, key=lambda one: (-np.nan_to_num(one.lift.value, nan=-1.0), one.name)))


def hardness(one: BinDamage) -> tuple[float, float, str]:
    """Sort by this to have the hardest hit bin first, by the lower bound of its damaged share."""
    return *one.change.hardness, one.name
