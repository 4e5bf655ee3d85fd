"""Rivals of mix-cd that choose what to rehearse, as estimators: for comparisons, not for use."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixcd.words.vocabulary import UNCACHED_BIN, Belief, Flags, Floats, Ids, Observation, Partition


@dataclass(frozen=True)
class NothingLearnt:
    """The state of a rival that learns nothing."""


@dataclass(frozen=True)
class FixedWeights:
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
        del observation
        return state

    def belief(self, state: NothingLearnt) -> Belief:
        """Return nothing that could change."""
        del state
        return ()

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the weights of some samples, shape (samples,)."""
        del belief
        return self.weights[sample_ids]


def stratify(partition: Partition) -> FixedWeights:
    """Draw every bin equally often, whatever its size; samples without a bin as often as the average sample.

    Args:
        partition: The bins, such as those of a label.

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
class Exp3Estimator:
    """A bandit over bins whose reward is the training loss of the samples it drew.

    As in Online Data Mixing (Albalak et al. 2023), with the bins in the place of data sets: the policy is
    π = (1 − K ε_t) softmax(ε_{t−1} R̂) + ε_t with ε_t = min(1/K, √(ln K / (K t))), and a bin's reward is
    R̂ ← α R̂ + (1 − α) loss / π. The step was planned with the policy of some steps before; rewards are
    weighted with the present one.

    Args:
        partition: The bins of all prior samples.
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
class ScoredSamples:
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
        del state
        ids = observation.sample_ids
        if self.score == "damaged":
            score = (self.base_correct[ids] & ~observation.correct).astype(np.float64)
        elif self.score == "drop":
            score = np.maximum(0.0, np.exp(-self.prior_loss[ids]) - np.exp(-observation.loss))
        else:
            score = np.maximum(0.0, observation.loss - self.prior_loss[ids])
        if self.takes_highest:
            score = 10.0 ** -np.minimum(np.argsort(np.argsort(-score)), 280)
        return Scores(ids.astype(np.float64), score)

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
