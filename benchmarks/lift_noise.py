"""How far lift can be trusted: simulated draws over bins that mean nothing, and over bins that mean something.

Run `python benchmarks/lift_noise.py`. Each line is one way in which damage changes over 300 steps. "false" is the share
of runs whose 95 % interval excludes 1 although every bin has the same rate; "mean" is the mean lift of runs whose true
lift is 1.26. "raw" is the plug-in estimate, "noise" subtracts the sampling variance, "noise and time" does so inside
windows of 50 steps, which is what mixcd reports.
"""

import argparse
from collections.abc import Callable

import numpy as np

from mixcd.ideas.lift import Lift, LiftSums, estimate_lift, sum_window
from mixcd.run.rehearsal_loop.rehearsal_health import WINDOW
from mixcd.words.vocabulary import DamageCounts, Floats

BINS = 10
STEPS = 300
DRAWS = 4
LAG = 8
SIZES = np.full(BINS, 100)
EQUAL = np.ones(BINS)
UNEQUAL = np.linspace(0.2, 1.8, BINS)

COURSES: dict[str, Callable[[int], float]] = {
    "steady 15 %": lambda _: 0.15,
    "rises from 0 to 20 %": lambda step: min(0.2, 0.2 * step / 100),
    "falls from 30 to 8 %": lambda step: 0.08 + 0.22 * float(np.exp(-step / 60)),
}


def simulate(course: Callable[[int], float], relative_rate: Floats, seed: int) -> dict[str, Lift]:
    """Draw by smoothed cumulative counts, as mixcd does, and estimate the lift in three ways."""
    rng = np.random.default_rng(seed)
    total = window = _zeros()
    sums = LiftSums()
    rates = []
    for step in range(STEPS):
        rates.append((total.damaged_count + 0.5) / (total.observed_count + 1))
        belief = rates[max(0, step - LAG)]
        bins = rng.choice(BINS, DRAWS, p=0.95 * belief / belief.sum() + 0.05 / BINS)
        damaged = rng.random(DRAWS) < course(step) * relative_rate[bins]
        counts = DamageCounts(*(np.bincount(ids, minlength=BINS).astype(float) for ids in (bins, bins[damaged])))
        total, window = total + counts, window + counts
        if (step + 1) % WINDOW == 0:
            sums, window = sums + sum_window(window, SIZES), _zeros()
    rate = total.damaged_count / total.observed_count
    raw = float(np.mean(rate**2) / np.mean(rate) ** 2)
    return {"raw": Lift(raw, raw, raw), "noise": estimate_lift(total, SIZES), "noise and time": sums.to_lift()}


def _zeros() -> DamageCounts:
    return DamageCounts(np.zeros(BINS), np.zeros(BINS))


def main() -> None:
    """Print one line a course."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="simulated runs a line (default 200)")
    runs = range(parser.parse_args().runs)
    print(f"{len(runs)} runs a line, {BINS} bins, {STEPS} steps of {DRAWS} draws")
    for name, course in COURSES.items():
        null = [simulate(course, EQUAL, seed) for seed in runs]
        true = [simulate(course, UNEQUAL, seed) for seed in runs]
        cells = [
            f"{way}: false {np.mean([run[way].low > 1 for run in null]):.2f}, "
            f"mean {np.mean([run[way].value for run in null]):.2f} and {np.mean([run[way].value for run in true]):.2f}"
            for way in null[0]
        ]
        print(f"{name:>22} | " + " | ".join(cells))


if __name__ == "__main__":
    main()
