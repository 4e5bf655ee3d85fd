"""What `mixcd.compare` costs: its time over that of two plain forward passes, and its bookkeeping of 10⁶ samples.

Two models, three layers of MiniLM each, of which the second has another head, over synthetic rows as in
`prior_pass.py`, with a topic each. The plain way runs both over the same batches and reads nothing off: rows are
fetched, sorted by length and padded by the same functions. Timed is the whole call of `compare`, with all bins and the
damaged samples.

The bookkeeping is all that `compare` does besides: bins of loss, of topics, of 50,000 authors and of a score, scores,
intervals, lifts and the worst samples, from made-up outcomes; and the report of them. It runs in a process of its own;
its peak is what the process held at most beyond what it held before.

    python benchmarks/compare.py
    python benchmarks/compare.py --rows 20000 --json benchmarks/results/compare.json
"""

import multiprocessing
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding
from transformers.utils import logging as transformers_logging

import mixcd
from mixcd.edge.compare.columns import bin_losses, choose_columns
from mixcd.edge.compare.comparison import PRIOR_LOSS, SampleDamage, compare_outcomes, rank_damaged
from mixcd.edge.compare.samples import keep_inputs
from mixcd.edge.demo.demo_data import find_minilm
from mixcd.matter.base_model.batched_inference import batch_by_tokens, collate
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.column_bins import bin_samples
from mixcd.run.outcome.sample_texts import TEXT_START
from prior_pass import LABEL_COUNT, LAYER_COUNT, SEED, make_rows
from side_by_side import Spread, describe_machine, make_parser, publish, read_status, run_pairs, say_machine

TOPIC_COUNT, AUTHOR_COUNT = 20, 50_000
ROWS_AT_ONCE = 4096
"""Rows that `compare` sorts by length together."""


class Bench:
    """Two models, the rows, and the two ways to run them.

    Args:
        row_count: Rows to predict.
        batch_size: Rows a batch at the longest length.
    """

    def __init__(self, row_count: int, batch_size: int) -> None:
        torch.manual_seed(SEED)
        base = AutoModelForSequenceClassification.from_pretrained(
            find_minilm(), num_hidden_layers=LAYER_COUNT, num_labels=LABEL_COUNT
        ).eval()
        tuned = deepcopy(base)
        with torch.no_grad():
            tuned.classifier.weight.add_(0.02 * torch.randn_like(tuned.classifier.weight))
        self._models = (base, tuned)
        self._batch_size = batch_size
        tokenizer = AutoTokenizer.from_pretrained(find_minilm())
        topics = np.random.default_rng(SEED).integers(0, TOPIC_COUNT, row_count)
        self._rows = make_rows(row_count, len(tokenizer)).add_column("topic", [f"topic {one}" for one in topics])
        self._collate = keep_inputs(DataCollatorWithPadding(tokenizer), base)

    def run_plain(self) -> float:
        """Run both models, read nothing off, and return the seconds."""
        start = time.perf_counter()
        samples = PriorDataset(self._rows)
        for model in self._models:
            for first in range(0, len(samples), ROWS_AT_ONCE):
                rows = samples.rows(range(len(samples))[first : first + ROWS_AT_ONCE])
                for batch in batch_by_tokens([len(row["input_ids"]) for row in rows], self._batch_size):
                    inputs = dict(collate(self._collate, [rows[row] for row in batch]))
                    del inputs["labels"]
                    with torch.no_grad():
                        model(**inputs)
        return time.perf_counter() - start

    def run_compare(self) -> float:
        """Compare both models, and return the seconds."""
        start = time.perf_counter()
        mixcd.compare(*self._models, self._rows, collate_fn=self._collate, batch_size=self._batch_size)
        return time.perf_counter() - start


def measure_bookkeeping(sample_count: int) -> dict[str, float]:
    """Do all that `compare` does but run models, and write the report.

    Args:
        sample_count: Samples.

    Returns:
        Seconds of both, the peak of memory in MiB, and the report's size in MiB.
    """
    rng = np.random.default_rng(SEED)
    topics, authors = rng.integers(0, TOPIC_COUNT, sample_count), rng.zipf(1.3, sample_count) % AUTHOR_COUNT
    rows = {
        "topic": [f"topic {one}" for one in topics],
        "author": [f"author {one}" for one in authors],
        "score": rng.random(sample_count),
        "text": [f"text {one}" for one in range(sample_count)],
    }
    samples = PriorDataset(Dataset.from_dict(rows), "data")
    loss = rng.exponential(size=(2, sample_count))
    before = rng.random(sample_count) < 0.8
    after = before & (rng.random(sample_count) > topics / 200)
    del rows
    _forget_peak()
    held, start = read_status("VmRSS"), time.perf_counter()
    chosen, left_out = choose_columns(samples, None, None)
    ids = np.arange(sample_count)
    partitions = [(name, bin_samples(samples, name, column, ids, {})) for name, column in chosen]
    worst = rank_damaged(before & ~after, *loss)
    shown = [
        SampleDamage(int(one), *loss[:, one].tolist(), "positive", "negative", f"text {one} ".ljust(TEXT_START, "x"))
        for one in worst
    ]
    bins = [(PRIOR_LOSS, bin_losses(loss[0])), *partitions]
    comparison = compare_outcomes(before, after, bins, most_damaged=shown, notes=left_out)
    compared = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.html")
        mixcd.write_report(comparison, report)
        size = report.stat().st_size / 2**20
    return {
        "bookkeeping_seconds": compared - start,
        "report_seconds": time.perf_counter() - compared,
        "bookkeeping_peak_mib": (read_status("VmHWM") - held) / 1024,
        "report_mib": size,
    }


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=4000, help="rows to compare on")
    parser.add_argument("--batch-size", type=int, default=32, help="rows a batch")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs, the order swapped every pair")
    parser.add_argument("--samples", type=int, default=10**6, help="samples to keep the books of")
    settings = parser.parse_args()
    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    machine = describe_machine()
    say_machine(machine)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        kept = pool.apply(measure_bookkeeping, (settings.samples,))
    bench = Bench(settings.rows, settings.batch_size)
    pairs = run_pairs(bench.run_plain, bench.run_compare, settings.pairs)
    figures: dict[str, Any] = {
        "plain_seconds": Spread.of([plain for plain, _ in pairs]),
        "compare_seconds": Spread.of([compared for _, compared in pairs]),
        "ratio": Spread.of([compared / plain for plain, compared in pairs]),
        **kept,
    }
    print(f"{settings.rows:,} rows, batch size {settings.batch_size}, {settings.pairs} pairs")
    print(f"two plain passes: {figures['plain_seconds'].show(2, ' s')}")
    print(f"mixcd.compare:    {figures['compare_seconds'].show(2, ' s')}")
    print(f"ratio:            {figures['ratio'].show()}")
    print(
        f"bookkeeping of {settings.samples:,} samples: {kept['bookkeeping_seconds']:.2f} s, the report "
        f"{kept['report_seconds']:.2f} s and {kept['report_mib']:.1f} MiB, "
        f"{kept['bookkeeping_peak_mib']:.0f} MiB at most"
    )
    publish(settings, machine, figures)


def _forget_peak() -> None:
    """Let the system count this process's peak of memory from now on."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


if __name__ == "__main__":
    main()
