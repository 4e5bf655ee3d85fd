"""The words that all layers share: frozen values, and the interfaces that keep the parts apart."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mixcd.words.errors import DataError, UnknownSampleError, shorten
from mixcd.words.state_json import decode, encode

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Belief = tuple[Floats, ...]

_CHUNK = 1 << 22

UNCACHED_BIN = -1
"""The bin id of a prior sample whose base prediction is not in the cache."""


@dataclass(frozen=True)
class TokenChange:
    """What became of the target tokens of some samples since the base model; counts, shape (samples,).

    Args:
        target_count: Target tokens.
        right_before: Those that the base model had right.
        lost_count: Those of them that are wrong now.
        gained_count: Those that the base model had wrong, and that are right now.
    """

    target_count: Ids
    right_before: Ids
    lost_count: Ids
    gained_count: Ids

    @property
    def damage(self) -> Floats:
        """The damage d of each sample in [0, 1]: of its tokens that were right, the share that is wrong now."""
        damage: Floats = self.lost_count / np.maximum(self.right_before, 1)
        return damage

    def __getitem__(self, chosen: Ids | Flags | slice) -> "TokenChange":
        return TokenChange(*(counts[chosen] for counts in vars(self).values()))


@dataclass(frozen=True)
class Observation:
    """What one step's training forward revealed about its rehearsed samples.

    Args:
        sample_ids: The rehearsed prior samples, shape (observed,).
        correct: Whether the fine-tuned model got each right, shape (observed,).
        loss: The fine-tuned model's loss on each, in nats, shape (observed,).
        logits: Its class logits, shape (observed, classes), for estimators that read them; else None.
        tokens: What became of their target tokens, where damage is counted by token; else None.
    """

    sample_ids: Ids
    correct: Flags
    loss: Floats
    logits: Floats | None = None
    tokens: TokenChange | None = None


@dataclass(frozen=True)
class PriorTable:
    """What partitions may look at: one row a prior sample.

    Args:
        loss: The base model's loss, in nats, shape (samples,).
        columns: Other columns of the prior data by name, each of shape (samples,).
        features: The base model's features, shape (samples, features); None when none are cached.
    """

    loss: Floats
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    features: NDArray[np.floating[Any]] | None = None


@dataclass(frozen=True)
class Partition:
    """Every prior sample's bin.

    Args:
        bin_ids: Shape (samples,), values in 0 … bins − 1, or `UNCACHED_BIN`.
        bin_names: One readable name a bin.
        factors: The partitions that this one crosses, each over the same samples; none where it crosses none.
    """

    bin_ids: NDArray[np.integer[Any]]
    bin_names: tuple[str, ...]
    factors: tuple["Partition", ...] = ()

    @property
    def bin_count(self) -> int:
        """The number of bins, K."""
        return len(self.bin_names)

    @cached_property
    def bin_sizes(self) -> Ids:
        """The number of prior samples in each bin, shape (bins,)."""
        starts = range(0, len(self.bin_ids), _CHUNK)  # bin ids may be memory-mapped, and huge
        chunks = (self.count(slice(start, start + _CHUNK)) for start in starts)
        return sum(chunks, start=np.zeros(self.bin_count, np.int64))

    def count(self, chosen: Ids | Flags | slice) -> Ids:
        """Return how many of the chosen samples are in each bin, shape (bins,); uncached ones are in none."""
        bins = self.bin_ids[chosen]
        return np.bincount(bins[bins != UNCACHED_BIN], minlength=self.bin_count)

    def sum(self, sample_ids: Ids, values: Floats) -> Floats:
        """Sum one value a sample in each bin, shape (bins,); those of uncached samples are in none."""
        bins = self.bin_ids[sample_ids]
        cached = bins != UNCACHED_BIN
        sums: Floats = np.bincount(bins[cached], values[cached], minlength=self.bin_count).astype(np.float64)
        return sums


class PartitionStrategy(ABC):
    """Gives every prior sample a bin."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns of the prior data that the strategy reads; none by default."""
        return ()

    @property
    def reads_features(self) -> bool:
        """Whether the table must bring the base model's features."""
        return False

    @abstractmethod
    def assign(self, table: PriorTable) -> Partition:
        """Return the bin of every row of the table."""


@dataclass(frozen=True)
class DamageCounts:
    """How often the samples of each bin were observed, and found damaged; shape (bins,).

    Args:
        observed_count: n_k. Fractions arise when older observations are discounted.
        damaged_count: u_k. By token it is the sum of the samples' damage, each in [0, 1].
    """

    observed_count: Floats
    damaged_count: Floats

    def __add__(self, other: "DamageCounts") -> "DamageCounts":
        return DamageCounts(self.observed_count + other.observed_count, self.damaged_count + other.damaged_count)


State = TypeVar("State")


