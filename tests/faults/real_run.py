"""The real command in a process of its own, and all that a finished run leaves, for comparison bit by bit.

In `make faults` it is started as a user would; in `make test` it is a fork, which need not import anything first.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from forked import COMMAND, Forked
from workspace import CONFIG, make_workspace


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run."""

    folder: Path
    outcome: dict[str, object]
    forward_count: int


def make_template(folder: Path, base_weights, *settings: str, prior_count=5000, new_count=400, dropout=0.1) -> Path:
    """A workspace to copy from, with other lines in the config's `training`."""
    folder.mkdir()
    make_workspace(folder, base_weights, prior_count=prior_count, new_count=new_count, dropout=dropout)
    replaced = [
        line for line in CONFIG.splitlines() if line.partition(" =")[0] not in {s.split(" =")[0] for s in settings}
    ]
    (folder / "config.toml").write_text("\n".join([*replaced, *settings, ""]))
    return folder


def copy_template(template: Path, folder: Path) -> Path:
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("run", "hf"))
    return folder


KILLS = int(os.environ.get("MIXCD_FAULT_KILLS", "4"))
IS_LONG = KILLS > 20

Process = subprocess.Popen[str] | Forked


def start(folder: Path, *arguments: str) -> Process:
    """Start `mixcd train config.toml` in a workspace."""
    own = {"HF_DATASETS_CACHE": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if not IS_LONG:
        return Forked(COMMAND, "train", "config.toml", *arguments, cwd=folder, env=own)
    return subprocess.Popen(
        [sys.executable, "-m", "mixcd", "train", "config.toml", *arguments],
        cwd=folder,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: Process) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that comes to its end."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    return end(start(folder, *arguments))


def read_record(folder: Path) -> dict:
    try:
        return json.loads((folder / "run" / "run.json").read_text())
    except FileNotFoundError:
        return {"state": "not begun"}


def read_outcome(run_folder: Path, cache: Path | None = None) -> dict[str, object]:
    """All that a finished run leaves for its user: bytes, or for tables every value, exactly."""
    cache = cache or run_folder / "cache"
    whole = [*sorted((run_folder / "model").rglob("*")), run_folder / "evaluation.json"]
    found: dict[str, object] = {path.relative_to(run_folder).as_posix(): path.read_bytes() for path in whole}
    for path in sorted(cache.rglob("*.*")):
        if path.name != ".lock":
            found[f"cache/{path.relative_to(cache).as_posix()}"] = path.read_bytes()
    for name in ("steps.parquet", "damaged.parquet"):
        found[name] = repr(pq.read_table(run_folder / name).to_pylist())
    return found


def assert_same_outcome(found: dict[str, object], expected: dict[str, object]) -> None:
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
