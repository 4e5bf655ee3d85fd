"""The demo: forgetting, uniform rehearsal and mix-cd from one base model, on real tweets."""

import json
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset, disable_progress_bars
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from mixcd.edge.demo.demo_data import LABELS, Tweets, find_minilm, load_tweets, write_tweets
from mixcd.edge.demo.demo_result import CorrectFlags, DemoResult, DemoRun, JudgedRun, draw_picture, judge
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.evaluation import compare_correctness
from mixcd.run.rehearsal_loop.estimator_choice import FEATURES
from mixcd.run.trainer.attach import attach
from mixcd.run.trainer.trainer_predictions import predict_now
from mixcd.run.trainer.trainer_support import rule_of
from mixcd.words.errors import SettingError

LAYERS = 3
MAX_TOKENS = 28
BATCH_SIZE = 32
LEARNING_RATE = 2e-4
MIX_RATIO = 1 / 8

BASE, WITHOUT_REHEARSAL, MIX_CD = "base", "without-rehearsal", "mix-cd"
"""The folders of the models that are kept."""
PRIOR = "prior.csv"
"""The held-out prior tweets, with the names of their labels, and their topics."""
_CACHE, _TRAINER, _RESULT, _PICTURE = "mixcd-cache", "trainer", "demo.json", "demo.png"
_MARKER = "made-by-mixcd-demo.txt"
_OWN = (BASE, WITHOUT_REHEARSAL, MIX_CD, PRIOR, _CACHE, _TRAINER, _RESULT, _PICTURE)
"""All that the demo writes: what an earlier demo left of it is replaced, and nothing else."""

