"""Two methods of a sweep compared: at the same mix ratio, at the same new score, by hypervolume."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixcd.edge.bench.frontier.frontier_runs import MixRatios, Seeds, shared_seeds, stack_scores
from mixcd.edge.bench.frontier.pareto_frontier import gain_at_matched_score, measure_hypervolume
from mixcd.edge.bench.frontier.seed_interval import Estimate, Headroom, capture_headroom, estimate, estimate_mean
from mixcd.words.vocabulary import Floats


@dataclass(frozen=True)
class MatchedGain:
    """Prior score less that of the reference method at the same new score.

    Args:
        gain: The difference; None if nothing matches.
        match: "clamped": the new score is above all of the reference's, which is taken where its own is highest.
            "none": it is below all of them that another does not dominate.
    """

    gain: Estimate | None
    match: Literal["matched", "clamped", "none"]


def match_gain(runs: MixRatios, mix_ratio: float, reference: MixRatios) -> MatchedGain | None:
    """Compare a method with any other at the same new score.

    Args:
        reference: The runs of the method to compare with; only seeds that it has at all its mix ratios count.

    Returns:
        The gain in prior score, over the seeds of both; None if they share none.
    """
    seeds = shared_seeds(runs[mix_ratio], *reference.values())
    if not seeds:
        return None
    scores, curve = stack_scores(runs, [mix_ratio], seeds)[0], stack_scores(reference, reference, seeds)
    new, reference_new = scores[:, 0].mean(), curve[..., 0].mean(-1)
    gain = estimate(lambda chosen: gain_at_matched_score(scores, curve, chosen), len(seeds))
    if np.isnan(gain.value):
        return MatchedGain(None, "none")
    return MatchedGain(gain, "clamped" if new > reference_new.max() else "matched")


def measure_volumes(runs: MixRatios, mix_ratios: Iterable[float], plain: Seeds) -> dict[int, float]:
    """Measure each seed's hypervolume above the base model's new and plain fine-tuning's prior score.

    Args:
        plain: The runs without rehearsal.

    Returns:
        Volumes by seed, of the seeds that every mix ratio and plain fine-tuning have.
    """
    mix_ratios = list(mix_ratios)
    if not mix_ratios:
        return {}
    volumes = {}
    for seed in shared_seeds(plain, *(runs[mix_ratio] for mix_ratio in mix_ratios)):
        reference = np.array([plain[seed].base_scores[0], plain[seed].scores[1]])
        volumes[seed] = measure_hypervolume(stack_scores(runs, mix_ratios, [seed])[:, 0], reference)
    return volumes


def compare_headroom(runs: Seeds, reference: Seeds, best: Seeds) -> Headroom | None:
    """Say which share of the oracle's gain in prior score a method captures, at one mix ratio.

    Args:
        reference: Those of the method that both gain over.
        best: The oracle's.

    Returns:
        The share, over the seeds of all three; None if they share none.
    """
    seeds = shared_seeds(runs, reference, best)
    if not seeds:
        return None
    gain, oracle_gain = (subtract_scores(one, reference, seeds)[:, 1] for one in (runs, best))
    return capture_headroom(gain, oracle_gain)


def subtract_scores(runs: Seeds, reference: Seeds, seeds: Iterable[int]) -> Floats:
    """Return new and prior scores less the reference's, shape (seeds, 2)."""
    pairs = [np.subtract(runs[seed].scores, reference[seed].scores) for seed in seeds]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def estimate_any(values: Iterable[float]) -> Estimate | None:
    """Estimate the mean of one value a seed; None if there are no seeds."""
    array = np.array(list(values), dtype=np.float64)
    return estimate_mean(array) if array.size else None
