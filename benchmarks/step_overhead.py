"""Time of a training step with mix-cd against a plain `transformers.Trainer` on the concatenated data.

Both train the same randomly initialised BERT with the same batch size for the same number of steps; all rows, new and
prior, are synthetic and equally long, so every step costs the model the same. A step is timed from one
`on_step_begin` to the next, so that loading, planning and observing count; start-up and the prior pass do not.

A pair is a plain and a mix-cd run in lockstep, one step of each in turn; a pair's ratio is the median over its steps.
Plain against plain shows how far noise alone goes. A second section repeats both with a tiny model, where the overhead
is told in milliseconds a step. One thread, unless told otherwise: other work on the machine disturbs that least. On a
GPU the large model is as large as BERT.

Forward passes are counted by a hook: the script fails (exit status 1) if the runs differ in them.

    python benchmarks/step_overhead.py
    python benchmarks/step_overhead.py --pairs 16
    python benchmarks/step_overhead.py --estimator drift
    python benchmarks/step_overhead.py --estimator drift --layers 2
    python benchmarks/step_overhead.py --device cuda --estimator drift
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainingArguments

import mixcd
from lockstep import Steps, train_in_lockstep
from mixcd.run.rehearsal_loop.estimator_choice import estimator_names
from mixcd.run.trainer.attach import Rehearsal
from side_by_side import Spread, describe_machine, make_parser, publish, say_machine

MIX_RATIO = 0.25
BATCH_SIZE = 16
NEW_COUNT = 4000
PRIOR_COUNT = 5000
"""More than the candidates of a step, so that choosing them counts."""
VOCABULARY_SIZE = 1024
LABEL_COUNT = 3
SEED = 0
FIRST_STEP = 5
"""Steps of each run that are start-up, and not counted."""
VITALS_REPEATS = 9
KNOWN_SHARE = 0.75
"""Prior rows labelled as the base model predicts: only a row that it had right can be damaged."""
LABELLED_AT_ONCE = 250


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
LONG_ON_GPU = Model(hidden_size=768, layer_count=12, token_count=128)
SHORT = Model(hidden_size=32, layer_count=1, token_count=8)


@dataclass(frozen=True)
class Pair:
    """What a pair of runs showed: medians over steps.

    Args:
        left_ms: Time of a step of the left run, in milliseconds.
        right_ms: Time of a step of the right run.
        difference_ms: By how much the right run's step is longer than the left one's beside it.
        ratio: How many times as long it is.
        cpu_ratio: The same of processor time.
        forward_counts: Forward passes of the two.
    """

    left_ms: float
    right_ms: float
    difference_ms: float
    ratio: float
    cpu_ratio: float
    forward_counts: tuple[int, int]


class Bench:
    """One model, its data and its prediction cache.

    Args:
        size: The size of the model.
        step_count: Steps of every run.
        estimator: The estimator that rehearses.
        device: "cpu" or "cuda".
        folder: A folder for the cache and the trainers' outputs.
    """

    def __init__(self, size: Model, step_count: int, estimator: str, device: str, folder: Path) -> None:
        self.vitals_ms: list[float] = []
        self._step_count = step_count
        self._estimator = estimator
        self._device = device
        self._folder = folder
        torch.manual_seed(SEED)
        self._model = _make_model(size).to(device)
        self._weights = {name: value.clone() for name, value in self._model.state_dict().items()}
        rng = np.random.default_rng(SEED)
        self._new, prior = (_make_rows(rng, count, size.token_count) for count in (NEW_COUNT, PRIOR_COUNT))
        self._prior = _relabel(prior, self._model)
        self._both = concatenate_datasets([self._new, self._prior])

    def run(self, number: int, *, mixed: bool) -> Pair:
        """Train a plain run on the left, and a mix-cd or another plain run on the right.

        Args:
            number: The pair's number; odd pairs begin on the right.
            mixed: Whether the right run rehearses.

        Returns:
            What they showed.
        """
        self._model.load_state_dict(self._weights)
        left, right = self._make_trainer(self._both), self._make_trainer(self._new if mixed else self._both)
        rehearsal = self._attach(right) if mixed else None
        pair = _compare(*train_in_lockstep([left, right], number % 2))
        if rehearsal is not None:
            with ThreadPoolExecutor(1) as pool:  # not this thread, which would own numpy's threads from then on
                self.vitals_ms.append(pool.submit(_time_vitals, rehearsal).result())
        return pair

    def _attach(self, trainer: Trainer) -> Rehearsal:
        return mixcd.attach(
            trainer, self._prior, mix_ratio=MIX_RATIO, estimator=self._estimator, cache_dir=self._folder / "cache"
        )

    def _make_trainer(self, data: Dataset) -> Trainer:
        args = TrainingArguments(
            output_dir=str(self._folder / "output"),
            per_device_train_batch_size=BATCH_SIZE,
            max_steps=self._step_count,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=self._device == "cpu",
            seed=SEED,
        )
        trainer = Trainer(model=self._model, args=args, train_dataset=data)
        trainer.remove_callback(PrinterCallback)
        return trainer


def main() -> int:
    """Run the benchmark and print its figures.

    Returns:
        The exit status.
    """
    settings = _parse()
    disable_progress_bars()
    torch.set_num_threads(settings.threads)
    machine = describe_machine()
    say_machine(machine)
    figures = {}
    long = LONG_ON_GPU if settings.device == "cuda" else LONG
    if settings.layers:
        long = replace(long, layer_count=settings.layers)
    for title, size, step_count in (("long steps", long, settings.steps), ("short steps", SHORT, settings.short_steps)):
        print(
            f"{title}: {size.layer_count} layers of width {size.hidden_size}, {BATCH_SIZE} rows of {size.token_count} "
            f"tokens a step, β = {MIX_RATIO}; {settings.pairs} pairs of runs of {step_count} steps"
        )
        figures[title] = _measure(size, step_count, settings)
        _print_figures(figures[title], is_long=size is long)
    publish(settings, machine, figures)
    return int(any(len(section["forward_counts"]) > 1 for section in figures.values()))


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=8, help="pairs of runs, who begins swapped every pair; best even")
    parser.add_argument("--steps", type=int, default=45, help="steps of a run of the long-step section")
    parser.add_argument("--short-steps", type=int, default=150, help="steps of a run of the short-step section")
    parser.add_argument("--layers", type=int, help="layers of the long-step section's model; as many as fit the device")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    parser.add_argument("--estimator", choices=estimator_names(), default="auto", help="who chooses samples")
    settings = parser.parse_args()
    if min(settings.steps, settings.short_steps) <= FIRST_STEP:
        parser.error(f"a run needs more than {FIRST_STEP} steps: the first {FIRST_STEP} are not counted")
    return settings


def _measure(size: Model, step_count: int, settings: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(size, step_count, settings.estimator, settings.device, Path(folder))
        bench.run(0, mixed=True)  # warm up, and make the prior pass
        runs = [(bench.run(number, mixed=False), bench.run(number, mixed=True)) for number in range(settings.pairs)]
    controls, pairs = zip(*runs, strict=True)
    return {
        "plain_ms": Spread.of([pair.left_ms for pair in pairs]),
        "mixed_ms": Spread.of([pair.right_ms for pair in pairs]),
        **{
            f"{name}_{kind}": Spread.of([getattr(run, name) for run in runs_of_kind])
            for name in ("difference_ms", "ratio", "cpu_ratio")
            for kind, runs_of_kind in (("mixed", pairs), ("control", controls))
        },
        "vitals_ms": Spread.of(bench.vitals_ms),
        "forward_counts": sorted({count for pair in pairs for count in pair.forward_counts}),
    }


def _compare(left: Steps, right: Steps) -> Pair:
    lefts, rights = left.seconds[FIRST_STEP - 1 :], right.seconds[FIRST_STEP - 1 :]
    cpu_ratios = right.cpu_seconds[FIRST_STEP - 1 :] / left.cpu_seconds[FIRST_STEP - 1 :]
    return Pair(
        left_ms=float(np.median(lefts)) * 1e3,
        right_ms=float(np.median(rights)) * 1e3,
        difference_ms=float(np.median(rights - lefts)) * 1e3,
        ratio=float(np.median(rights / lefts)),
        cpu_ratio=float(np.median(cpu_ratios)),
        forward_counts=(left.forward_count, right.forward_count),
    )


def _time_vitals(rehearsal: Rehearsal) -> float:
    times = []
    for _ in range(VITALS_REPEATS):
        start = time.perf_counter()
        rehearsal.vitals()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def _make_rows(rng: np.random.Generator, row_count: int, token_count: int) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": rng.integers(1, VOCABULARY_SIZE, (row_count, token_count)).tolist(),
            "attention_mask": np.ones((row_count, token_count), dtype=np.int64).tolist(),
            "labels": rng.integers(0, LABEL_COUNT, row_count).tolist(),
        }
    )


def _relabel(rows: Dataset, model: BertForSequenceClassification) -> Dataset:
    """Give the first rows the labels that the model predicts for them."""
    known = torch.tensor(rows["input_ids"][: round(KNOWN_SHARE * len(rows))]).split(LABELLED_AT_ONCE)
    with torch.no_grad():
        predicted = [
            label for tokens in known for label in model.eval()(tokens.to(model.device)).logits.argmax(1).tolist()
        ]
    labels = [*predicted, *rows["labels"][len(predicted) :]]
    return rows.remove_columns("labels").add_column("labels", labels)


def _make_model(size: Model) -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=size.hidden_size,
            num_hidden_layers=size.layer_count,
            num_attention_heads=size.hidden_size // 32,
            intermediate_size=4 * size.hidden_size,
            num_labels=LABEL_COUNT,
        )
    )


def _print_figures(figures: dict[str, Any], *, is_long: bool) -> None:
    print(f"  plain Trainer {figures['plain_ms'].show(2, ' ms')} a step, mix-cd {figures['mixed_ms'].show(2, ' ms')}")
    print(f"  overhead:        {figures['difference_ms_mixed'].show(2, ' ms')} a step")
    print(f"  noise:           {figures['difference_ms_control'].show(2, ' ms')} a step, plain against plain")
    if is_long:
        for name, kind in (("ratio", "time"), ("cpu_ratio", "processor time")):
            print(f"  mix-cd / plain:  {figures[f'{name}_mixed'].show()}, {kind}")
            print(f"  plain / plain:   {figures[f'{name}_control'].show()}, {kind}")
    print(f"  vitals:          {figures['vitals_ms'].show(2, ' ms')} every 10th step, not in the median step")
    counts = " or ".join(str(count) for count in figures["forward_counts"])
    print(f"  forward passes:  {counts}, {'the same' if len(figures['forward_counts']) == 1 else 'DIFFERENT'} in both")


if __name__ == "__main__":
    sys.exit(main())