_RUNS = (("no rehearsal", None, WITHOUT_REHEARSAL), ("uniform", "uniform", None), ("mix-cd", "auto", MIX_CD))
"""The runs: name, estimator, and where the model is kept, if it is."""


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does.

    Args:
        base_steps: Steps that make the base model.
        steps: Steps of each fine-tuning run.
        test_count: Held-out tweets of each task.
        prior_count: Prior training tweets at most.
    """

    base_steps: int
    steps: int
    test_count: int
    prior_count: int


FULL = DemoSize(base_steps=600, steps=300, test_count=3000, prior_count=30_000)
QUICK = DemoSize(base_steps=120, steps=60, test_count=600, prior_count=3000)


def run_demo(output: Path, size: DemoSize, seed: int, overwrite: bool, say: Callable[[str], None]) -> DemoResult:
    """Make a base model on two topics of tweets, then fine-tune it on the others in three ways.

    Args:
        output: The folder for the base model, the models tuned without rehearsal and with mix-cd, the held-out prior
            tweets, the prediction cache, `demo.json` and `demo.png`.
        say: Told what is happening, a line at a time.

    Raises:
        SettingError: If the folder holds something and `overwrite` is off, or holds no earlier demo.
    """
    _prepare_folder(output, overwrite)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    disable_progress_bars()
    bench = _Bench(output, size, seed)
    say(f"stage 1: MiniLM learns sentiment from {len(bench.tweets.prior):,} tweets about airlines and deflategate")
    base = bench.make_base_model()
    say(f"stage 2: fine-tune it on {len(bench.tweets.new):,} tweets about other topics, three times, at equal compute")
    runs = []
    for name, estimator, kept_in in _RUNS:
        runs.append(bench.fine_tune(name, estimator, kept_in, base))
        prior, new = runs[-1].numbers.prior, runs[-1].numbers.new
        say(f"  {name}: prior {prior.score_before:.3f} → {prior.score_after:.3f}, new {new.score_after:.3f}")
    result = DemoResult(seed, tuple(run.numbers for run in runs), judge(*runs), bench.prior_pass_forward_count)
    (output / _RESULT).write_text(json.dumps(asdict(result), indent=1), "utf-8")
    draw_picture(result, output / _PICTURE)
    return result


def name_comparison(output: Path) -> str:
    """Return the command that says what the fine-tune without rehearsal broke."""
    base, tuned, prior = (shlex.quote(str(output / name)) for name in (BASE, WITHOUT_REHEARSAL, PRIOR))
    return f"mixcd compare {base} {tuned} --data {prior}"


class _Bench:
    """The demo's data, tokenizer and training settings."""

    def __init__(self, output: Path, size: DemoSize, seed: int) -> None:
        self.tweets = load_tweets(size.test_count, size.prior_count, seed)
        self.prior_pass_forward_count = 0
        self._output = output
        self._size = size
        self._seed = seed
        self._tokenizer = AutoTokenizer.from_pretrained(find_minilm(), model_max_length=MAX_TOKENS)
        self._rows = {field.name: self._tokenize(getattr(self.tweets, field.name)) for field in fields(Tweets)}

    def make_base_model(self) -> CorrectFlags:
        """Train on the prior task, save the base model and the held-out tweets, and say what it gets right."""
        trainer = self._trainer("base model", find_minilm(), "prior", self._size.base_steps)
        trainer.train()
        trainer.save_model(str(self._output / BASE))
        write_tweets(self.tweets.prior_test, self._output / PRIOR)
        return self._judge_correctness(trainer)

    def fine_tune(self, name: str, estimator: str | None, kept_in: str | None, base: CorrectFlags) -> JudgedRun:
        """Fine-tune the base model on the new task in one way, and measure what was kept and lost."""
        trainer = self._trainer(name, self._output / BASE, "new", self._size.steps)
        forwards = _count_forwards(cast(torch.nn.Module, trainer.model))
        rehearsal = None
        if estimator is not None:
            rehearsal = attach(
                trainer,
                self._rows["prior"],
                mix_ratio=MIX_RATIO,
                estimator=estimator,
                cache_dir=self._output / _CACHE,
                features=FEATURES,  # all runs share one cache
            )
            self.prior_pass_forward_count += rehearsal.predictions.forward_count
        before, start = len(forwards), time.perf_counter()
        trainer.train()
        seconds, forward_count = time.perf_counter() - start, len(forwards) - before
        if kept_in is not None:
            trainer.save_model(str(self._output / kept_in))
        correct, counts = self._judge_correctness(trainer), rehearsal.counts if rehearsal else None
        numbers = DemoRun(
            name=name,
            prior=compare_correctness(base.prior, correct.prior),
            new=compare_correctness(base.new, correct.new),
            yield_rate=float(counts.damaged_count.sum() / counts.observed_count.sum()) if counts else None,
            lift=rehearsal.vitals().lift if rehearsal else None,
            seconds_a_step=seconds / self._size.steps,
            forward_count=forward_count,
        )
        return JudgedRun(numbers, correct)

    def _tokenize(self, tweets: Dataset) -> Dataset:
        return tweets.map(lambda rows: self._tokenizer(rows["text"], truncation=True), batched=True)

    def _trainer(self, name: str, model_folder: Path, train_set: str, steps: int) -> Trainer:
        set_seed(self._seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            model_folder, num_hidden_layers=LAYERS, id2label=dict(enumerate(LABELS))
        )
        model.base_model.embeddings.requires_grad_(False)
        args = TrainingArguments(
            output_dir=str(self._output / _TRAINER),
            max_steps=steps,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            seed=self._seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=self._rows[train_set],
            processing_class=self._tokenizer,
            data_collator=DataCollatorWithPadding(self._tokenizer),
            callbacks=[_Bar(name)],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _judge_correctness(self, trainer: Trainer) -> CorrectFlags:
        tests = (PriorDataset(self._rows[name], name) for name in ("prior_test", "new_test"))
        return CorrectFlags(*(predict_now(trainer, test, rule_of(trainer, test))["correct"] for test in tests))


class _Bar(TrainerCallback):
    """A progress bar with the time left, in place of the trainer's printed metrics."""

    def __init__(self, name: str) -> None:
        self._name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = tqdm(total=state.max_steps, desc=f"  {self._name}", unit="step", disable=None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()


def _prepare_folder(output: Path, overwrite: bool) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not overwrite:
            raise SettingError(
                f"`{output}` exists and is not empty, and nothing is overwritten unasked. Pass another folder as "
                "`--output`, or `--overwrite` to replace an earlier demo."
            )
        if not (output / _MARKER).is_file():
            raise SettingError(
                f"`{output}` holds no earlier demo, so it is not replaced. Pass another folder as `--output`."
            )
        for name in _OWN:
            _remove(output / name)
    output.mkdir(parents=True, exist_ok=True)
    own = ", ".join(f"`{name}`" for name in _OWN)
    (output / _MARKER).write_text(f"`mixcd demo --overwrite` may replace here: {own}.\n", "utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _count_forwards(model: torch.nn.Module) -> list[None]:
    """Return a list that grows by one with every forward pass of the model."""
    forwards: list[None] = []
    model.register_forward_hook(lambda *_: forwards.append(None))
    return forwards
