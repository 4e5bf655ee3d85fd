"""`parse_partition`: partition strategies by name, as `attach`, configs, sweeps and the command line take them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

from mixcd.ideas.partition_strategy.by_column import ByColumn
from mixcd.ideas.partition_strategy.by_features import ByFeatures
from mixcd.ideas.partition_strategy.by_prior_loss import ByPriorLoss
from mixcd.ideas.partition_strategy.combined import Combined
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import PartitionStrategy

PARTITIONS: Mapping[str, Callable[..., PartitionStrategy]] = {
    "loss": ByPriorLoss,
    "column": ByColumn,
    "features": ByFeatures,
}
"""What makes each partition strategy, by name; the setting that follows the name is its first field."""


def partition_examples() -> str:
    """Return a text of each partition, as in `"loss:10", "column:NAME" or "features:10"`."""
    *texts, last = [f'"{name}:{"NAME" if _takes_text(strategy) else 10}"' for name, strategy in PARTITIONS.items()]
    return f"{', '.join(texts)} or {last}"


def parse_partition(wanted: PartitionStrategy | str | Sequence[str]) -> PartitionStrategy:
    """Make a partition strategy of its text.

    Args:
        wanted: Such as "loss:10" (prior loss, in ten bins), "column:topic" or "features:10"; several are combined. Or a
            strategy, which is returned as it is.

    Raises:
        SettingError: If it is none of these.

    Example:
        >>> parse_partition("loss:5")
        ByPriorLoss(bins=5)
    """
    if isinstance(wanted, PartitionStrategy):
        return wanted
    if isinstance(wanted, type) or not isinstance(wanted, Sequence) or not wanted:
        raise SettingError(
            f"`partition` is {wanted!r}, which is no partition. Pass {partition_examples()}, or a strategy such as "
            "`mixcd.ByPriorLoss(10)`; derive a class of your own from `mixcd.PartitionStrategy`."
        )
    strategies = tuple(_parse_one(text) for text in ([wanted] if isinstance(wanted, str) else wanted))
    return strategies[0] if len(strategies) == 1 else Combined(strategies)


def _parse_one(text: str) -> PartitionStrategy:
    name, _, setting = text.partition(":")
    if text == "loss":
        return ByPriorLoss()
    strategy = PARTITIONS.get(name)
    if strategy is not None and setting:
        takes_text = _takes_text(strategy)
        if takes_text or setting.isdecimal():
            return strategy(setting if takes_text else int(setting))
    raise SettingError(f'"{text}" is no partition: write {partition_examples()}. The number is how many bins.')


def _takes_text(strategy: Callable[..., PartitionStrategy]) -> bool:
    return fields(strategy)[0].type is str  # type: ignore[arg-type]
