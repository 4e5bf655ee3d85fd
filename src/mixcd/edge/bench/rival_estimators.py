"""Rivals of mix-cd that choose what to rehearse, as estimators: for comparisons, not for use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from mixcd.edge.bench.ema_estimator import Ema
from mixcd.ideas.collateral_damage_estimator import CountEstimator
from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import (
    UNCACHED_BIN,
    BasePredictions,
    Belief,
    CollateralDamageEstimator,
    DamageCounts,
    EstimatorSettings,
    Flags,
    Floats,
    Ids,
    Observation,
    Partition,
    grade_damage,
)


@dataclass(frozen=True)
class NothingLearnt:
    """The state of a rival that learns nothing."""


@dataclass(frozen=True)
class FixedWeights(CollateralDamageEstimator[NothingLearnt]):
    """Draw by weights that were known before training.

    Args:
        weights: One a prior sample, up to a common factor, shape (samples,).
    """

    weights: Floats

    def init(self) -> NothingLearnt:
        """Return the only state."""
        return NothingLearnt()

    def update(self, state: NothingLearnt, observation: Observation) -> NothingLearnt:
        """Learn nothing."""
        return state

    def belief(self, state: NothingLearnt) -> Belief:
        """Return nothing that could change."""
        return ()

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the weights of some samples, shape (samples,)."""
        return self.weights[sample_ids]


def stratify(partition: Partition) -> FixedWeights:
    """Draw every bin equally often, whatever its size; samples without a bin as often as the average sample.

    Example:
        >>> stratify(Partition(np.array([0, 0, 0, 1]), ("a", "b"))).weights.tolist()
        [0.3333333333333333, 0.3333333333333333, 0.3333333333333333, 1.0]
    """
    sizes = partition.bin_sizes
    average = np.count_nonzero(sizes) / sizes.sum()
    weights: Floats = np.append(1.0 / np.maximum(sizes, 1), average)  # bin −1 is the appended one
    return FixedWeights(weights[partition.bin_ids])


def keep_highest_loss(prior_loss: Floats, share: float = 0.1) -> FixedWeights:
    """Draw uniformly from the samples of highest prior loss.

    Args:
        prior_loss: The base model's loss, shape (samples,).
        share: Which share of the samples is drawn from.

    Example:
        >>> keep_highest_loss(np.array([0.1, 3.0, 0.2, 0.3]), share=0.25).weights
        array([0., 1., 0., 0.])
    """
    kept_count = max(1, round(share * prior_loss.size))
    weights = np.zeros(prior_loss.size)
    weights[np.argsort(-prior_loss, kind="stable")[:kept_count]] = 1.0
    return FixedWeights(weights)


@dataclass(frozen=True)
class BanditState:
    """What the bandit has seen.

    Args:
        reward: Moving average of each bin's importance-weighted reward, shape (bins,).
        step_count: Steps observed, shape (1,).
    """

    reward: Floats
    step_count: Floats


