"""Full disks, read-only folders, and two runs in one folder: one line says what is wrong, and nothing is harmed."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import real_run
import transformers

from mixcd.edge import cli
from mixcd.run.outcome.run_folder import RunFolder
from mixcd.run.rehearsal_loop.rehearsal_loop import RehearsalLoop
from mixcd.words.errors import PlanError
from mixcd.words.files import lock_folder

STUBBED = "MIXCD_FAULT_STUB" in os.environ


def mount(place: Path, *options: str) -> bool:
    """Whether something could be mounted there, as root."""
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, check=False)  # noqa: S607
    return done.returncode == 0


def can_mount(folder: Path) -> bool:
    if STUBBED or not shutil.which("mount") or not mount(folder, "-t", "tmpfs", "-o", "size=4k", "none"):
        return False
    unmount(folder)
    return True


def unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # noqa: S607


@contextmanager
def small_disk(place: Path, size_kib: int):
    """A folder on a disk of its own, which the block's variable makes roomy."""
    place.mkdir(parents=True, exist_ok=True)
    assert mount(place, "-t", "tmpfs", "-o", f"size={size_kib}k", "none")
    try:
        yield lambda: mount(place, "-o", "remount,size=64m")
    finally:
        unmount(place)


@contextmanager
def read_only(place: Path):
    """A folder that not even root can write to."""
    assert mount(place, "--bind", str(place))
    assert mount(place, "-o", "remount,ro,bind")
    try:
        yield
    finally:
        unmount(place)