class CollateralDamageEstimator(ABC, Generic[State]):
    """Turns observations into a belief about which prior samples are damaged.

    It holds settings and arrays, and no state: the loop keeps that. `mixcd.testing.check_estimator` checks one.
    """

    reads_logits: ClassVar[bool] = False
    """Whether observations must bring the fine-tuned model's logits."""
    draws_by_bins: ClassVar[bool] = True
    """Whether all samples of a bin are drawn alike."""

    @abstractmethod
    def init(self) -> State:
        """Return the state before any observation: a frozen dataclass of float64 arrays."""

    @abstractmethod
    def update(self, state: State, observation: Observation) -> State:
        """Return the state with one step's observation added; a sample may be in it more than once."""

    @abstractmethod
    def belief(self, state: State) -> Belief:
        """Return the arrays that drawing needs."""

    @abstractmethod
    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return how likely each sample is damaged, up to a common factor; shape (samples,)."""

    def candidates(self, belief: Belief) -> Ids | None:
        """Return the only samples that may be drawn, ascending; None, the default, for all."""
        return None

    def write_state(self, state: State) -> Any:
        """Return a state as JSON values, exact to the bit."""
        return encode(state)

    def read_state(self, stored: Any) -> State:
        """Return the state of what `write_state` returned."""
        state: State = decode(self.init(), stored)
        return state


class BasePredictions(Protocol):
    """What an estimator may be bound to: the base model's predictions on the prior data, as `predict_prior` returns."""

    @property
    def sample_count(self) -> int:
        """The number of prior samples."""

    @property
    def sample_ids(self) -> Ids:
        """The samples with a prediction, ascending, shape (cached,)."""

    @property
    def loss(self) -> Floats:
        """The base model's loss on each of them, in nats, shape (cached,)."""

    @property
    def correct(self) -> Flags:
        """Whether the base model got each of them right, shape (cached,)."""

    @property
    def classes(self) -> Ids:
        """The class of each of them among its logits, shape (cached,)."""

    @property
    def base_correct(self) -> Flags:
        """Whether the base model got each prior sample right, shape (samples,); False without a prediction."""

    @property
    def base_loss(self) -> Floats:
        """The base model's loss on each prior sample, shape (samples,); infinite without a prediction."""

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float16]]:
        """`features` and `logits`, one row a sample with a prediction; empty when they were not cached."""


class EstimatorSettings(ABC):
    """The settings of an estimator, chosen before bins and predictions are known: a frozen dataclass."""

    reads_features: ClassVar[bool] = False
    """Whether the base model's features and logits must be cached."""
    floor: ClassVar[float | None] = None
    """ε of the draws, where the caller names none; None for the sampling scheduler's own."""

    @abstractmethod
    def bind(self, partition: Partition, predictions: BasePredictions) -> CollateralDamageEstimator[Any]:
        """Return the estimator.

        Args:
            partition: The bins that damage is counted in.
            predictions: The base model's predictions.

        Raises:
            SettingError: If it needs features or logits that were not cached.
        """

    def choose_bins(self, partition: Partition) -> Partition:
        """Return the bins that damage is counted in: those of the partition strategy, by default."""
        return partition


def grade_damage(base_correct: Flags, observation: Observation) -> Floats:
    """Return how much each observed sample is damaged, in [0, 1], shape (observed,).

    By token, it is the share of what was right before that is wrong now; else 1 where the base model had the sample
    right and the fine-tuned model has it wrong, and 0 elsewhere.

    Args:
        base_correct: Whether the base model got each prior sample right, shape (samples,).
    """
    if observation.tokens is not None:
        return observation.tokens.damage
    return (base_correct[observation.sample_ids] & ~observation.correct).astype(np.float64)


def count_damage(partition: Partition, base_correct: Flags, observation: Observation) -> DamageCounts:
    """Count the observed and the damaged samples of one step in each bin.

    Samples without a cached base prediction are not counted.

    Paper: u_k and n_k of bin k: `f` right and `f'` wrong among the rehearsed samples of the bin. Damage by token is
    ours: u_k then sums shares.

    Args:
        base_correct: Whether the base model got each prior sample right, shape (samples,).

    Raises:
        UnknownSampleError: If an observed sample lies outside the partition.

    Example:
        >>> partition = Partition(np.array([0, 0, 1]), ("easy", "hard"))
        >>> seen = Observation(np.array([0, 2]), np.array([True, False]), np.array([0.1, 2.0]))
        >>> count_damage(partition, np.array([True, True, True]), seen).damaged_count
        array([0., 1.])
    """
    ids, sample_count = observation.sample_ids, len(partition.bin_ids)
    unknown = ids[(ids < 0) | (ids >= sample_count)]
    if unknown.size:
        raise UnknownSampleError(
            f"`observation` names sample {shorten(unknown)}, but the partition covers samples 0 to "
            f"{sample_count - 1}. Build the partition from the same prior dataset that training draws from."
        )
    observed_count = partition.count(ids).astype(np.float64)  # n_k
    return DamageCounts(observed_count, partition.sum(ids, grade_damage(base_correct, observation)))  # u_k


def require_finite_losses(sample_ids: Ids, loss: NDArray[Any], owner: str = "The base model") -> None:
    """Refuse losses, one a sample, that are NaN or infinite, by a `DataError` that names the samples."""
    broken = sample_ids[~np.isfinite(loss)]
    if broken.size:
        raise DataError(
            f"{owner}'s loss is NaN or infinite on prior sample {shorten(broken)}. Every prior sample needs a "
            "finite loss. Check these samples' inputs and labels, and that the model's weights are finite."
        )
