"""What a sweep found: every method's points, and how they compare with one reference method, seed by seed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mixcd.edge.bench.frontier.frontier_comparison import (
    MatchedGain,
    compare_headroom,
    estimate_any,
    match_gain,
    measure_volumes,
    subtract_scores,
)
from mixcd.edge.bench.frontier.frontier_runs import (
    Half,
    MixRatios,
    Row,
    Seeds,
    gather_runs,
    require_method,
    shared_seeds,
    stack_scores,
)
from mixcd.edge.bench.frontier.pareto_frontier import find_pareto
from mixcd.edge.bench.frontier.seed_interval import Estimate, Headroom, estimate_mean

PLAIN = "none"
"""The method without rehearsal, whose prior score is the reference of volumes."""
ORACLE = "oracle-hard"
"""The oracle, unless another is named."""


@dataclass(frozen=True)
class PointReport:
    """One method at one mix ratio.

    Args:
        mix_ratio: β.
        damaged_share: Held-out prior samples damaged.
        new_difference: New score less the reference method's at the same mix ratio, over the seeds of both.
        prior_difference: The same of the prior score.
        matched: Against the reference method at the same new score.
        headroom: Share of the oracle's gain in prior score over the reference method, at the same mix ratio.
        yield_rate: Damaged share of all rehearsed samples; None without rehearsal.
        extra_compute: Scoring passes, as a share of training.
        is_charged: Whether they cost it steps; False for oracles.
        is_pareto: Whether no mean point of a charged method dominates it; False for oracles.
    """

    mix_ratio: float
    new: Estimate
    prior: Estimate
    damaged_share: Estimate
    new_difference: Estimate | None
    prior_difference: Estimate | None
    matched: MatchedGain | None
    headroom: Headroom | None
    yield_rate: float | None
    extra_compute: float
    is_charged: bool
    is_pareto: bool


@dataclass(frozen=True)
class MethodReport:
    """One method over its mix ratios.

    Args:
        points: One a mix ratio.
        volume: Mean hypervolume over seeds; None without plain fine-tuning of the same seeds.
        volume_difference: Less the reference method's, over the mix ratios and seeds that both have.
    """

    name: str
    points: tuple[PointReport, ...]
    volume: Estimate | None
    volume_difference: Estimate | None


@dataclass(frozen=True)
class FrontierReport:
    """All methods of one task.

    Args:
        half: The half of the held-out data.
        against: The reference method.
        oracle: The oracle; None without one.
        base: New and prior score of the base model.
        methods: In the order of their names.
        notes: What is missing, and why.
    """

    task: str
    half: Half
    against: str
    oracle: str | None
    base: tuple[Estimate, Estimate]
    methods: tuple[MethodReport, ...]
    notes: tuple[str, ...]

    @property
    def seeds_a_point(self) -> str:
        """How many seeds a point has, or from which to which number."""
        counts = sorted({point.new.seed_count for method in self.methods for point in method.points})
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def report_frontier(
    rows: Iterable[Row], half: Half = "test", against: str = "uniform", oracle: str | None = None
) -> FrontierReport:
    """Report what a sweep found on one half of the held-out data.

    Args:
        rows: Its rows, as `join_results` returns them.
        oracle: The oracle; "oracle-hard" by default, if there is one.

    Raises:
        SettingError: If the results do not hold the reference method, or the oracle that was named.
        DataError: If a score is no finite number.
    """
    rows = list(rows)
    methods = gather_runs(rows, half)
    require_method(against, methods, "`against`")
    if oracle is not None:
        require_method(oracle, methods, "`oracle`")
    oracle = oracle or (ORACLE if ORACLE in methods else None)
    pareto = _find_pareto_points(methods)
    reports = tuple(
        MethodReport(
            name,
            tuple(
                _report_point(methods, name, mix_ratio, against, oracle, (name, mix_ratio) in pareto)
                for mix_ratio in runs
            ),
            *_compare_volumes(methods, name, against),
        )
        for name, runs in methods.items()
    )
    notes = _note(methods, against, oracle)
    return FrontierReport(rows[0]["task"], half, against, oracle, _estimate_base(methods), reports, tuple(notes))


def _compare_volumes(
    methods: Mapping[str, MixRatios], name: str, against: str
) -> tuple[Estimate | None, Estimate | None]:
    runs, reference, plain = methods[name], methods[against], methods.get(PLAIN, {}).get(0.0, {})
    volume = estimate_any(measure_volumes(runs, runs, plain).values())
    if name == against:
        return volume, None
    shared = sorted(set(runs) & set(reference))
    own, other = measure_volumes(runs, shared, plain), measure_volumes(reference, shared, plain)
    return volume, estimate_any(own[seed] - other[seed] for seed in shared_seeds(own, other))


def _report_point(
    methods: Mapping[str, MixRatios], name: str, mix_ratio: float, against: str, oracle: str | None, is_pareto: bool
) -> PointReport:
    runs = methods[name][mix_ratio]
    scores = stack_scores(methods[name], [mix_ratio], list(runs))[0]
    is_reference = name == against
    reference = {} if is_reference else methods[against].get(mix_ratio, {})
    best = methods[oracle].get(mix_ratio, {}) if oracle not in (None, name, against) else {}
    differences = subtract_scores(runs, reference, shared_seeds(runs, reference))
    observed_count = sum(run.observed_count for run in runs.values())
    return PointReport(
        mix_ratio=mix_ratio,
        new=estimate_mean(scores[:, 0]),
        prior=estimate_mean(scores[:, 1]),
        damaged_share=estimate_mean(np.array([run.damaged_share for run in runs.values()])),
        new_difference=estimate_any(differences[:, 0]),
        prior_difference=estimate_any(differences[:, 1]),
        matched=None if is_reference else match_gain(methods[name], mix_ratio, methods[against]),
        headroom=compare_headroom(runs, reference, best),
        yield_rate=sum(run.damaged_count for run in runs.values()) / observed_count if observed_count else None,
        extra_compute=float(np.mean([run.extra_compute for run in runs.values()])),
        is_charged=_is_charged(runs),
        is_pareto=is_pareto,
    )


def _find_pareto_points(methods: Mapping[str, MixRatios]) -> set[tuple[str, float]]:
    means = {
        (name, mix_ratio): np.mean([run.scores for run in runs.values()], axis=0)
        for name, mix_ratios in methods.items()
        for mix_ratio, runs in mix_ratios.items()
        if _is_charged(runs)
    }
    if not means:
        return set()
    is_pareto = find_pareto(np.array(list(means.values())))
    return {point for point, kept in zip(means, is_pareto, strict=True) if kept}


def _estimate_base(methods: Mapping[str, MixRatios]) -> tuple[Estimate, Estimate]:
    scores = {
        seed: run.base_scores
        for mix_ratios in methods.values()
        for runs in mix_ratios.values()
        for seed, run in runs.items()
    }
    stacked = np.array(list(scores.values()))
    return estimate_mean(stacked[:, 0]), estimate_mean(stacked[:, 1])


def _note(methods: Mapping[str, MixRatios], against: str, oracle: str | None) -> Iterator[str]:
    counts = {len(runs) for mix_ratios in methods.values() for runs in mix_ratios.values()}
    if max(counts) < 2:
        yield "Fewer than 2 seeds: there are no intervals, and one seed decides nothing."
    elif len(counts) > 1:
        yield "Not every run has every seed: differences are over the seeds that both have."
    if not methods.get(PLAIN, {}).get(0.0):
        yield f'No "{PLAIN}" runs: without plain fine-tuning there is no reference for volumes.'
    if oracle is None:
        yield f'No "{ORACLE}" runs and no `--oracle`: there is no captured headroom.'
    elif oracle == against:
        yield "The oracle is the reference method: there is no captured headroom."


def _is_charged(runs: Seeds) -> bool:
    return all(run.is_charged for run in runs.values())
