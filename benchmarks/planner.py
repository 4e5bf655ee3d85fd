"""Time of planning one step with few prior samples against very many: it should not grow.

The prior data are synthetic memory-mapped arrays (bin ids and the base model's correctness, one byte each a sample)
in a temporary folder. Timed are `RehearsalLoop.block`, which draws a step's prior samples and lays out its batch, and
`RehearsalLoop.commit`, which learns from what the step observed; `Partition.bin_sizes`, which is computed once a
run, is timed apart. The files are in the page cache: how fast the disk is plays no part.

    python benchmarks/planner.py
    python benchmarks/planner.py --samples 10000 100000000
"""

import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.ideas.collateral_damage_estimator import CountEstimator
from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop
from mixcd.words.vocabulary import Ids, Observation, Partition
from side_by_side import Spread, describe_machine, make_parser, publish, run_pairs, say_machine

BIN_COUNT = 10
NEW_COUNT = 100_000
MIX_RATIO = 0.25
BLOCK_SIZE = 32
SEED = 0

CHUNK = 1 << 24
LEAST_FREE_DISK = 4 * 10**9
FALLBACK_COUNT = 10**8


@dataclass(frozen=True)
class OneOff:
    """What is done once before the first step.

    Args:
        seconds: Time of `Partition.bin_sizes`.
        peak_bytes: Memory that it allocated at its peak.
    """

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Round:
    """Median times of some consecutive steps, in microseconds.

    Args:
        block: Planning a step.
        commit: Learning from a step.
    """

    block: float
    commit: float


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--samples", type=int, nargs=2, default=(10**4, 10**9), metavar=("FEW", "MANY"), help="prior samples"
    )
    parser.add_argument("--rounds", type=int, default=20, help="pairs of rounds, the order swapped every pair")
    parser.add_argument("--steps", type=int, default=30, help="steps in a round")
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's)")
    settings = parser.parse_args()
    machine = describe_machine()
    say_machine(machine)
    with tempfile.TemporaryDirectory(dir=settings.folder) as name:
        folder = Path(name)
        few, many = settings.samples[0], _fit_to_disk(settings.samples[1], folder)
        loops = [_make_loop(folder, sample_count) for sample_count in (few, many)]
        one_offs = [_count_bins(loop.partition) for loop in loops]
        run_few, run_many = (_make_runner(loop, settings.steps) for loop in loops)
        pairs = run_pairs(run_few, run_many, settings.rounds)
    figures = _summarise(pairs)
    _print_figures((few, many), one_offs, figures, settings.rounds, settings.steps)
    publish(settings, machine, {"samples": [few, many], "bin_sizes": one_offs, **figures})


def _fit_to_disk(sample_count: int, folder: Path) -> int:
    free = shutil.disk_usage(folder).free
    if sample_count > FALLBACK_COUNT and free < LEAST_FREE_DISK:
        print(f"only {free / 1e9:.1f} GB of disk are free: {FALLBACK_COUNT:,} samples instead of {sample_count:,}")
        return FALLBACK_COUNT
    return sample_count


def _make_loop(folder: Path, sample_count: int) -> RehearsalLoop:
    rng = np.random.default_rng(SEED)
    bin_ids = _map_array(
        folder / f"bins-{sample_count}", sample_count, lambda size: rng.integers(0, BIN_COUNT, size, np.uint8)
    )
    base_correct = _map_array(
        folder / f"correct-{sample_count}", sample_count, lambda size: rng.integers(0, 256, size, np.uint8) < 205
    )
    partition = Partition(bin_ids, tuple(str(number) for number in range(BIN_COUNT)))
    loop = RehearsalLoop(CountEstimator(partition, base_correct), partition, base_correct, sources={})
    loop.shape(BatchPlan(NEW_COUNT, sample_count, MIX_RATIO, BLOCK_SIZE, 1, SEED), look_ahead=1)
    return loop


def _map_array(path: Path, size: int, make: Callable[[int], np.ndarray]) -> np.ndarray:
    """Write an array chunk by chunk, and map it."""
    with path.open("wb") as file:
        for start in range(0, size, CHUNK):
            chunk = make(min(CHUNK, size - start))
            file.write(chunk.tobytes())
    return np.memmap(path, chunk.dtype, "r")


def _count_bins(partition: Partition) -> OneOff:
    """Fill `Partition.bin_sizes`, which also maps every page of the bin ids."""
    tracemalloc.start()
    start = time.perf_counter()
    partition.bin_sizes  # noqa: B018
    seconds, peak_bytes = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return OneOff(seconds, peak_bytes)


def _make_runner(loop: RehearsalLoop, step_count: int) -> Callable[[], Round]:
    rng = np.random.default_rng(SEED)
    return partial(_run_round, loop, step_count, rng)


def _run_round(loop: RehearsalLoop, step_count: int, rng: np.random.Generator) -> Round:
    block_times, commit_times = [], []
    for step in range(loop.steps_done, loop.steps_done + step_count):
        start = time.perf_counter()
        rows = loop.block(step)
        block_times.append(time.perf_counter() - start)
        observation = _observe(rows, rng)
        start = time.perf_counter()
        loop.adopt(loop.learn(observation))
        commit_times.append(time.perf_counter() - start)
    return Round(float(np.median(block_times)) * 1e6, float(np.median(commit_times)) * 1e6)


def _observe(rows: Ids, rng: np.random.Generator) -> Observation:
    prior_ids = rows[rows >= NEW_COUNT] - NEW_COUNT
    return Observation(prior_ids, rng.random(prior_ids.size) < 0.7, rng.random(prior_ids.size))


def _summarise(pairs: list[tuple[Round, Round]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for part in ("block", "commit"):
        few, many = ([getattr(run, part) for run in runs] for runs in zip(*pairs, strict=True))
        figures[f"{part}_us_few"], figures[f"{part}_us_many"] = Spread.of(few), Spread.of(many)
        figures[f"{part}_ratio"] = Spread.of([many / few for few, many in zip(few, many, strict=True)])
    return figures


def _print_figures(
    samples: tuple[int, int], one_offs: list[OneOff], figures: dict[str, Any], rounds: int, steps: int
) -> None:
    for sample_count, one_off in zip(samples, one_offs, strict=True):
        print(
            f"bin sizes of {sample_count:,} samples, once a run: {one_off.seconds:.3f} s, "
            f"{one_off.peak_bytes / 1e9:.3f} GB at the peak"
        )
    print(f"{rounds} pairs of rounds of {steps} steps, medians of rounds; {BLOCK_SIZE} rows a step, β = {MIX_RATIO}")
    for part in ("block", "commit"):
        for sample_count, key in zip(samples, ("few", "many"), strict=True):
            print(f"{part:6} with {sample_count:>13,} samples: {figures[f'{part}_us_{key}'].show(0, ' µs')}")
        print(f"{part:6} ratio, many / few: {figures[f'{part}_ratio'].show(2)}")


if __name__ == "__main__":
    main()
