"""Intervals over seeds: what a handful of paired runs can say about a mean, a ratio or another statistic."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from mixcd.words.keyed_random import Stream, keyed_generator
from mixcd.words.vocabulary import Floats, Ids

LEAST_FOR_BOOTSTRAP = 10
"""Seeds from which intervals are bootstrapped; fewer give a t interval."""
CONFIDENCE = 0.95
_RESAMPLES = 10_000

Interval = tuple[float, float]
"""Lower and upper bound, 95 %."""
Statistic = Callable[[Ids], Floats]
"""From numbers of seeds, shape (..., seeds), to the statistic of each row of them, shape (...)."""


@dataclass(frozen=True)
class Estimate:
    """A statistic of several seeds.

    Args:
        interval: Its 95 % interval; None when the seeds do not bound it, as fewer than two never do.
    """

    value: float
    interval: Interval | None
    seed_count: int


@dataclass(frozen=True)
class Headroom:
    """What a method gains, as a share of what the oracle gains.

    Args:
        captured: Ratio of the mean gains; None without headroom, or while nobody can tell.
        oracle_gain: The oracle's mean gain.
        is_there: Whether the oracle gains anything: its interval lies above 0. None when one seed cannot tell.
    """

    captured: Estimate | None
    oracle_gain: Estimate
    is_there: bool | None


def estimate(statistic: Statistic, seed_count: int) -> Estimate:
    """Estimate a statistic of seeds with its 95 % interval.

    Seeds are left out or drawn whole, so what is paired stays paired. Fewer than ten: the t interval on the
    delete-one-seed jackknife, which for a mean is the t interval. From ten: bootstrap percentiles, moved out so
    that they are as far apart as the t interval for a normal mean (Hesterberg 2015); plain ones are too narrow.

    Args:
        statistic: What is estimated, NaN where it is undefined; must take many rows of seeds at once.
        seed_count: Seeds there are, at least 1.

    Returns:
        The estimate; without interval for one seed, or when the statistic is undefined for too many selections.

    Example:
        >>> heights = np.array([1.0, 2.0, 3.0, 4.0])
        >>> estimate(lambda chosen: heights[chosen].max(-1), 4).value
        4.0
    """
    value = float(statistic(np.arange(seed_count)))
    if seed_count < 2:
        return Estimate(value, None, seed_count)
    low, high = (
        _bootstrap(statistic, seed_count)
        if seed_count >= LEAST_FOR_BOOTSTRAP
        else _jackknife(statistic, seed_count, value)
    )
    return Estimate(value, (low, high) if np.isfinite([low, high]).all() else None, seed_count)


def estimate_mean(values: Floats) -> Estimate:
    """Estimate the mean of one value a seed; pass paired differences to compare.

    Args:
        values: Shape (seeds,).

    Example:
        >>> mean = estimate_mean(np.array([0.01, 0.03, 0.02]))
        >>> round(mean.value, 3), [round(bound, 3) for bound in mean.interval]
        (0.02, [-0.005, 0.045])
    """
    return estimate(lambda chosen: np.asarray(values[chosen].mean(-1)), len(values))


def bound_ratio(numerator: Floats, denominator: Floats) -> Interval | None:
    """Bound a ratio of two paired means by Fieller's theorem.

    All ratios θ are kept for which mean(numerator) − θ · mean(denominator) is within t standard errors of 0.

    Args:
        numerator: Shape (seeds,).
        denominator: Of the same seeds.

    Returns:
        The 95 % interval. None if the denominator's t interval holds 0, for then the ratios that are kept have no
        bounds (all ratios, or all outside some interval), and with fewer than two seeds.

    Example:
        >>> low, high = bound_ratio(np.array([1.0, 2.0, 1.5]), np.array([2.0, 4.1, 2.9]))
        >>> low < 4.5 / 9 < high
        True
        >>> bound_ratio(np.array([1.0, 2.0]), np.array([-1.0, 1.0]))
    """
    count = len(numerator)
    if count < 2:
        return None
    a, b = numerator.mean(), denominator.mean()
    (v_aa, v_ab), (_, v_bb) = np.cov(numerator, denominator) / count
    q = _t_quantile(count) ** 2
    # θ² (b² − q v_bb) − 2 θ (a b − q v_ab) + (a² − q v_aa) ≤ 0
    square = b**2 - q * v_bb
    if square <= 0:
        return None
    middle = (a * b - q * v_ab) / square
    half = np.sqrt(max(middle**2 - (a**2 - q * v_aa) / square, 0.0))
    return float(middle - half), float(middle + half)


def capture_headroom(gain: Floats, oracle_gain: Floats) -> Headroom:
    """Say which share of the oracle's gain a method captures.

    Args:
        gain: The method's score less that of uniform rehearsal, shape (seeds,).
        oracle_gain: The oracle's, of the same seeds.

    Returns:
        The ratio of the means with its Fieller interval; "no headroom" if the oracle's interval is not above 0.

    Example:
        >>> oracle_gain = np.array([0.04, 0.05, 0.06])
        >>> capture_headroom(oracle_gain / 2, oracle_gain).captured.value
        0.5
        >>> capture_headroom(oracle_gain / 2, -oracle_gain).is_there
        False
    """
    oracle = estimate_mean(oracle_gain)
    if oracle.interval is None:
        return Headroom(None, oracle, None)
    bounds = bound_ratio(gain, oracle_gain)
    if oracle.interval[0] <= 0 or bounds is None:
        return Headroom(None, oracle, is_there=False)
    return Headroom(Estimate(float(gain.mean()) / oracle.value, bounds, len(gain)), oracle, is_there=True)


def _jackknife(statistic: Statistic, count: int, value: float) -> Interval:
    others = np.array([np.delete(np.arange(count), one) for one in range(count)])
    without = statistic(others)
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    reach = _t_quantile(count) * float(error)
    return value - reach, value + reach


def _bootstrap(statistic: Statistic, count: int) -> Interval:
    rng = keyed_generator(0, count, Stream.CONTROLS)
    values = statistic(rng.integers(count, size=(_RESAMPLES, count)))
    undefined = np.isnan(values)  # could be anything: each bound takes the worst
    tail = norm.cdf(-np.sqrt(count / (count - 1)) * _t_quantile(count))
    low = np.quantile(np.where(undefined, -np.inf, values), tail, method="inverted_cdf")
    high = np.quantile(np.where(undefined, np.inf, values), 1 - tail, method="inverted_cdf")
    return float(low), float(high)


def _t_quantile(count: int) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