@pytest.fixture(scope="module")
def small(base_weights, tmp_path_factory):
    """A workspace of a run of a second or two, its cache beside the run folder; and what a whole run leaves."""
    folder = tmp_path_factory.mktemp("storage") / "small"
    settings = ("max_steps = 40", "save_steps = 20", "disable_tqdm = true")
    real_run.make_template(folder, base_weights, *settings, prior_count=1500)
    text = (folder / "config.toml").read_text().replace("[rehearsal]", '[rehearsal]\ncache = "cache"')
    (folder / "config.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    folder = shutil.copytree(small, tmp_path_factory.mktemp("storage") / "whole")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        assert train("--set", "run=run") == 0
        return real_run.read_outcome(folder / "run", folder / "cache")


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf")


def train(*arguments: str) -> int:
    """The command's exit code, in this process: a start of Python costs more than such a run."""
    with pytest.raises(SystemExit) as ended:
        cli.run(["train", "config.toml", *arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def workspace(small, tmp_path, monkeypatch):
    folder = shutil.copytree(small, tmp_path / "workspace")
    enter(folder, monkeypatch)
    return folder


FULL = {
    "record": ({"run": 4}, "run/run.json"),
    "prior pass": ({"cache": 16}, "cache/part-"),
    "steps": ({"run": 12, "run/checkpoints": 1024}, "run/steps.jsonl"),
    "checkpoint weights": ({"run/checkpoints": 8}, "run/checkpoints"),
    "checkpoint optimizer": ({"run/checkpoints": 56}, "run/checkpoints"),
    "checkpoint random state": ({"run/checkpoints": 88}, "run/checkpoints"),
    "second checkpoint": ({"run/checkpoints": 180}, "run/checkpoints"),
    "record in training": ({"run": 16, "run/checkpoints": 1024}, "run/run.json"),
    "model": ({"run": 40, "run/checkpoints": 1024}, "run/model"),
    "evaluation": ({"run": 60, "run/checkpoints": 1024}, "run/evaluation.json"),
}
"""The sizes of small disks in KiB, and what they have no room for: the first page that does not fit is this file's."""


@pytest.mark.slow
@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_told_and_costs_nothing_that_was_written(what, workspace, whole, tmp_path, monkeypatch, capfd):
    sizes, name = FULL[what]
    with ExitStack() as stack, monkeypatch.context() as stub:
        real = can_mount(tmp_path)
        if real:
            make_room = [stack.enter_context(small_disk(workspace / place, size)) for place, size in sizes.items()]
        else:
            fill(what, stub)
        capfd.readouterr()
        code = train()
        _, err = capfd.readouterr()
        assert code == 1, err
        assert err.count("\n") == 1, err
        assert f"`{name}" in err, err
        assert "cannot be written: No space left on device. What was written before is kept. Free some space, " in err
        require_valid(workspace)
        stub.undo()
        assert all(room() for room in make_room) if real else True
        enter(workspace, monkeypatch)
        assert train("--resume") == 0, capfd.readouterr().err
        real_run.assert_same_outcome(real_run.read_outcome(workspace / "run", workspace / "cache"), whole)
    print(f"\n{what}: {'a real disk' if real else 'stubbed'}; {err.strip()}")  # noqa: T201


def require_valid(workspace: Path) -> None:
    """Nothing half written lies there under its own name."""
    folder = RunFolder(workspace / "run")
    if folder.record.exists():
        assert folder.read()
    checkpoint = folder.find_checkpoint()
    assert checkpoint is None or (checkpoint / "model.safetensors").stat().st_size > 0
    assert not folder.model.exists() or sorted(path.name for path in folder.model.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for path in (workspace / "cache").rglob("*.parquet"):
        pq.read_table(path)
    assert not [path for path in workspace.rglob("*.unfinished") if path.is_file() and path.parent.name != "model"]


def fill(what: str, patch: pytest.MonkeyPatch) -> None:
    """Stand in for a disk that is full, where none can be mounted."""
    write_text, write_table, open_path = Path.write_text, pq.write_table, Path.open
    save, saved = transformers.PreTrainedModel.save_pretrained, []
    at_save = {"second checkpoint": 2, "model": 3}.get(what, 1 if what.startswith("checkpoint") else None)
    records = []

    def refuse_text(path, *rest, **named):
        if path.name.startswith("run.json") and what.startswith("record"):
            records.append(path)
            if len(records) == (5 if what == "record in training" else 1):
                raise OSError(28, "No space left on device")
        if path.name.startswith("evaluation.json") and what == "evaluation":
            raise OSError(28, "No space left on device")
        return write_text(path, *rest, **named)

    def refuse_table(table, path, **named):
        if "part-000001" in path.name:
            path.write_bytes(b"half")
            raise OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")
        return write_table(table, path, **named)

    def refuse_steps(path, mode="r", *rest, **named):
        if path.name == "steps.jsonl" and mode == "a":
            raise OSError(28, "No space left on device")
        return open_path(path, mode, *rest, **named)

    def refuse_save(model, *rest, **named):
        saved.append(model)
        if len(saved) == at_save:
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        return save(model, *rest, **named)

    patch.setattr(Path, "write_text", refuse_text)
    if what == "prior pass":
        patch.setattr(pq, "write_table", refuse_table)
    if what == "steps":
        patch.setattr(Path, "open", refuse_steps)
    patch.setattr(transformers.PreTrainedModel, "save_pretrained", refuse_save)


@pytest.mark.parametrize("what", ["run", "cache", "hf"])
def test_a_read_only_folder_is_a_wrong_request(what, workspace, tmp_path, monkeypatch, capfd):
    (workspace / what).mkdir()
    (workspace / what / "held_out_prior").mkdir()
    (workspace / what / "held_out_prior").rmdir()
    with ExitStack() as stack, monkeypatch.context() as stub:
        real = can_mount(tmp_path)
        if real:
            stack.enter_context(read_only(workspace / what))
        else:
            forbid(workspace / what, stub)
        code = train()
        _, err = capfd.readouterr()
        assert code == 2, err
        assert err.count("\n") == 1, err
        assert f"{what}/" in err or f"{what}`" in err, err
        assert "Read-only file system. Choose a place that can be read and written." in err
    assert [path.name for path in (workspace / what).iterdir()] == []
    print(f"\n{what}: {'a real mount' if real else 'stubbed'}; {err.strip()}")  # noqa: T201


def forbid(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Stand in for a folder on a read-only disk."""
    open_file, make = os.open, os.mkdir

    def refuse(path):
        if Path(os.path.abspath(os.fspath(path))).is_relative_to(folder):
            raise OSError(30, "Read-only file system", str(path))

    def refuse_open(path, flags, *rest, **named):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return open_file(path, flags, *rest, **named)

    def refuse_mkdir(path, *rest, **named):
        if not os.path.isdir(path):
            refuse(path)
        return make(path, *rest, **named)

    patch.setattr(os, "open", refuse_open)
    patch.setattr(os, "mkdir", refuse_mkdir)


@pytest.mark.slow
def test_a_complete_cache_and_data_on_a_read_only_disk_are_used(workspace, whole, tmp_path, monkeypatch):
    if not can_mount(tmp_path):
        pytest.skip("needs a read-only mount")
    assert train("--set", "run=first") == 0
    shutil.rmtree("first")
    (workspace / "data").mkdir()
    for name in ("new.csv", "prior.csv", "base"):
        (workspace / name).rename(workspace / "data" / name)
    text = (workspace / "config.toml").read_text()
    for name in ("new.csv", "prior.csv", "base"):
        text = text.replace(f'"{name}"', f'"data/{name}"')
    (workspace / "config.toml").write_text(text)
    with read_only(workspace / "cache"), read_only(workspace / "data"):
        assert train() == 0
        assert real_run.read_record(workspace)["counters"]["prior_pass_forward_count"] == 0
        real_run.assert_same_outcome(real_run.read_outcome(workspace / "run", workspace / "cache"), whole)


@contextmanager
def standing_still(process: real_run.Process):
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder_or_an_unfinished_cache(template, reference, tmp_path):
    folder = real_run.copy_template(template, tmp_path / "workspace")
    first = real_run.start(folder)
    while len(list((folder / "run" / "cache").glob("part-*.sha256"))) < 2:
        assert first.poll() is None
        time.sleep(0.002)
    with standing_still(first):
        before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")}
        seconds = [
            real_run.start(folder, *arguments)
            for arguments in (["--resume"], ["--set", "run=other", "--set", "rehearsal.cache=run/cache"])
        ]
        for second, name in zip(seconds, ("run", "run/cache"), strict=True):
            code, out, err = real_run.end(second)
            assert (code, out, err.count("\n")) == (2, "", 1), err
            assert err.startswith(f"`{name}` is in use by another run, which is still going."), err
        assert {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")} == before
        assert not (folder / "other").exists()
    code, _, err = real_run.end(first)
    assert code == 0, err
    real_run.assert_same_outcome(real_run.read_outcome(folder / "run"), reference.outcome)


def test_a_lock_left_by_a_killed_run_does_not_hold(tmp_path):
    (tmp_path / ".lock").write_text("")
    with lock_folder(tmp_path):
        pass


class KilledError(BaseException):
    """Stands for a kill."""


def test_an_overwrite_killed_anywhere_leaves_no_run_that_passes_for_another(workspace, monkeypatch, capfd):
    """Killed after each single deletion: what is left is no finished run, and no later run takes it for its own."""
    assert train() == 0
    kept = shutil.copytree("run", "kept")
    killed_count = 0
    while True:
        folder = RunFolder(Path(shutil.copytree(kept, "half")))
        calls = []

        def count_down(make_change, calls=calls, most=killed_count):
            def change(*arguments, **named):
                if len(calls) == most:
                    raise KilledError
                calls.append(arguments)
                return make_change(*arguments, **named)

            return change

        with monkeypatch.context() as patch:
            for name in ("unlink", "rmdir", "replace"):
                patch.setattr(os, name, count_down(getattr(os, name)))
            try:
                folder.clear()
                break
            except KilledError:
                killed_count += 1
        record = folder.read()
        if record is None:
            assert not folder.model.exists()
            assert folder.find_checkpoint() is None
        elif record["state"] == "finished":
            assert folder.model.exists()
        for path in (folder.model, folder.checkpoints):
            if path.exists():
                assert len(list(path.rglob("*"))) == len(list(Path(kept, path.name).rglob("*")))
        shutil.rmtree("half")
    assert killed_count > 20
    print(f"\nkilled after each of {killed_count} deletions")  # noqa: T201


@pytest.mark.slow
def test_an_error_in_training_keeps_a_new_run(workspace, whole, monkeypatch, capfd):
    learn = RehearsalLoop.learn

    def fail_late(loop, *arguments):
        if loop.steps_done == 30:
            raise PlanError("Something was wrong. Do something.")
        return learn(loop, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RehearsalLoop, "learn", fail_late)
        assert train() == 2
    assert capfd.readouterr().err.endswith("Something was wrong. Do something.\n")
    assert train() == 2
    assert "got as far as step 30 of 40, and its last checkpoint is of step 20" in capfd.readouterr().err
    assert train("--resume") == 0
    real_run.assert_same_outcome(real_run.read_outcome(workspace / "run", workspace / "cache"), whole)