@dataclass(frozen=True)
class Exp3Estimator(CollateralDamageEstimator[BanditState]):
    """A bandit over bins whose reward is the training loss of the samples it drew.

    As in Online Data Mixing (Albalak et al. 2023), with the bins in the place of data sets: the policy is
    π = (1 − K ε_t) softmax(ε_{t−1} R̂) + ε_t with ε_t = min(1/K, √(ln K / (K t))), and a bin's reward is
    R̂ ← α R̂ + (1 − α) loss / π. The step was planned with the policy of some steps before; rewards are
    weighted with the present one.

    Args:
        smoothing: α.
    """

    partition: Partition
    smoothing: float = 0.9

    def init(self) -> BanditState:
        """Return the state before any reward."""
        return BanditState(np.zeros(self.partition.bin_count), np.zeros(1))

    def update(self, state: BanditState, observation: Observation) -> BanditState:
        """Reward the bins of one step's samples by their mean training loss."""
        bins = self.partition.bin_ids[observation.sample_ids]
        cached = bins != UNCACHED_BIN
        count = np.bincount(bins[cached], minlength=self.partition.bin_count)
        loss = np.bincount(bins[cached], observation.loss[cached], minlength=self.partition.bin_count)
        (policy,) = self.belief(state)
        mean_loss = np.divide(loss, count, out=np.zeros(count.size), where=count > 0)
        reward = self.smoothing * state.reward + (1 - self.smoothing) * mean_loss / policy
        return BanditState(np.where(count > 0, reward, state.reward), state.step_count + 1)

    def belief(self, state: BanditState) -> Belief:
        """Return the policy π, shape (bins,)."""
        bin_count, done = self.partition.bin_count, int(state.step_count[0])  # t − 1
        exploration = self._explore(done + 1)  # ε_t
        exponent = self._explore(done) * state.reward  # ε_{t−1} R̂
        softmax = np.exp(exponent - exponent.max())
        return ((1 - bin_count * exploration) * softmax / softmax.sum() + exploration,)

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the policy spread evenly over each bin's samples, shape (samples,).

        A sample without a bin is drawn as often as the average sample.
        """
        (policy,) = belief
        sizes = self.partition.bin_sizes
        weights: Floats = np.append(policy / np.maximum(sizes, 1), 1 / sizes.sum())  # bin −1 is the appended one
        return np.take(weights, self.partition.bin_ids[sample_ids])

    def _explore(self, step: int) -> float:
        bin_count = self.partition.bin_count
        return min(1 / bin_count, float(np.sqrt(np.log(bin_count) / (bin_count * max(1, step)))))


@dataclass(frozen=True)
class Scores:
    """What the last probe showed: ids and scores of its samples, as floats, shape (probed,)."""

    sample_ids: Floats
    score: Floats


@dataclass(frozen=True)
class ScoredSamples(CollateralDamageEstimator[Scores]):
    """Draw among the samples of the last probe, by what the current model shows of them.

    With a large pool, seldom renewed and not charged: the oracle. With a few candidates a draw, renewed in
    every step and charged: candidate scoring, which is MIR (Aljundi et al. 2019) without its virtual update.

    Args:
        prior_loss: The base model's loss, shape (samples,).
        base_correct: Whether the base model got each sample right, shape (samples,).
        score: "damaged" for 1 where f was right and f' is not; "drop" for how far the label's probability
            fell; "loss" for how far the loss rose.
        takes_highest: Whether the highest scores are drawn first, instead of in proportion to the score.
    """

    prior_loss: Floats
    base_correct: Flags
    score: Literal["damaged", "drop", "loss"]
    takes_highest: bool = False

    def init(self) -> Scores:
        """Return the state before any probe."""
        return Scores(np.zeros(0), np.zeros(0))

    def update(self, state: Scores, observation: Observation) -> Scores:
        """Score the samples of a probe; those of the probe before are forgotten."""
        ids, rows = np.unique(observation.sample_ids, return_inverse=True)
        score = self._score(observation)
        score = np.bincount(rows, score) / np.bincount(rows)  # of a sample that is there twice, the mean
        if self.takes_highest:
            score = 10.0 ** -np.minimum(np.argsort(np.argsort(-score)), 280)
        return Scores(ids.astype(np.float64), score)

    def _score(self, observation: Observation) -> Floats:
        ids = observation.sample_ids
        if self.score == "damaged":
            return grade_damage(self.base_correct, observation)
        if self.score == "drop":
            return np.asarray(np.maximum(0.0, np.exp(-self.prior_loss[ids]) - np.exp(-observation.loss)))
        return np.asarray(np.maximum(0.0, observation.loss - self.prior_loss[ids]))

    def belief(self, state: Scores) -> Belief:
        """Return ids and scores, shape (probed,) each."""
        return state.sample_ids, state.score

    def candidates(self, belief: Belief) -> Ids | None:
        """Return the samples of the last probe, the only ones that are drawn; None before the first."""
        ids, _ = belief
        return ids.astype(np.int64) if ids.size else None

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the scores of some samples of the last probe, shape (samples,); 1 before the first."""
        ids, score = belief
        if not ids.size:
            return np.ones(sample_ids.size)
        return np.asarray(score[np.searchsorted(ids, sample_ids)])


Measure = Literal["graded", "loss", "target-share", "whole"]
"""What counts as a sample's damage."""


@dataclass(frozen=True)
class MeasuredCounts(CollateralDamageEstimator[DamageCounts]):
    """Count another measure of damage in bins, and draw by it as `CountEstimator` draws by its own.

    Without damage by token, only "loss" differs from what `CountEstimator` counts.

    Args:
        counts: What the counts are drawn by; its partition holds the bins.
        base_loss: The base model's loss on each prior sample, in nats a token, shape (samples,).
        measure: "graded" for the tokens that were right and are wrong, as a share of those that were right; "loss" for
            how far the loss rose, in nats a token, from 0 to 1 and cut off there; "target-share" for the tokens that
            were right and are wrong, as a share of all target tokens; "whole" for 1 where `least_share` of the tokens
            was right and is no longer.
        least_share: For "whole" alone.
    """

    counts: CountEstimator
    base_loss: Floats
    measure: Measure
    least_share: float

    def init(self) -> DamageCounts:
        """Return empty counts, shape (bins,)."""
        return self.counts.init()

    def update(self, state: DamageCounts, observation: Observation) -> DamageCounts:
        """Add one step's observation to the counts."""
        ids, partition = observation.sample_ids, self.counts.partition
        return state + DamageCounts(
            partition.count(ids).astype(np.float64), partition.sum(ids, self.grade(observation))
        )

    def grade(self, observation: Observation) -> Floats:
        """Return how much each observed sample is damaged, in [0, 1], shape (observed,)."""
        tokens = observation.tokens
        if self.measure == "loss":
            return np.clip(observation.loss - self.base_loss[observation.sample_ids], 0.0, 1.0)
        if tokens is None or self.measure == "graded":
            return grade_damage(self.counts.base_correct, observation)
        target_count: Floats = np.maximum(tokens.target_count, 1).astype(np.float64)
        if self.measure == "target-share":
            return np.asarray(tokens.lost_count / target_count)
        before, now = tokens.right_before, tokens.right_before - tokens.lost_count + tokens.gained_count
        was_right, is_right = (count / target_count >= self.least_share for count in (before, now))
        return np.asarray((was_right & ~is_right).astype(np.float64))

    def belief(self, state: DamageCounts) -> Belief:
        """Return the damage of the bins, shape (bins,)."""
        return self.counts.belief(state)

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the damage of each sample's bin, shape (samples,)."""
        return self.counts.damage_probability(belief, sample_ids)


