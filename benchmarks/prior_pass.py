"""Samples a second of the prior pass against `Trainer.predict`, at equal peak padded tokens a batch.

Both run the same MiniLM (3 layers) over the same synthetic rows of mixed length. `Trainer.predict` takes rows in their
order and pads each batch to its longest row; `predict_prior` sorts by length and fills batches up to a bound of padded
tokens, batch size × longest row, which is the most that `Trainer.predict` can need. It also fingerprints the model and
the data and writes the cache; all of that is timed. Runs alternate.

The peaks are counted by a hook: the script fails (exit status 1) if the prior pass needs more than its bound.

    python benchmarks/prior_pass.py
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, disable_progress_bars
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

import mixcd
from mixcd.demo_data import find_minilm
from side_by_side import Spread, describe_machine, make_parser, publish, run_pairs, say_machine

LAYERS = 3
CLASSES = 3
SHORTEST, LONGEST, MEDIAN = 4, 128, 24
SEED = 0


@dataclass(frozen=True)
class Run:
    """What one pass over the rows showed.

    Args:
        samples_a_second: Rows over time.
        peak_tokens: The most padded tokens of a batch.
        padded_tokens: Padded tokens of all batches.
        forward_count: Forward passes.
    """

    samples_a_second: float
    peak_tokens: int
    padded_tokens: int
    forward_count: int


class Bench:
    """The model, the rows and the two passes.

    Args:
        row_count: The number of rows.
        batch_size: Rows a batch of `Trainer.predict`.
        folder: A folder for caches.
    """

    def __init__(self, row_count: int, batch_size: int, folder: Path) -> None:
        self.rows = make_rows(row_count)
        self._batch_size = batch_size
        self._folder = folder
        self._caches = 0
        tokenizer = AutoTokenizer.from_pretrained(find_minilm())
        self._model = AutoModelForSequenceClassification.from_pretrained(
            find_minilm(), num_hidden_layers=LAYERS, num_labels=CLASSES
        )
        self._collate = DataCollatorWithPadding(tokenizer)
        args = TrainingArguments(
            str(folder / "output"), per_device_eval_batch_size=batch_size, report_to="none", disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        self._trainer = Trainer(model=self._model, args=args, data_collator=self._collate)
        self._trainer.remove_callback(PrinterCallback)

    def run_trainer(self) -> Run:
        """Predict with the trainer."""
        return self._time(lambda: self._trainer.predict(self.rows))

    def run_prior_pass(self) -> Run:
        """Predict with the prior pass, into a fresh cache."""
        self._caches += 1
        return self._time(
            lambda: mixcd.predict_prior(
                self._model,
                self.rows,
                self._folder / f"cache-{self._caches}",
                collate_fn=self._collate,
                batch_size=self._batch_size,
                progress=False,
                least_share_right=0.0,
            )
        )

    def _time(self, predict: Any) -> Run:
        shapes: list[tuple[int, int]] = []
        hook = self._model.register_forward_pre_hook(
            lambda _module, _inputs, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
        )
        start = time.perf_counter()
        predict()
        seconds = time.perf_counter() - start
        hook.remove()
        tokens = [rows * length for rows, length in shapes]
        return Run(len(self.rows) / seconds, max(tokens), sum(tokens), len(shapes))


def make_rows(row_count: int) -> Dataset:
    """Make rows of mixed length: log-normal, between 4 and 128 tokens."""
    rng = np.random.default_rng(SEED)
    lengths = np.clip(rng.lognormal(np.log(MEDIAN), 0.7, row_count), SHORTEST, LONGEST).astype(int)
    return Dataset.from_dict(
        {
            "input_ids": [rng.integers(1000, 30000, length).tolist() for length in lengths],
            "attention_mask": [[1] * length for length in lengths],
            "label": rng.integers(0, CLASSES, row_count).tolist(),
        }
    )


def main() -> int:
    """Run the benchmark and print its figures.

    Returns:
        The exit status.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="rows to predict")
    parser.add_argument("--batch-size", type=int, default=32, help="rows a batch of Trainer.predict")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs, the order swapped every pair")
    settings = parser.parse_args()
    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    machine = describe_machine()
    say_machine(machine)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(settings.rows, settings.batch_size, Path(folder))
        pairs = run_pairs(bench.run_trainer, bench.run_prior_pass, settings.pairs)
    lengths = [len(row) for row in bench.rows["input_ids"]]
    print(
        f"{settings.rows} rows, lengths: min {min(lengths)}, median {np.median(lengths):.0f}, "
        f"mean {np.mean(lengths):.1f}, max {max(lengths)} tokens; batch size {settings.batch_size}"
    )
    names = ("Trainer.predict", "prior pass")
    for name, run in zip(names, pairs[0], strict=True):
        print(
            f"{name:>15}: peak {run.peak_tokens} padded tokens a batch, {run.padded_tokens} in all, "
            f"{run.forward_count} forward passes"
        )
    speeds = [Spread.of([run.samples_a_second for run in runs]) for runs in zip(*pairs, strict=True)]
    for name, speed in zip(names, speeds, strict=True):
        print(f"{name:>15}: {speed.show(0)} samples a second")
    ratio = Spread.of([ours.samples_a_second / theirs.samples_a_second for theirs, ours in pairs])
    print(f"ratio, prior pass / Trainer.predict: {ratio.show(2)}")
    publish(settings, machine, {"samples_a_second": speeds, "ratio": ratio})
    return int(pairs[0][1].peak_tokens > settings.batch_size * max(lengths))


if __name__ == "__main__":
    sys.exit(main())
