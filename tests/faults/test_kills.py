"""The real command, killed at random moments: the resumed run ends as the uninterrupted one, bit by bit."""

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import real_run
from real_run import IS_LONG, KILLS

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("MIXCD_FAULT_SEED", "10290"))
"""The first four blows of this one fall on the prior pass, a checkpoint, the training, and the final save."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST_KILLS_A_RUN = 8

TARGETS = {
    "preparing": (1, 0.4),
    "run": (3, 2.0),
    "prior pass": (3, 0.8),
    "training": (3, 1.0),
    "checkpoint": (5, 0.03),
    "model": (2, 0.005),
    "evaluating": (1, 0.05),
    "tables": (1, 0.004),
}
"""What is waited for: how often, and the most seconds that the blow falls after it."""


@dataclass
class Tally:
    """What was hit, for the summary."""

    kills: Counter = field(default_factory=Counter)
    phases: Counter = field(default_factory=Counter)
    unhandled: Counter = field(default_factory=Counter)
    runs: int = 0
    refusals: int = 0


def find_phase(folder: Path) -> str:
    """Say from the files what a run is at."""
    run = folder / "run"
    state = real_run.read_record(folder)["state"]
    if (run / "model.unfinished").exists():
        return "saving the model"
    checkpoints = list((run / "checkpoints").glob("checkpoint-*"))
    if state == "training" and any(not (path / "trainer_state.json").exists() for path in checkpoints):
        return "saving a checkpoint"
    if state in ("training", "stopped") and (run / "model").exists():
        return "between model and evaluation"
    if state == "evaluating" and (run / "damaged.parquet").exists():
        return "writing the evaluation"
    return state


class Watch:
    """Waits for a moment of a running process, by the files that this attempt changes."""

    def __init__(self, folder: Path, process: real_run.Process, before: dict[Path, int]) -> None:
        self.run = folder / "run"
        self.folder, self.process, self.before = folder, process, before

    def wait(self, target: str, delay_s: float) -> bool:
        """Whether the moment came before the process ended."""
        if target != "preparing" and not self._until(lambda: self._changed(self.run / "run.json")):
            return False
        return self._until(getattr(self, f"_{target.replace(' ', '_')}")) and not self._ends_within(delay_s)

    def _preparing(self) -> bool:
        return self._changed(self.folder / "hf") or self._changed(self.run / "run.json")

    def _run(self) -> bool:
        return True

    def _training(self) -> bool:
        return self._changed(self.run / "steps.jsonl")

    def _prior_pass(self) -> bool:
        return self._changed(self.run / "cache")

    def _checkpoint(self) -> bool:
        return self._changed(self.run / "checkpoints")

    def _model(self) -> bool:
        return (self.run / "model").exists() or self._changed(self.run / "model.unfinished")

    def _evaluating(self) -> bool:
        return real_run.read_record(self.folder)["state"] == "evaluating"

    def _tables(self) -> bool:
        return (self.run / "damaged.parquet").exists()

    def _changed(self, path: Path) -> bool:
        return stamp(path) != self.before.get(path, 0)

    def _until(self, has_come) -> bool:
        while self.process.poll() is None:
            if has_come():
                return True
            time.sleep(0.0005)
        return False

    def _ends_within(self, delay_s: float) -> bool:
        time.sleep(delay_s)
        return self.process.poll() is not None


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def start_watched(folder: Path) -> Watch:
    run = folder / "run"
    names = ("run.json", "cache", "checkpoints", "steps.jsonl", "model.unfinished")
    before = {path: stamp(path) for path in (folder / "hf", *(run / name for name in names))}
    return Watch(folder, real_run.start(folder, "--resume"), before)


def require_told(folder: Path, number: int, code: int, err: str, tally: Tally) -> None:
    """A run that a signal stopped says so by its exit code, and how to go on; or it had already finished."""
    state = real_run.read_record(folder)["state"]
    last = err.strip().splitlines()[-1] if err.strip() else ""
    if state == "finished" and code in (0, 128 + number, -number):
        tally.unhandled["finished before the signal was seen"] += 1
        return
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        return
    assert code == 128 + number, (state, code, err[-2000:])
    assert "Traceback" not in err, err
    if state == "not begun":
        assert last == "Stopped before the run began."
    else:
        assert last.startswith("Stopped: the run in `run` "), err
        assert last.endswith(" Go on with `mixcd train run/config.toml --resume`."), err


def require_refused(folder: Path) -> None:
    """Without `--resume`, what lies there is told and kept."""
    state = real_run.read_record(folder)["state"]
    before = {path: stamp(path) for path in (folder / "run").rglob("*")}
    code, out, err = real_run.run(folder)
    assert (code, out, err.count("\n")) == (2, "", 1), (code, err[-2000:])
    told = {
        "prior pass": "did not finish its prior pass",
        "training": "got as far as step",
        "stopped": "got as far as step",
        "evaluating": "did not finish its evaluation",
        "finished": "holds a run that finished",
    }[state]
    assert told in err
    assert state == "finished" or "go on with `mixcd train run/config.toml --resume`" in err
    assert {path: stamp(path) for path in (folder / "run").rglob("*")} == before


def strike_until_finished(folder: Path, rng: random.Random, most: int, tally: Tally) -> tuple[int, list]:
    """Kill a run and resume it, again and again, until it ends by itself; return how often, and what was struck."""
    kills, history = 0, []
    while True:
        (target,) = rng.choices(tuple(TARGETS), [often for often, _ in TARGETS.values()])
        delay_s = rng.uniform(0, TARGETS[target][1])
        number = rng.choice(SIGNALS)
        watch = start_watched(folder)
        if kills == most or not watch.wait(target, delay_s):
            code, out, err = real_run.end(watch.process)
            assert code == 0, (history, code, out, err[-3000:])
            return kills, history
        phase = find_phase(folder)
        watch.process.send_signal(number)
        code, _, err = real_run.end(watch.process)
        kills += 1
        tally.kills[signal.Signals(number).name] += 1
        tally.phases[phase] += 1
        history.append((target, round(delay_s, 4), signal.Signals(number).name, phase, code))
        require_told(folder, number, code, err, tally)
        if real_run.read_record(folder)["state"] == "finished":
            return kills, history
        if number == signal.SIGKILL and phase != "not begun" and (not tally.refusals or rng.random() < 0.1):
            require_refused(folder)
            tally.refusals += 1


def test_killed_and_resumed_runs_end_as_the_uninterrupted_one(template, reference, tmp_path):
    rng, tally, left = random.Random(SEED), Tally(), KILLS  # noqa: S311
    while left:
        folder = real_run.copy_template(template, tmp_path / f"run-{tally.runs}")
        kills, history = strike_until_finished(folder, rng, min(left, MOST_KILLS_A_RUN), tally)
        left -= kills
        tally.runs += 1
        assert_finished_alike(folder, reference, history)
    print(  # noqa: T201
        f"\n{KILLS} kills (seed {SEED}) in {tally.runs} runs, each ended bit-identical: {dict(tally.kills)}; hit while "
        f"{dict(tally.phases)}; {tally.refusals} refusals without --resume checked; {dict(tally.unhandled)}"
    )


def assert_finished_alike(folder: Path, reference: real_run.Reference, history: object) -> None:
    run = folder / "run"
    found = real_run.read_outcome(run)
    differing = [name for name in {**found, **reference.outcome} if found.get(name) != reference.outcome.get(name)]
    assert not differing, (differing, history)
    assert not [path for path in run.rglob("*") if path.name.endswith((".unfinished", ".sha256", ".jsonl"))], history
    assert real_run.read_record(folder)["state"] == "finished"


@pytest.mark.parametrize("number", SIGNALS if IS_LONG else SIGNALS[:1], ids=lambda number: number.name)
def test_a_pass_that_is_killed_loses_one_part(template, reference, tmp_path, number):
    rng, tally = random.Random(f"{SEED} {number}"), Tally()  # noqa: S311
    folder = real_run.copy_template(template, tmp_path / "workspace")
    cache = folder / "run" / "cache"
    part_count = len(list((reference.folder / "run" / "cache").glob("part-*.parquet")))
    watch = start_watched(folder)
    wanted = rng.randrange(1, part_count - 1)
    assert watch._until(lambda: len(list(cache.glob("part-*.sha256"))) >= wanted)
    time.sleep(rng.uniform(0, 0.05))
    watch.process.send_signal(number)
    code, _, err = real_run.end(watch.process)
    require_told(folder, number, code, err, tally)
    assert number == signal.SIGKILL or "did not finish its prior pass" in err
    finished = {path: stamp(path) for path in cache.glob("part-*.parquet") if path.with_suffix(".sha256").exists()}
    assert wanted <= len(finished) < part_count
    code, _, err = real_run.run(folder, "--resume")
    assert code == 0, err
    assert {path: stamp(path) for path in finished} == finished  # none was made again
    made = real_run.read_record(folder)["counters"]["prior_pass_forward_count"]
    a_part = -(-reference.forward_count // part_count)  # the parts' forward passes differ by a few
    assert made <= reference.forward_count - (len(finished) - 1) * a_part
    assert_finished_alike(folder, reference, number)


@pytest.mark.parametrize("dropout", [0.0, 0.1] if IS_LONG else [0.0])
def test_transformers_own_checkpoint_on_sigterm_is_resumed(base_weights, tmp_path, dropout):
    settings = (
        "enable_jit_checkpoint = true",
        "max_steps = 900",
        "save_steps = 150",
        "disable_tqdm = true",
        "learning_rate = 1e-3",
    )
    template = real_run.make_template(
        tmp_path / "template", base_weights, *settings, prior_count=1000, new_count=400, dropout=dropout
    )
    whole, stopped = (real_run.copy_template(template, tmp_path / name) for name in ("whole", "stopped"))
    assert real_run.run(whole)[0] == 0
    watch = start_watched(stopped)
    assert watch._until(lambda: (stopped / "run" / "checkpoints" / "checkpoint-150").exists())
    watch.process.send_signal(signal.SIGTERM)
    code, out, err = real_run.end(watch.process)
    assert code == 128 + signal.SIGTERM, (code, err)
    assert " Go on with `mixcd train run/config.toml --resume`." in err.strip().splitlines()[-1]
    assert real_run.read_record(stopped)["state"] == "stopped"
    step = max(int(path.name.partition("-")[2]) for path in (stopped / "run" / "checkpoints").iterdir())
    code, out, err = real_run.run(stopped, "--resume")
    assert code == 0, err
    assert f"resuming from checkpoint-{step}" in out
    steps = [pq.read_table(folder / "run" / "steps.parquet").to_pylist() for folder in (whole, stopped)]
    assert repr(steps[0][:step]) == repr(steps[1][:step])
    for name in ("step", "prior_share", "observed"):
        assert [line[name] for line in steps[0]] == [line[name] for line in steps[1]]
    print(f"\nstopped at step {step}")  # noqa: T201
    same = [a["new_loss"] == b["new_loss"] for a, b in zip(*steps, strict=True)]
    print(f"dropout {dropout}: losses equal in {sum(same)} of {len(same)} steps")  # noqa: T201
    if dropout == 0:
        real_run.assert_same_outcome(real_run.read_outcome(stopped / "run"), real_run.read_outcome(whole / "run"))
