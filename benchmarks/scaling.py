"""What a prior set of 10⁴ to 10⁷ samples costs with the drift estimator, and what a forward pass costs of a step.

    python benchmarks/scaling.py

Prior sets: a synthetic prediction cache with 64 features and 3 logits a sample, in a temporary folder; each size in a
process of its own. *Disk* is the whole cache over its samples. *Own memory* is what the process holds beyond what it
held before opening the cache, without the pages of mapped files, which the system takes back when it needs them.
*Planning* is the median time of drawing one step's samples. The paper takes a forward pass for a third of a training
step; the second table measures it for three BERT sizes with random weights.
"""

import multiprocessing
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import BertConfig, BertForSequenceClassification

from mixcd.ideas.collateral_damage_estimator import DriftEstimator
from mixcd.ideas.sampling_scheduler import draw
from mixcd.matter.base_model.flat_array import create_array, open_array
from mixcd.matter.base_model.prediction_cache import Manifest, array_path, read_parts, seal, write_manifest, write_part
from mixcd.matter.base_model.prior_pass import choose_part_size
from mixcd.words.vocabulary import Observation
from side_by_side import Spread, describe_machine, make_parser, publish, run_pairs, say_machine

FEATURES, CLASSES = 64, 3
STEPS, DRAWS = 200, 4
SIZES = {"2 layers, 128 wide": (2, 128, 2), "3 layers, 384 wide": (3, 384, 12), "6 layers, 512 wide": (6, 512, 8)}
ROWS, TOKENS, PAIRS = 16, 32, 9


@dataclass(frozen=True)
class PriorCost:
    """What one size of prior set costs.

    Args:
        samples: Prior samples.
        disk_bytes: On the disk, a sample.
        own_megabytes: Memory that opening the cache and planning took.
        planning_milliseconds: Drawing one step's samples.
    """

    samples: int
    disk_bytes: float
    own_megabytes: float
    planning_milliseconds: float


def measure_prior_set(sample_count: int) -> PriorCost:
    """Make a cache, open it, and plan steps."""
    folder = Path(tempfile.mkdtemp(prefix="mixcd-scaling-"))
    try:
        manifest = _make_cache(folder, sample_count)
        disk = sum(path.stat().st_size for path in folder.iterdir()) / sample_count
        before = _own_bytes()
        estimator = _open(folder, manifest)
        milliseconds = _time_planning(estimator, sample_count)
        return PriorCost(sample_count, disk, (_own_bytes() - before) / 2**20, milliseconds)
    finally:
        shutil.rmtree(folder)


def _make_cache(folder: Path, sample_count: int) -> Manifest:
    size = choose_part_size(sample_count)
    widths = {"features": FEATURES, "logits": CLASSES}
    manifest = Manifest({}, sample_count, 1.0, 0, (), size, widths)
    write_manifest(folder, manifest)
    for name, width in widths.items():
        create_array(array_path(folder, name), sample_count, width)
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, sample_count, size)):
        count = min(size, sample_count - start)
        arrays = {name: rng.normal(size=(count, width)).astype(np.float16) for name, width in widths.items()}
        table = pa.table(
            {
                "sample_id": np.arange(start, start + count),
                "loss": rng.exponential(size=count).astype(np.float32),
                "correct": rng.random(count) < 0.75,
                "prediction": rng.integers(CLASSES, size=count, dtype=np.int32),
                "token_count": rng.integers(8, 64, size=count, dtype=np.int32),
            }
        )
        write_part(folder, manifest, number, table, arrays)
    return seal(folder, manifest)


def _open(folder: Path, manifest: Manifest) -> DriftEstimator:
    prediction = np.empty(manifest.sample_count, dtype=np.int32)
    correct = np.empty(manifest.sample_count, dtype=bool)
    start = 0
    for part in read_parts(folder, manifest):
        stop = start + part.num_rows
        prediction[start:stop], correct[start:stop] = part["prediction"].to_numpy(), part["correct"].to_numpy()
        start = stop
    logits, features = (open_array(array_path(folder, name)) for name in ("logits", "features"))
    return DriftEstimator(logits, features, prediction, correct)


def _time_planning(estimator: DriftEstimator, sample_count: int) -> float:
    rng, state, seconds = np.random.default_rng(1), estimator.init(), []
    for step in range(STEPS):
        belief = estimator.belief(state)
        start = time.perf_counter()
        weigh = partial(estimator.damage_probability, belief)
        ids = draw(weigh, sample_count, DRAWS, seed=0, step=step).sample_ids
        seconds.append(time.perf_counter() - start)
        logits = rng.normal(size=(DRAWS, CLASSES))
        state = estimator.update(state, Observation(ids, np.ones(DRAWS, dtype=bool), np.ones(DRAWS), logits))
    return 1e3 * float(np.median(seconds))


def _own_bytes() -> int:
    """Memory of this process that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return int(found[1]) * 1024 if found else 0


def measure_forward_share(size: str) -> Spread:
    """Return the time of a forward pass without gradients over that of a whole training step, side by side."""
    layers, width, heads = SIZES[size]
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width
    )
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = {"input_ids": torch.randint(5, 30000, (ROWS, TOKENS)), "labels": torch.zeros(ROWS, dtype=torch.int64)}

    def forward() -> None:
        with torch.no_grad():
            model(**batch)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        forward()
        step()
    pairs = run_pairs(lambda: _seconds(forward), lambda: _seconds(step), PAIRS)
    return Spread.of([first / second for first, second in pairs])


def _seconds(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(3):
        act()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, and write the result when that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("--samples", nargs="+", type=int, default=[10**4, 10**5, 10**6, 10**7])
    given = parser.parse_args()
    machine = describe_machine()
    say_machine(machine)
    context = multiprocessing.get_context("spawn")
    costs = []
    for count in given.samples:
        with context.Pool(1) as pool:
            costs.append(pool.apply(measure_prior_set, (count,)))
        print(
            f"{count:>10,} prior samples: disk {costs[-1].disk_bytes:.1f} bytes a sample (allowed: "
            f"{2 * FEATURES + 2 * CLASSES + 16}), own memory {costs[-1].own_megabytes:.0f} MiB, planning "
            f"{costs[-1].planning_milliseconds:.2f} ms a step"
        )
    shares = {size: measure_forward_share(size) for size in SIZES}
    for size, share in shares.items():
        print(f"{size}: a forward pass is {share.show(2)} of a training step")
    publish(given, machine, {"prior_sets": costs, "forward_share": shares})


if __name__ == "__main__":
    main()
