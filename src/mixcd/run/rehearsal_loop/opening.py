"""The opening of a rehearsal: from what the caller chose to the prior pass, and on to the loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixcd.ideas.partition_strategy import ByPriorLoss, parse_partition
from mixcd.ideas.probe import Probe
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_pass import PriorPass
from mixcd.matter.base_model.prior_predictions import PriorPredictions, complete_predictions
from mixcd.run.rehearsal_loop.estimator_choice import (
    Estimator,
    MakeEstimator,
    choose_feature_count,
    choose_floor,
    choose_settings,
    make_estimator,
    require_estimator,
)
from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop
from mixcd.words.vocabulary import EstimatorSettings, PartitionStrategy


@dataclass(frozen=True)
class RehearsalSettings:
    """What the caller of `attach` or `rehearse` chose, or a config: who draws, by which bins; names are as in `attach`.

    Raises:
        SettingError: If the partition, the estimator or the floor make no sense.
    """

    partition: PartitionStrategy | str | Sequence[str] | None = None
    estimator: Estimator = "auto"
    floor: float | None = None
    features: int | None = None
    cache_columns: Sequence[str] = ()
    probe: Probe | None = None
    lag: int | None = None

    def __post_init__(self) -> None:
        if self.partition is not None:
            parse_partition(self.partition)
        require_estimator(self.estimator)
        choose_floor(self.estimator, self.floor)

    def open(self, base: Inference, cache: Path) -> "Opening":
        """Choose what the caller left open, by the base model, its prior data and what is cached; nothing is computed.

        Raises:
            SettingError: If estimator or rule do not fit the model, or the number of features makes no sense.
            CacheError: If the folder holds something else than a cache.
            UnsupportedTrainerError: If the collator masks at random.
        """
        named = None if self.partition is None else parse_partition(self.partition)
        strategy = ByPriorLoss() if named is None else named
        for name in strategy.column_names:
            base.data.require_plain_column(name)
        chosen = choose_settings(self.estimator, named, base, cache, self.features)
        prior_pass = PriorPass(base.checked(), choose_feature_count(chosen, strategy, self.features))
        return Opening(self, strategy, chosen, prior_pass, cache)


@dataclass(frozen=True)
class Opening:
    """A rehearsal that is about to begin.

    Args:
        prior_pass: The base model's pass over the prior data, not yet made.
    """

    settings: RehearsalSettings
    strategy: PartitionStrategy
    estimator: EstimatorSettings | MakeEstimator
    prior_pass: PriorPass
    cache: Path

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the prior data to cache."""
        return tuple(dict.fromkeys((*self.strategy.column_names, *self.settings.cache_columns)))

    def predict(self, least_share_right: float) -> PriorPredictions:
        """Predict the prior data with the base model, or read its predictions from the cache.

        Args:
            least_share_right: The share of right predictions below which they are refused.
        """
        return complete_predictions(
            self.prior_pass, self.cache, columns=self.columns, least_share_right=least_share_right
        )

    def make_loop(self, predictions: PriorPredictions) -> RehearsalLoop:
        """Make the loop that plans the steps and learns from them.

        Raises:
            DataError: If the partition covers other samples.
            SettingError: If a function makes no estimator.
        """
        made, bins = make_estimator(self.estimator, self.strategy, self.prior_pass.inference.data, predictions)
        return RehearsalLoop(
            made,
            bins,
            predictions.base_correct,
            sources=predictions.sources,
            floor=choose_floor(self.settings.estimator, self.settings.floor),
            probe=self.settings.probe,
            lag=self.settings.lag,
        )
