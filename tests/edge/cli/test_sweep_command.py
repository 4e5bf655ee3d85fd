"""`mixcd sweep` as a user calls it: what it prints, how it exits, and what is left when it is stopped."""

import io
import os
import re
import signal
import sys
import time
from multiprocessing import popen_spawn_posix
from pathlib import Path

import pytest
from rich.console import Console

from forked import COMMAND, Forked
from mixcd.edge.bench.sweep.show import describe_progress, make_progress_table
from mixcd.edge.bench.sweep.sweep import SweepProgress
from mixcd.edge.bench.sweep.sweep_results import read_results
from mixcd.edge.cli import run
from toy_sweep import write_toy

SLOW = '\n[method.slow]\nlike = "none"\ntrainer = "MODULE.py:make_slow_trainer"\n'
FAILING = '\n[method.failing]\nlike = "none"\ntrainer = "MODULE.py:make_failing_trainer"\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = write_toy(tmp_path)
    text = (tmp_path / "sweep.toml").read_text() + (SLOW + FAILING).replace("MODULE", module)
    (tmp_path / "sweep.toml").write_text(text)
    return tmp_path


@pytest.fixture
def refuse(folder, capfd):
    def refuse(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            run(("sweep", *arguments))
        captured = capfd.readouterr()
        assert done.value.code == 2, captured.err
        assert captured.err.count("\n") == 1, captured.err
        assert captured.out == ""
        assert not re.search(r"\?\.|\.\. | ,|  ", captured.err)
        assert not (folder / "work").exists()
        assert not (folder / "out").exists()
        return captured.err

    return refuse


def start(*arguments, **options):
    return Forked(COMMAND, "sweep", *arguments, env={"OMP_NUM_THREADS": "1"}, **options)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nope.toml"], "There is no config `nope.toml`."),
        (["sweep.toml", "--set", "seeds=[1,1]"], "`sweep.toml`: `seeds` names `1` twice, but each can be run once."),
        (["sweep.toml", "--set", "seeds"], "`--set seeds` is not key=value."),
        (["sweep.toml", "--set", 'methods=["cuonts"]'], "`methods` names `cuonts`, which is unknown, did you mean"),
        (["sweep.toml", "--set", "mix_ratios=[2]"], "`mix_ratios` are [2.0], but each must lie inside (0, 1)."),
        (
            ["sweep.toml", "--set", "task=nope.py:toy"],
            "nope.py`. Write FILE.py:FUNCTION, seen from the",
        ),
        (["sweep.toml", "--set", "task=nope.toml"], "There is no config `"),
        (["sweep.toml", "--workers", "0"], "Invalid value for '--workers': "),
        ([], "Missing argument 'SWEEP'."),
    ],
)
def test_wrong_requests_are_one_line_and_write_nothing(refuse, arguments, part):
    assert part in refuse(*arguments)


