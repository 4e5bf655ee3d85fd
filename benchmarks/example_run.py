"""Runs an example script twice, each time in a process of its own, offline, on a tiny model and data files.

First it trains as it is on the prior task, which makes the base model. Then it trains on the new task, with an import
and one line more, `mixcd.attach` (and two lines of the check). It must train to its end, every step must have exactly
the mix ratio of prior rows, and there must be as many forward passes as micro-batches.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from example_inputs import SAVE_MODEL, Row, write_images, write_metrics, write_punkt, write_rows

MIX_RATIO = 0.25
MICRO_BATCH_SIZE, MICRO_BATCH_COUNT, STEP_COUNT = 8, 2, 6
MAX_LENGTH = 32
"""Tokens of a row of TRL's script, at most, and so of a packed row."""
BASE_STEP_COUNT = 150
ROW_COUNTS = {"prior": (200, 40), "new": (120, 40)}
SHARED = (
    f"--learning_rate 0.005 --per_device_train_batch_size {MICRO_BATCH_SIZE} "
    f"--gradient_accumulation_steps {MICRO_BATCH_COUNT} --logging_steps 2 --save_strategy no --report_to none "
    "--use_cpu --disable_tqdm True"
)
CHECK = Path(__file__).with_name("example_check.py")
CHECK_LINE = "trainer.add_callback(example_check.Watch(trainer, rehearsal))"

