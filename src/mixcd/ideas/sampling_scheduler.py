"""The sampling scheduler: from a belief about damage to the samples that are rehearsed next."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Floats, Ids

CANDIDATE_COUNT = 1024
CANDIDATES_A_DRAW = 32
FLOOR = 0.05

_LEAST_WEIGHT = 1e-290  # samples of weight 0 come last, in random order
_NEWTON_STEPS = 50
_TOLERANCE = 1e-3
_LEAST_RATE = 1e-9  # all that have any weight have arrived


@dataclass(frozen=True)
class Draw:
    """The prior samples of one step.

    Args:
        sample_ids: Shape (draws,).
        chances: How often a step with these weights draws each of them on average, times the number of
            candidates and divided by the number of draws: 1 in uniform rehearsal; shape (draws,).
    """

    sample_ids: Ids
    chances: Floats


@dataclass(frozen=True)
class Arrivals:
    """The candidates of a step in the order in which they are drawn, for steps that take as many as they have room for.

    Args:
        sample_ids: Shape (candidates,).
        weights: Their drawing weights, which sum to one, shape (candidates,).
    """

    sample_ids: Ids
    weights: Floats

    def first(self, draw_count: int) -> Draw:
        """Return the first to arrive, as `draw` would draw them; all of them again where there are not that many."""
        count = self.sample_ids.size
        places = np.arange(draw_count) % count
        expected = draw_count // count + inclusion_probability(self.weights, draw_count % count)
        return Draw(self.sample_ids[places], expected[places] * (count / max(1, draw_count)))


def draw(
    damage_probability: Callable[[Ids], Floats],
    sample_count: int,
    draw_count: int,
    *,
    seed: int,
    step: int,
    floor: float = FLOOR,
    candidates: Ids | None = None,
) -> Draw:
    """Draw the prior samples of one step, each in proportion to its damage probability.

    A pure function: the generator is keyed on (seed, step), so the same belief gives the same draws on
    every process. The cost does not depend on the number of prior samples: weights are computed for at
    most a few thousand candidates, drawn uniformly. Equal weights are uniform rehearsal.

    Paper: draw in proportion to the collateral damage of the bin, uniformly inside it.

    Args:
        damage_probability: Gives each candidate's weight, up to a common factor; shape (candidates,).
        draw_count: How many to draw. Distinct while they last; a prior set smaller than this is taken
            whole as often as it fits, and the rest is drawn.
        step: The optimizer step the samples are for, from 0.
        floor: ε, the share of the draws that ignores the belief.
        candidates: The samples to choose from, when the belief covers only these; None for a uniform selection.

    Example:
        >>> draw(lambda ids: (ids == 7).astype(float), 10, 1, seed=0, step=0, floor=0.0).sample_ids
        array([7])
    """
    candidates, weights, arrivals = _race(damage_probability, sample_count, draw_count, seed, step, floor, candidates)
    whole_count, rest_count = divmod(draw_count, candidates.size)
    first = np.argpartition(arrivals, rest_count)[:rest_count]
    chosen = first[np.argsort(arrivals[first])]
    expected = whole_count + inclusion_probability(weights, rest_count)
    places = np.concatenate([*[np.arange(candidates.size)] * whole_count, chosen])
    return Draw(candidates[places], expected[places] * (candidates.size / max(1, draw_count)))


def line_up(
    damage_probability: Callable[[Ids], Floats],
    sample_count: int,
    draw_count: int,
    *,
    seed: int,
    step: int,
    floor: float = FLOOR,
    candidates: Ids | None = None,
) -> Arrivals:
    """Line up the candidates of one step in the order in which they are drawn; arguments are those of `draw`.

    Args:
        draw_count: How many will be drawn, about: it decides how many candidates there are.

    Example:
        >>> line_up(lambda ids: (ids == 7).astype(float), 10, 1, seed=0, step=0, floor=0.0).first(1).sample_ids
        array([7])
    """
    candidates, weights, arrivals = _race(damage_probability, sample_count, draw_count, seed, step, floor, candidates)
    order = np.argsort(arrivals)
    return Arrivals(candidates[order], weights[order])


def _race(
    damage_probability: Callable[[Ids], Floats],
    sample_count: int,
    draw_count: int,
    seed: int,
    step: int,
    floor: float,
    candidates: Ids | None,
) -> tuple[Ids, Floats, Floats]:
    """Return candidates, weights and times of arrival: Gumbel-top-k, as the race it is equal to.

    The first to arrive are drawn, without replacement.
    """
    rng = keyed_generator(seed, step, Stream.DRAWS)
    candidates, weights = weigh_candidates(
        damage_probability, sample_count, draw_count, rng=rng, floor=floor, candidates=candidates
    )
    arrivals = rng.standard_exponential(candidates.size) / np.maximum(weights, _LEAST_WEIGHT)
    return candidates, weights, arrivals


def inclusion_probability(weights: Floats, draw_count: int) -> Floats:
    """Return how likely each candidate is among the first to arrive.

    A candidate of weight w has arrived by time t with probability `1 − exp(−w t)`; t is the time at which `draw_count`
    have arrived on average. The true time varies with the arrivals, which is left out: exact for equal weights and for
    a single draw of small ones.

    Args:
        weights: Drawing weights that sum to one, shape (candidates,).
        draw_count: How many are drawn, fewer than there are candidates. The probabilities sum to it, to within a
            thousandth, or to less when fewer candidates than that have any weight.

    Example:
        >>> inclusion_probability(np.array([0.25, 0.25, 0.25, 0.25]), 2).round(3).tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    time = float(draw_count)
    for _ in range(_NEWTON_STEPS):  # from below, and never past it: the number of arrivals is concave in time
        waiting = np.exp(-weights * time)
        missing, rate = draw_count - (waiting.size - waiting.sum()), weights @ waiting
        if missing <= _TOLERANCE * draw_count or rate < _LEAST_RATE:
            break
        time += missing / rate
    probability: Floats = -np.expm1(-weights * time)
    return probability


def weigh_candidates(
    damage_probability: Callable[[Ids], Floats],
    sample_count: int,
    draw_count: int,
    *,
    rng: np.random.Generator,
    floor: float = FLOOR,
    candidates: Ids | None = None,
) -> tuple[Ids, Floats]:
    """Draw distinct candidates uniformly, all samples when there are few, and weigh them as `draw` describes.

    There are at least 32 candidates for each of the `draw_count` samples that the step will take.

    Returns:
        Sample ids and drawing weights that sum to one, both of shape (candidates,).
    """
    candidate_count = max(CANDIDATE_COUNT, CANDIDATES_A_DRAW * draw_count)
    if candidates is None:
        candidates = (
            np.arange(sample_count)
            if sample_count <= candidate_count
            else rng.choice(sample_count, candidate_count, replace=False, shuffle=False)
        )
    return candidates, mix_with_floor(damage_probability(candidates), floor)


def mix_with_floor(damage_probability: Floats, floor: float) -> Floats:
    """Turn damage probabilities w into drawing weights that sum to one: `(1 − ε) · w / Σw + ε / M`.

    Args:
        damage_probability: w of each of M candidates, shape (candidates,), not negative; uniform when none is positive.
        floor: ε, the share of the draws that ignores the belief.

    Example:
        >>> mix_with_floor(np.array([0.0, 1.0]), floor=0.5)
        array([0.25, 0.75])
    """
    total, candidate_count = damage_probability.sum(), damage_probability.size
    if total <= 0:
        return np.full(candidate_count, 1 / candidate_count)
    weights: Floats = (1 - floor) * damage_probability / total + floor / candidate_count
    return weights
