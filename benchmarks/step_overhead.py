"""Time of a training step with mix-cd against a plain `transformers.Trainer` on the concatenated data.

Both train the same randomly initialised BERT with the same batch size for the same number of steps; all rows, new and
prior, are synthetic and equally long, so every step costs the model the same. A step is timed from one `on_step_end`
to the next, so that loading, planning and observing count; start-up and the prior pass do not. Plain and mix-cd runs
alternate, on one thread unless told otherwise: what others do on the machine disturbs that least. A second section
repeats this with a tiny model, where the overhead is told in milliseconds a step.

Forward passes are counted by a hook: the script fails (exit status 1) if the runs differ in them.

    python benchmarks/step_overhead.py
    python benchmarks/step_overhead.py --pairs 15
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import mixcd
from mixcd.rehearsal import Rehearsal
from side_by_side import Spread, describe_machine, make_parser, publish, run_pairs, say_machine

MIX_RATIO = 0.25
BATCH_SIZE = 16
NEW_COUNT = 4000
PRIOR_COUNT = 1000
VOCABULARY_SIZE = 8192
LABEL_COUNT = 3
SEED = 0
FIRST_STEP = 5
"""The step whose end starts the first timed interval."""
VITALS_REPEATS = 9


@dataclass(frozen=True)
class Model:
    """The size of a model and of its rows.

    Args:
        hidden_size: Width; heads are 32 wide.
        layer_count: Layers.
        token_count: Tokens of every row.
    """

    hidden_size: int
    layer_count: int
    token_count: int


LONG = Model(hidden_size=256, layer_count=4, token_count=16)
SHORT = Model(hidden_size=32, layer_count=1, token_count=8)


@dataclass(frozen=True)
class Run:
    """What one training run showed.

    Args:
        step_seconds: Median time of a step.
        cpu_seconds: Median processor time of a step, over all threads.
        forward_count: Forward passes in training.
        vitals_seconds: Median time of `Rehearsal.vitals()`; 0 for a plain run.
    """

    step_seconds: float
    cpu_seconds: float
    forward_count: int
    vitals_seconds: float = 0.0


Pairs = list[tuple[Run, Run]]


class StepClock(TrainerCallback):
    """Notes wall and processor time at the end of every step."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time."""
        self._ends.append((time.perf_counter(), time.process_time()))

    def medians(self) -> tuple[float, float]:
        """Return the median wall and processor time between two ends, in seconds."""
        wall, cpu = np.median(np.diff(self._ends[FIRST_STEP - 1 :], axis=0), axis=0)
        return float(wall), float(cpu)


class Bench:
    """One model's data, weights and prediction cache.

    Args:
        model: The size of the model.
        step_count: Steps of every run.
        folder: A folder for the cache and the trainers' outputs.
    """

    def __init__(self, model: Model, step_count: int, folder: Path) -> None:
        self._model = model
        self._step_count = step_count
        self._folder = folder
        rng = np.random.default_rng(SEED)
        self._new, self._prior = (_make_rows(rng, count, model.token_count) for count in (NEW_COUNT, PRIOR_COUNT))
        self._both = concatenate_datasets([self._new, self._prior])

    def run_plain(self) -> Run:
        """Train on new and prior data, concatenated."""
        return self._time(self._make_trainer(self._both), None)

    def run_mixed(self) -> Run:
        """Train on the new data with rehearsal of the prior data."""
        trainer = self._make_trainer(self._new)
        cache = self._folder / "cache"
        return self._time(trainer, mixcd.attach(trainer, self._prior, mix_ratio=MIX_RATIO, cache_dir=cache))

    def _make_trainer(self, data: Dataset) -> Trainer:
        torch.manual_seed(SEED)
        args = TrainingArguments(
            output_dir=str(self._folder / "output"),
            per_device_train_batch_size=BATCH_SIZE,
            max_steps=self._step_count,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=SEED,
        )
        trainer = Trainer(model=_make_model(self._model), args=args, train_dataset=data)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _time(self, trainer: Trainer, rehearsal: Rehearsal | None) -> Run:
        clock = StepClock()
        trainer.add_callback(clock)
        with _count_forwards(trainer.model) as forwards:
            trainer.train()
        return Run(*clock.medians(), len(forwards), _time_vitals(rehearsal) if rehearsal else 0.0)