Run = Callable[[Path, list[str], Path, Mapping[str, str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Example:
    """A script and what it is given.

    Args:
        script: Its file.
        model: What its model predicts; a key of `SAVE_MODEL`.
        make_row: Draws a row of data; none for folders of images.
        files: Its data for training and for evaluation, where `{task}` stands for "prior" or "new".
        data: The part of its command line that names them.
        prior: The attach line's prior data, prepared by the script's own functions.
        settings: What else it needs on its command line.
        new_settings: And in the run with rehearsal only.
        kind: What is shown of a script that has several examples.
        by_tokens: Whether the mix ratio is a share of the tokens, for rows are packed.
        helpers: Files that it needs beside it.
    """

    script: str
    model: str
    make_row: Callable[[np.random.Generator, str], Row] | None
    files: tuple[str, str]
    data: str
    prior: str
    settings: str = ""
    new_settings: str = ""
    kind: str = ""
    by_tokens: bool = False
    helpers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The script, and what is shown of it."""
        return f"{self.script} {self.kind}".strip()

    @property
    def attach_line(self) -> str:
        """The one line that is added."""
        return f"rehearsal = mixcd.attach(trainer, {self.prior}, mix_ratio={MIX_RATIO})"

    def describe(self, fault: str, **facts: Any) -> "Outcome":
        """Say how it went."""
        settings = f"{self.settings} {self.new_settings}".strip()
        return Outcome(self.script, self.kind, settings, self.attach_line, fault, **facts)

    def arguments(self, model: str, task: str, output: str, step_count: int) -> list[str]:
        """Return the command line's words."""
        data = self.data.format(*self.files).format(task=task)
        own = f"--model_name_or_path {model} --output_dir {output} --max_steps {step_count}"
        return f"{data} {own} {SHARED} {self.settings} {self.new_settings if task == 'new' else ''}".split()

    def write_inputs(self, folder: Path) -> None:
        """Write a model with random weights, the data of both tasks and the metrics."""
        torch.manual_seed(0)
        SAVE_MODEL[self.model](folder / "random")
        rng = np.random.default_rng(0)
        for task, counts in ROW_COUNTS.items():
            for name, count in zip(self.files, counts, strict=True):
                path = folder / name.format(task=task)
                if self.make_row is None:
                    write_images(path, rng, task, count)
                else:
                    write_rows(path, [self.make_row(rng, task) for _ in range(count)])
        write_metrics(folder)
        write_punkt(folder / "nltk")


@dataclass(frozen=True)
class Outcome:
    """How an example went.

    Args:
        script: The script.
        kind: What is shown of it, if it has several examples.
        settings: Its own part of the command line.
        attach_line: The line that was added.
        fault: What is wrong; empty if it trained with the exact ratio.
        base_right: Share of the prior samples that the base model had right.
        observed: Rehearsed samples that were observed.
        damaged: Those of them that were damaged.
    """

    script: str
    kind: str
    settings: str
    attach_line: str
    fault: str
    base_right: float | None = None
    observed: int | None = None
    damaged: int | None = None


def run_process(script: Path, arguments: list[str], folder: Path, env: Mapping[str, str]) -> Any:
    """Run a script in a process of its own."""
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True)  # noqa: S603


def run_example(example: Example, script: Path, folder: Path, run: Run = run_process) -> Outcome:
    """Run a script as it is on the prior task, then with rehearsal on the new task, and check what it did.

    Args:
        example: The script and what it is given.
        script: Where the script lies.
        folder: An empty folder to work in, by its absolute path; each run's output stays there.
        run: Runs a script with arguments in a folder, with environment variables.

    Returns:
        How it went.
    """
    example.write_inputs(folder)
    for file in (CHECK, *map(script.with_name, example.helpers)):
        shutil.copy(file, folder)
    plain, attached = folder / f"plain_{example.script}", folder / example.script
    shutil.copy(script, plain)
    attached.write_text(add_lines(script.read_text("utf-8"), example.attach_line), "utf-8")
    env = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "HF_DATASETS_CACHE": str(folder / "data"),
        "NLTK_DATA": str(folder / "nltk"),
    }
    runs = {
        "Without rehearsal": (plain, example.arguments("random", "prior", "base", BASE_STEP_COUNT)),
        "With rehearsal": (attached, example.arguments("base", "new", "tuned", STEP_COUNT)),
    }
    for name, (file, arguments) in runs.items():
        done = run(file, arguments, folder, env)
        (folder / f"{file.stem}.log").write_text(f"{done.stdout}\n{done.stderr}", "utf-8")
        if done.returncode:
            return example.describe(f"{name}: {_last_error(done.stderr)}")
    seen = json.loads((folder / "check.json").read_text("utf-8"))
    facts = {name: seen[name] for name in ("base_right", "observed", "damaged")}
    find = find_token_fault if example.by_tokens else find_row_fault
    return example.describe(find(seen["steps"]) or find_pass_fault(seen["steps"], seen["forward_count"]), **facts)


def add_lines(code: str, attach_line: str) -> str:
    """Add the imports before a script's first one, and the attach line and the check before its training."""
    lines = code.splitlines()
    trains = [place for place, line in enumerate(lines) if re.match(r" *(\w+ = )?trainer\.train\(", line)]
    if len(trains) != 1:
        raise SystemExit(f"The script calls `trainer.train` {len(trains)} times, but must call it once.")
    indent = re.match(" *", lines[trains[0]]).group()  # type: ignore[union-attr]
    lines[trains[0] : trains[0]] = [indent + attach_line, indent + CHECK_LINE]
    first = next(place for place, line in enumerate(lines) if re.match("import |from ", line))
    lines[first:first] = ["import mixcd", "import example_check"]
    return "\n".join(lines) + "\n"


def find_row_fault(steps: list[list[tuple[int, int]]]) -> str:
    """Say what is wrong with the mix ratio of a run; empty if nothing is.

    Args:
        steps: Rows and prior rows of each forward pass of each step, as the check counted them.
    """
    row_count = MICRO_BATCH_SIZE * MICRO_BATCH_COUNT
    summed = [tuple(map(sum, zip(*passes, strict=True))) for passes in steps]
    if summed != [(row_count, row_count * MIX_RATIO)] * STEP_COUNT:
        return f"Rows and prior rows of its steps: {summed}"
    return ""


def find_token_fault(steps: list[list[tuple[int, int]]]) -> str:
    """Say the same of packed rows, by tokens: over a run the ratio must be met to within the tokens of one row."""
    summed = [tuple(map(sum, zip(*passes, strict=True))) for passes in steps]
    token_count, prior_count = map(sum, zip(*summed, strict=True))
    if len(steps) != STEP_COUNT or abs(prior_count - MIX_RATIO * token_count) > MAX_LENGTH:
        return f"Tokens and prior tokens of its steps: {summed}"
    return ""


def find_pass_fault(steps: list[list[tuple[int, int]]], forward_count: int) -> str:
    """Say what is wrong with the number of forward passes of a run; empty if nothing is.

    Args:
        steps: One pair for each forward pass of each step.
        forward_count: Forward passes as rehearsal counted them.
    """
    pass_count, expected = sum(map(len, steps)), STEP_COUNT * MICRO_BATCH_COUNT
    if not pass_count == forward_count == expected:
        return f"{pass_count} forward passes, {forward_count} of them counted, in {expected} micro-batches"
    return ""


def _last_error(text: str) -> str:
    lines = text.strip().splitlines() or ["no message"]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    return (errors or lines)[-1].strip()
