"""The frontier of new and prior score: which points are on it, its hypervolume, and gains at matched new score."""

import numpy as np

from mixcd.words.vocabulary import Flags, Floats, Ids


def find_pareto(points: Floats) -> Flags:
    """Find the points that no other dominates: none is at least as good in both scores and better in one.

    Equal points do not dominate each other.

    Args:
        points: Scores, more is better, shape (..., points, 2).

    Returns:
        Shape (..., points).

    Example:
        >>> find_pareto(np.array([[0.9, 0.5], [0.8, 0.7], [0.8, 0.6]]))
        array([ True,  True, False])
    """
    one, other = points[..., :, None, :], points[..., None, :, :]
    is_dominated = (other >= one).all(-1) & (other > one).any(-1)
    return np.asarray(~is_dominated.any(-1))


def measure_hypervolume(points: Floats, reference: Floats) -> float:
    """Measure the area that lies below some point and above the reference in both scores.

    Args:
        points: Scores, more is better, shape (points, 2). Those not above the reference add nothing.
        reference: A score of each, shape (2,).

    Returns:
        The area; 0 if no point is above the reference.

    Example:
        >>> measure_hypervolume(np.array([[3.0, 1.0], [1.0, 2.0], [1.0, 1.0]]), np.array([0.0, 0.0]))
        4.0
    """
    above = points[(points > reference).all(-1)]
    best = above[find_pareto(above)]
    best = best[np.argsort(-best[:, 0], kind="stable")]  # first score falls, second rises
    floors = np.concatenate([reference[1:], best[:-1, 1]])
    return float(((best[:, 0] - reference[0]) * (best[:, 1] - floors)).sum())


def match_prior_score(reference: Floats, new: Floats) -> Floats:
    """Read off the prior score that a reference method reaches at a given new score.

    Dominated points of the reference are dropped, so that it is as strong as can be; between the others it is
    interpolated. Above its highest new score it is what it is there, which favours the reference.

    Args:
        reference: New and prior score of the reference, one point a mix ratio, shape (..., points, 2).
        new: The new scores to match, shape (...).

    Returns:
        Prior scores, shape (...); NaN below the lowest new score of the points that are left, where nothing matches.

    Example:
        >>> match_prior_score(np.array([[0.9, 0.5], [0.8, 0.7], [0.8, 0.6]]), np.array(0.85)).round(3)
        np.float64(0.6)
    """
    best, news, priors = find_pareto(reference), reference[..., 0], reference[..., 1]
    wanted = np.asarray(new)[..., None]
    below = np.where(best & (news <= wanted), news, -np.inf)
    above = np.where(best & (news >= wanted), news, np.inf)
    left, right = below.max(-1), above.min(-1)
    left_prior = np.take_along_axis(priors, below.argmax(-1)[..., None], -1)[..., 0]
    right_prior = np.take_along_axis(priors, above.argmin(-1)[..., None], -1)[..., 0]
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num((new - left) / (right - left))  # 0 on a point, and above the highest new score
    matched = left_prior + share * (right_prior - left_prior)
    return np.asarray(np.where(np.isfinite(left), matched, np.nan))[()]


def gain_at_matched_score(scores: Floats, reference: Floats, chosen: Ids) -> Floats:
    """Compare a method's mean prior score with that of a reference method at the same mean new score.

    Args:
        scores: New and prior score of the method at one mix ratio, shape (seeds, 2).
        reference: Those of the reference at each of its mix ratios, of the same seeds, shape (mix ratios, seeds, 2).
        chosen: The seeds to average over, shape (..., chosen).

    Returns:
        Prior score less the reference's, shape (...); NaN where nothing of the reference matches.

    Example:
        >>> uniform = np.array([[[0.9, 0.5]], [[0.8, 0.7]]])
        >>> gain_at_matched_score(np.array([[0.85, 0.63]]), uniform, np.array([0])).round(3)
        np.float64(0.03)
    """
    mean = scores[chosen].mean(-2)
    curve = np.moveaxis(reference[:, chosen].mean(-2), 0, -2)
    return np.asarray(mean[..., 1] - match_prior_score(curve, mean[..., 0]))[()]