def children_of(process_id):
    """The processes that a process started, and theirs."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process_id:
            child = int(status.parent.name)
            found += [child, *children_of(child)]
    return found


def command_of(process_id):
    try:
        return Path(f"/proc/{process_id}/cmdline").read_text()
    except OSError:
        return ""


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_sweep_prints_how_far_it_is_and_fails_when_a_run_fails(folder):
    arguments = ("sweep.toml", "--set", "name=x", "--set", "seeds=[0]", "--set", 'methods=["none","failing"]')
    process = start(*arguments, "--workers", "1")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert [re.sub(r"\d+ s left", "N s left", line) for line in out.splitlines()] == [
        "0 of 2 runs finished",
        "1 of 2 runs finished, about N s left",
        "1 of 2 runs finished, 1 failed",
    ]
    *traceback, line = err.splitlines()
    assert traceback[0] == "Traceback (most recent call last):"
    assert "in make_failing_trainer" in err
    results = folder / "out" / "x.parquet"
    assert line == (
        "1 of 2 runs failed; the first is `failing` at mix ratio 0, seed 0: RuntimeError: boom, said the trainer. The "
        f"others are in `{results}`. The same command tries the failed ones again."
    )
    assert [row["task"] for row in read_results(results)] == ["x"]
    (folder / "mended").touch()
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-2:] == ["2 of 2 runs finished", f"Results: `{results}`. See: mixcd frontier {results}"]
    assert len(read_results(results)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("early", [True, False], ids=["while a worker starts", "in a run"])
def test_ctrl_c_is_one_line_keeps_the_rows_and_leaves_no_process(folder, early, monkeypatch):
    launch = popen_spawn_posix.Popen._launch
    monkeypatch.setattr(popen_spawn_posix.Popen, "_launch", lambda *rest: launch(*rest) or time.sleep(2 * early))
    process = start(
        *("sweep.toml", "--workers", "1", "--set", "seeds=[0]", "--set", 'methods=["none","slow"]'),
        start_new_session=True,
    )
    results = folder / "out" / "toy.parquet"
    if early:
        wait_for(lambda: any("spawn_main" in command_of(one) for one in children_of(process.pid)))
    else:
        wait_for(lambda: results.exists() and (folder / "training").exists())
    left = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert err == f"Stopped. Finished runs are in `{results}`; the same command makes the others.\n"
    assert out.startswith("0 of 2 runs finished\n")
    wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in left), seconds=5)
    assert [row["method"] for row in (read_results(results) if results.exists() else [])] == ([] if early else ["none"])
    assert not list((folder / "work").rglob("*.unfinished"))


# --- what is shown --------------------------------------------------------------------------------------------------


def shown(progress):
    console = Console(file=io.StringIO(), width=80)
    console.print(make_progress_table(progress))
    return console.file.getvalue()


def test_the_table_shows_every_method_at_every_mix_ratio():
    runs = [("none", 0.0, 0), ("none", 0.0, 1), *[("[red]x", ratio, seed) for ratio in (0.25, 0.5) for seed in (0, 1)]]
    text = shown(SweepProgress(runs, {runs[0], runs[2]}, {runs[3]: "why"}, [10.0, 20.0], 1))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert lines == [["none", "1 / 2", "", ""], ["[red]x", "", "1 / 2", "0 / 2"]]
    assert re.search(r"method .* β 0 .* β 0.25 .* β 0.5", text)


def test_how_far_a_sweep_is_is_one_line():
    runs = [("none", 0.0, seed) for seed in range(10)]
    assert describe_progress(SweepProgress(runs, set())) == "0 of 10 runs finished"
    half = SweepProgress(runs, set(runs[:4]), {runs[4]: "why"}, [4.0, 8.0], 1)
    assert describe_progress(half) == "4 of 10 runs finished, 1 failed, about 30 s left"
    assert describe_progress(SweepProgress(runs, {runs[0]}, {}, [60.0], 1)) == "1 of 10 runs finished, about 9 min left"
    assert describe_progress(SweepProgress(runs, set(runs), {}, [60.0], 1)) == "10 of 10 runs finished"


@pytest.fixture
def quick(folder, monkeypatch):
    """A sweep whose runs are made up, in this process; each is told as it ends."""

    def run_sweep(sweep, workers, show):
        runs = [("none", 0.0, seed) for seed in range(3)]
        progress = SweepProgress(runs, set(), workers=workers)
        for one in runs:
            show(progress)
            show(progress)
            progress.finished.add(one)
        show(progress)
        return progress

    monkeypatch.setattr("mixcd.edge.bench.sweep.show.run_sweep", run_sweep)


def test_without_a_terminal_every_change_is_one_line(quick, capfd):
    with pytest.raises(SystemExit) as done:
        run(("sweep", "sweep.toml"))
    assert not done.value.code
    results = Path.cwd() / "out" / "toy.parquet"
    assert capfd.readouterr().out.splitlines() == [
        *[f"{count} of 3 runs finished" for count in range(4)],
        f"Results: `{results}`. See: mixcd frontier {results}",
    ]


def test_on_a_terminal_the_table_is_drawn_while_runs_are_made(quick, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run(("sweep", "sweep.toml"))
    drawn = capfd.readouterr().out
    for count in range(4):
        assert f"{count} of 3 runs finished" in drawn
    assert "1 / 3" in drawn
    assert drawn.count("3 of 3 runs finished") >= 2  # in the table, and what stays


def test_a_full_disk_is_one_line_and_a_failure(folder, monkeypatch, capfd):
    def fill_disk(*_):
        raise OSError(28, "No space left on device", "out/toy.parquet")

    monkeypatch.setattr("mixcd.edge.bench.sweep.show.run_sweep", fill_disk)
    with pytest.raises(SystemExit) as done:
        run(("sweep", "sweep.toml"))
    assert done.value.code == 1
    assert capfd.readouterr().err == (
        "`out/toy.parquet` cannot be written: No space left on device. Runs that were finished before are kept. Free "
        "some space; the same command makes the others.\n"
    )


def test_a_folder_that_cannot_be_written_is_a_wrong_request(folder, capfd):
    (folder / "work").write_text("in the way")
    with pytest.raises(SystemExit) as done:
        run(("sweep", "sweep.toml"))
    assert done.value.code in (1, 2)
    assert capfd.readouterr().err.count("\n") == 1
