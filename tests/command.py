"""The command line as tests call it, in this process: what a run leaves, and how it is interrupted."""

import json
import os
from contextlib import contextmanager

import pytest
from transformers import TrainerCallback

from mixcd.edge.cli import run
from mixcd.edge.train import training_run


def call(*arguments):
    with pytest.raises(SystemExit) as done:
        run(arguments)
    return done.value.code or 0


def contents(folder):
    """All that a run must reproduce bit for bit, whenever and however often it was interrupted."""
    return {
        "weights": (folder / "model" / "model.safetensors").read_bytes(),
        "steps": (folder / "steps.parquet").read_bytes(),
        "evaluation": (folder / "evaluation.json").read_text(),
        "damaged": (folder / "damaged.parquet").read_bytes(),
        "cache": {path.name: path.read_bytes() for path in sorted((folder / "cache").rglob("*.parquet"))},
    }


def record(folder="run"):
    with open(f"{folder}/run.json", encoding="utf-8") as file:
        return json.load(file)


class AtStep(TrainerCallback):
    """Does something while a step is in progress."""

    def __init__(self, step, act):
        self._step = step
        self._act = act

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self._step:
            self._act()


@contextmanager
def at_step(step, act):
    """Make the trainer of the runs inside the block do something while a step is in progress."""
    make = training_run.set_up

    def set_up(*given):
        made = make(*given)
        made.trainer.add_callback(AtStep(step, act))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "set_up", set_up)
        yield


def send(number):
    return lambda: os.kill(os.getpid(), number)