@dataclass(frozen=True)
class Measured(EstimatorSettings):
    """Draw by the damage of bins under another measure: the settings of `MeasuredCounts`, under the same names."""

    measure: Measure
    least_share: float = 0.7

    def bind(self, partition: Partition, predictions: BasePredictions) -> MeasuredCounts:
        """Return the estimator."""
        counts = CountEstimator(partition, predictions.base_correct)
        return MeasuredCounts(counts, predictions.base_loss, self.measure, self.least_share)


@dataclass(frozen=True)
class Stratified(EstimatorSettings):
    """Draw every bin equally often."""

    def bind(self, partition: Partition, predictions: BasePredictions) -> FixedWeights:
        """Return the estimator."""
        return stratify(partition)


@dataclass(frozen=True)
class RightOnly(EstimatorSettings):
    """Draw uniformly from the samples that the base model had right."""

    def bind(self, partition: Partition, predictions: BasePredictions) -> FixedWeights:
        """Return the estimator."""
        return FixedWeights(predictions.base_correct.astype(np.float64))


@dataclass(frozen=True)
class HighestLoss(EstimatorSettings):
    """Draw uniformly from this share of the samples: those of highest prior loss."""

    share: float = 0.1

    def bind(self, partition: Partition, predictions: BasePredictions) -> FixedWeights:
        """Return the estimator."""
        kept = keep_highest_loss(predictions.loss, self.share).weights
        weights = np.full(predictions.sample_count, kept.mean())  # without a prediction, as the average sample
        weights[predictions.sample_ids] = kept
        return FixedWeights(weights)


@dataclass(frozen=True)
class Exp3(EstimatorSettings):
    """Draw by a bandit over bins; `smoothing` is its α."""

    smoothing: float = 0.9

    def bind(self, partition: Partition, predictions: BasePredictions) -> Exp3Estimator:
        """Return the estimator."""
        return Exp3Estimator(partition, self.smoothing)


@dataclass(frozen=True)
class Permuted(EstimatorSettings):
    """The control: counts in bins that mean nothing."""

    seed: int = 0

    def bind(self, partition: Partition, predictions: BasePredictions) -> CountEstimator:
        """Return the estimator."""
        order = keyed_generator(self.seed, 0, Stream.CONTROLS).permutation(len(partition.bin_ids))
        return CountEstimator(Partition(partition.bin_ids[order], partition.bin_names), predictions.base_correct)


@dataclass(frozen=True)
class Probed(EstimatorSettings):
    """Draw among the samples of the last probe: the settings of `ScoredSamples`."""

    score: Literal["damaged", "drop", "loss"]
    takes_highest: bool = False

    def bind(self, partition: Partition, predictions: BasePredictions) -> ScoredSamples:
        """Return the estimator."""
        return ScoredSamples(predictions.base_loss, predictions.base_correct, self.score, self.takes_highest)


RIVALS: Mapping[str, Callable[..., EstimatorSettings]] = {
    "stratified": Stratified,
    "right-only": RightOnly,
    "highest-loss": HighestLoss,
    "ema": Ema,
    "exp3": Exp3,
    "permuted": Permuted,
    "by-loss-increase": partial(Measured, measure="loss"),
    "by-target-share": partial(Measured, measure="target-share"),
    "by-whole-sample": partial(Measured, measure="whole"),
    "oracle-hard": partial(Probed, score="damaged"),
    "oracle-soft": partial(Probed, score="drop"),
    "candidate-scoring": partial(Probed, score="loss", takes_highest=True),
}
"""What makes the settings of each rival, by its name in sweeps."""
