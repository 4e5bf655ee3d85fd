"""A task that a run of a sweep takes tenths of a second for, as a file that a sweep names; and such sweeps."""

import re

TASK = '''
import os
import signal
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import Trainer
from transformers.modeling_outputs import SequenceClassifierOutput

from mixcd.edge.bench.sweep.sweep_task import SweepTask

HERE = Path(__file__).parent
WIDTH, CLASSES = 6, 3
TRAINING = {
    "max_steps": 12, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 64, "learning_rate": 0.05,
    "lr_scheduler_type": "constant", "use_cpu": True,
}


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(WIDTH, 8)
        self.classifier = torch.nn.Linear(8, CLASSES)

    def forward(self, features, labels=None):
        logits = self.classifier(functional.gelu(self.hidden(features)))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def make_rows(count, rng, turn):
    features = rng.normal(size=(count, WIDTH)).astype(np.float32)
    labels = (features[:, :CLASSES].argmax(1) + turn * (features[:, 3] > -1)) % CLASSES
    return [{"features": row, "label": int(label)} for row, label in zip(features, labels)]


def toy(seed, folder):
    rng = np.random.default_rng(seed)
    prior, held_out_prior, new, held_out_new = (
        make_rows(count, rng, turn) for count, turn in ((240, 0), (81, 0), (90, 1), (60, 1))
    )
    torch.manual_seed(seed)
    model = Head()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    features = torch.from_numpy(np.stack([row["features"] for row in prior]))
    labels = torch.tensor([row["label"] for row in prior])
    for _ in range(60):
        optimizer.zero_grad()
        model(features, labels).loss.backward()
        optimizer.step()
    return SweepTask(model, new, prior, held_out_new, held_out_prior, dict(TRAINING))


def toy_where_seed_1_is_broken(seed, folder):
    if seed == 1:
        raise FileNotFoundError("the data of seed 1 are gone")
    return toy(seed, folder)


def toy_that_is_none(seed, folder):
    return {"model": 1}


NOT_A_FUNCTION = 3


def make_dying_trainer(task, settings, arguments):
    """Kills its process, as the kernel does when memory is out, until a file `mended` is there."""
    if not (HERE / "mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return Trainer(**arguments)


def make_leaving_trainer(task, settings, arguments):
    raise SystemExit(3)


def make_failing_trainer(task, settings, arguments):
    if not (HERE / "mended").exists():
        raise RuntimeError("boom, said the trainer.")
    return Trainer(**arguments)


class Slow(Trainer):
    def train(self, *rest, **named):
        (HERE / "training").touch()
        import time
        time.sleep(600)


def make_slow_trainer(task, settings, arguments):
    return Slow(**arguments)


class Distilling(Trainer):
    rehearsal = None


def make_told_trainer(task, settings, arguments):
    """Notes what it is told."""
    trainer = Distilling(**arguments)
    trainer.told = settings
    return trainer
'''

SWEEP = """\
name = "toy"
task = "{module}.py:toy"
results = "out/{{name}}.parquet"
work = "work"
methods = ["none", "uniform", "counts"]
mix_ratios = [0.25, 0.5]
seeds = [0, 1]
"""


def write_toy(folder):
    """Write the task and `sweep.toml` into a folder; the task's name is the folder's own, as modules have one name."""
    module = "toy_" + re.sub(r"\W", "_", f"{folder.parent.name}_{folder.name}")
    (folder / f"{module}.py").write_text(TASK)
    (folder / "sweep.toml").write_text(SWEEP.format(module=module))
    return module


def without_times(rows):
    """Rows without what differs from call to call, in one order."""
    kept = [{key: value for key, value in row.items() if key not in ("seconds", "provenance")} for row in rows]
    return sorted(kept, key=lambda row: (row["seed"], row["method"], row["mix_ratio"], row["wise_ft"]))
