"""Samples a second of `mixcd.predict_prior` against `Trainer.predict`, at equal peak memory for a batch.

The rows are synthetic, and as long as short texts are: log-normal, most of them much shorter than the longest. Both
ways run the same three layers of MiniLM over the same rows, with the same collator and batch size. `Trainer.predict`
takes the rows as they come and pads each batch to its longest row; `predict_prior` sorts them by length and puts more
short rows into a batch, up to as many padded tokens as the longest rows make. Timed is the whole call: for
`predict_prior` with fingerprints and a fresh cache on disk.

The peak of padded tokens is measured by a hook: the script fails (exit status 1) if `predict_prior`'s is higher.

    python benchmarks/prior_pass.py
    python benchmarks/prior_pass.py --rows 20000 --batch-size 64
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from mixcd.edge.demo.demo_data import find_minilm
from side_by_side import Spread, describe_machine, make_parser, publish, run_pairs, say_machine

LAYER_COUNT = 3
LABEL_COUNT = 3
MEDIAN_LENGTH = 24
LOG_LENGTH_DEVIATION = 0.6
LENGTH_RANGE = (4, 128)
FIRST_WORD_ID = 1000
"""Smaller token ids of MiniLM's vocabulary are special or unused."""
SEED = 0


@dataclass(frozen=True)
class Run:
    """What one pass over the rows showed.

    Args:
        samples_per_second: Rows by the time of the whole call.
        forward_count: Forward passes.
        peak_tokens: Padded tokens of the largest batch.
        padded_tokens: Padded tokens of all batches.
    """

    samples_per_second: float
    forward_count: int
    peak_tokens: int
    padded_tokens: int


class Bench:
    """The model, the rows, and the two ways to predict them.

    Args:
        row_count: Rows to predict.
        batch_size: Rows a batch.
        folder: A folder for the caches and the trainer's output.
    """

    def __init__(self, row_count: int, batch_size: int, folder: Path) -> None:
        self._batch_size = batch_size
        self._folder = folder
        self._cache_count = 0
        torch.manual_seed(SEED)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            find_minilm(), num_hidden_layers=LAYER_COUNT, num_labels=LABEL_COUNT
        )
        self._tokenizer = AutoTokenizer.from_pretrained(find_minilm())
        self._collator = DataCollatorWithPadding(self._tokenizer)
        self._rows = make_rows(row_count, len(self._tokenizer))
        self._batch_tokens: list[int] = []
        self._model.register_forward_pre_hook(self._note_batch, with_kwargs=True)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.array([len(ids) for ids in self._rows["input_ids"]])

    def run_trainer(self) -> Run:
        """Predict with `Trainer.predict`."""
        args = TrainingArguments(
            output_dir=str(self._folder / "output"),
            per_device_eval_batch_size=self._batch_size,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model=self._model, args=args, data_collator=self._collator)
        trainer.remove_callback(PrinterCallback)
        return self._time(lambda: trainer.predict(self._rows))

    def run_prior_pass(self) -> Run:
        """Predict with `mixcd.predict_prior`, into a fresh cache."""
        self._cache_count += 1
        return self._time(
            lambda: mixcd.predict_prior(
                self._model,
                self._rows,
                self._folder / f"cache-{self._cache_count}",
                collate_fn=self._collator,
                tokenizer=self._tokenizer,
                batch_size=self._batch_size,
                progress=False,
                least_share_right=0.0,  # the labels are random
            )
        )

    def _note_batch(self, _model: torch.nn.Module, _args: Any, named: dict[str, Any]) -> None:
        self._batch_tokens.append(named["input_ids"].numel())

    def _time(self, predict: Callable[[], object]) -> Run:
        self._batch_tokens.clear()
        start = time.perf_counter()
        predict()
        seconds = time.perf_counter() - start
        tokens = self._batch_tokens
        return Run(len(self._rows) / seconds, len(tokens), max(tokens), sum(tokens))


def main() -> int:
    """Run the benchmark and print its figures.

    Returns:
        The exit status.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="rows to predict")
    parser.add_argument("--batch-size", type=int, default=32, help="rows a batch")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of passes, the order swapped every pair")
    settings = parser.parse_args()
    disable_progress_bars()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    machine = describe_machine()
    say_machine(machine)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(settings.rows, settings.batch_size, Path(folder))
        lengths = bench.lengths
        pairs = run_pairs(bench.run_trainer, bench.run_prior_pass, settings.pairs)
    figures = _summarise(lengths, pairs)
    _print_figures(figures, settings.rows, settings.batch_size, settings.pairs)
    publish(settings, machine, figures)
    return int(figures["prior_pass_peak_tokens"] > figures["trainer_peak_tokens"])


def make_rows(row_count: int, vocabulary_size: int) -> Dataset:
    """Make rows of random tokens, as long as short texts are, with random labels.

    Args:
        row_count: How many.
        vocabulary_size: The model's tokens.
    """
    rng = np.random.default_rng(SEED)
    lengths = rng.lognormal(np.log(MEDIAN_LENGTH), LOG_LENGTH_DEVIATION, row_count).round().clip(*LENGTH_RANGE)
    return Dataset.from_dict(
        {
            "input_ids": [rng.integers(FIRST_WORD_ID, vocabulary_size, int(length)).tolist() for length in lengths],
            "attention_mask": [[1] * int(length) for length in lengths],
            "labels": rng.integers(0, LABEL_COUNT, row_count).tolist(),
        }
    )


def _summarise(lengths: np.ndarray, pairs: list[tuple[Run, Run]]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "lengths": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
            "sum": int(lengths.sum()),
        }
    }
    for name, runs in zip(("trainer", "prior_pass"), zip(*pairs, strict=True), strict=True):
        figures[f"{name}_samples_per_second"] = Spread.of([run.samples_per_second for run in runs])
        figures[f"{name}_forward_count"] = runs[0].forward_count
        figures[f"{name}_peak_tokens"] = max(run.peak_tokens for run in runs)
        figures[f"{name}_padded_tokens"] = runs[0].padded_tokens
    figures["ratio"] = Spread.of([right.samples_per_second / left.samples_per_second for left, right in pairs])
    return figures


def _print_figures(figures: dict[str, Any], row_count: int, batch_size: int, pair_count: int) -> None:
    lengths = figures["lengths"]
    print(f"{row_count:,} rows, batch size {batch_size}, {pair_count} pairs of passes")
    print(
        f"tokens a row: min {lengths['min']}, median {lengths['median']:.0f}, mean {lengths['mean']:.1f}, "
        f"max {lengths['max']}"
    )
    for name, title in (("trainer", "Trainer.predict"), ("prior_pass", "predict_prior")):
        padded = figures[f"{name}_padded_tokens"]
        print(
            f"{title:15}: {figures[f'{name}_samples_per_second'].show(0)} samples a second; "
            f"{figures[f'{name}_forward_count']} forward passes, at most {figures[f'{name}_peak_tokens']:,} padded "
            f"tokens a batch; {1 - lengths['sum'] / padded:.1%} of {padded:,} tokens are padding"
        )
    print(f"ratio, predict_prior / Trainer.predict: {figures['ratio'].show(2)}")


if __name__ == "__main__":
    sys.exit(main())