def main() -> int:
    """Run the benchmark and print its figures.

    Returns:
        The exit status.
    """
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs, the order swapped every pair")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run of the long-step section")
    parser.add_argument("--short-steps", type=int, default=200, help="steps of a run of the short-step section")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    settings = parser.parse_args()
    if min(settings.steps, settings.short_steps) <= FIRST_STEP:
        parser.error(f"a run needs more than {FIRST_STEP} steps: the first {FIRST_STEP} are not timed")
    disable_progress_bars()
    torch.set_num_threads(settings.threads)
    machine = describe_machine()
    say_machine(machine)
    long_pairs = _measure(LONG, settings.steps, settings.pairs)
    long_figures = {**_summarise(long_pairs), **_summarise_ratios(long_pairs)}
    _print_figures("long steps", LONG, settings.steps, long_figures)
    _print_ratios(long_figures)
    short_pairs = _measure(SHORT, settings.short_steps, settings.pairs)
    short_figures = _summarise(short_pairs)
    _print_figures("short steps", SHORT, settings.short_steps, short_figures)
    publish(settings, machine, {"long": long_figures, "short": short_figures})
    return int(not all(plain.forward_count == mixed.forward_count for plain, mixed in long_pairs + short_pairs))


def _measure(model: Model, step_count: int, pair_count: int) -> Pairs:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(model, step_count, Path(folder))
        return run_pairs(bench.run_plain, bench.run_mixed, pair_count)


def _make_rows(rng: np.random.Generator, row_count: int, token_count: int) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": rng.integers(1, VOCABULARY_SIZE, (row_count, token_count)).tolist(),
            "attention_mask": np.ones((row_count, token_count), dtype=np.int64).tolist(),
            "labels": rng.integers(0, LABEL_COUNT, row_count).tolist(),
        }
    )


def _make_model(model: Model) -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=model.hidden_size,
            num_hidden_layers=model.layer_count,
            num_attention_heads=model.hidden_size // 32,
            intermediate_size=4 * model.hidden_size,
            num_labels=LABEL_COUNT,
        )
    )


@contextmanager
def _count_forwards(model: torch.nn.Module) -> Iterator[list[None]]:
    forwards: list[None] = []
    hook = model.register_forward_hook(lambda *_: forwards.append(None))
    try:
        yield forwards
    finally:
        hook.remove()


def _time_vitals(rehearsal: Rehearsal) -> float:
    times = []
    for _ in range(VITALS_REPEATS):
        start = time.perf_counter()
        rehearsal.vitals()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _summarise(pairs: Pairs) -> dict[str, Any]:
    plain, mixed = zip(*pairs, strict=True)
    return {
        "plain_ms": Spread.of([run.step_seconds * 1e3 for run in plain]),
        "mixed_ms": Spread.of([run.step_seconds * 1e3 for run in mixed]),
        "overhead_ms": Spread.of([(right.step_seconds - left.step_seconds) * 1e3 for left, right in pairs]),
        "cpu_overhead_ms": Spread.of([(right.cpu_seconds - left.cpu_seconds) * 1e3 for left, right in pairs]),
        "vitals_ms": Spread.of([run.vitals_seconds * 1e3 for run in mixed]),
        "plain_forward_counts": [run.forward_count for run in plain],
        "mixed_forward_counts": [run.forward_count for run in mixed],
    }


def _summarise_ratios(pairs: Pairs) -> dict[str, Spread]:
    return {
        "ratio": Spread.of([mixed.step_seconds / plain.step_seconds for plain, mixed in pairs]),
        "cpu_ratio": Spread.of([mixed.cpu_seconds / plain.cpu_seconds for plain, mixed in pairs]),
    }


def _print_figures(title: str, model: Model, step_count: int, figures: dict[str, Any]) -> None:
    counts = figures["plain_forward_counts"], figures["mixed_forward_counts"]
    print(
        f"{title}: {model.layer_count} layers of width {model.hidden_size}, {BATCH_SIZE} rows of {model.token_count} "
        f"tokens a step, β = {MIX_RATIO}; {len(counts[0])} pairs of runs of {step_count} steps, medians of runs"
    )
    print(f"  plain Trainer:  {figures['plain_ms'].show(2, ' ms')} a step")
    print(f"  mix-cd:         {figures['mixed_ms'].show(2, ' ms')} a step")
    print(f"  mix-cd − plain: {figures['overhead_ms'].show(2, ' ms')} a step")
    print(f"    processor:    {figures['cpu_overhead_ms'].show(2, ' ms')} a step, over all threads")
    print(f"  vitals, computed every 10th step: {figures['vitals_ms'].show(2, ' ms')}; not in the median step")
    print(f"  forward passes: plain {_show_counts(counts[0])}, mix-cd {_show_counts(counts[1])}")


def _show_counts(counts: list[int]) -> str:
    return " or ".join(str(count) for count in sorted(set(counts)))


def _print_ratios(figures: dict[str, Any]) -> None:
    print(f"  ratio, mix-cd / plain: {figures['ratio'].show()}")
    print(f"    of processor time:   {figures['cpu_ratio'].show()}")


if __name__ == "__main__":
    sys.exit(main())
