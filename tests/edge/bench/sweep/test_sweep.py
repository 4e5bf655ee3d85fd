import errno
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixcd.edge.bench.sweep import sweep as sweep_module
from mixcd.edge.bench.sweep.sweep import SweepProgress, run_sweep
from mixcd.edge.bench.sweep.sweep_config import read_sweep
from mixcd.edge.bench.sweep.sweep_results import RESULTS_SCHEMA, read_results, run_key, write_results
from mixcd.words.errors import DataError, FolderInUseError, SettingError
from mixcd.words.files import lock_file, lock_folder
from toy_sweep import without_times, write_toy

ALL = [(name, ratio, seed) for seed in (0, 1) for name, ratio in [("none", 0.0), ("uniform", 0.25), ("uniform", 0.5)]]


@pytest.fixture(scope="session")
def quick_start():
    """Workers forked from a clean process that has imported everything: they start in no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mixcd.edge.bench.sweep.sweep", "mixcd.edge.bench.sweep.sweep_run", "mixcd.edge.quiet"]
    )
    return context


@pytest.fixture
def toy(tmp_path, quick_start, monkeypatch):
    """Write a sweep's file, and run it; more of it, and settings, can be given."""
    module = write_toy(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    real = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: quick_start if kind == "spawn" else real(kind))
    shown = []

    def read(*settings, more=""):
        path = tmp_path / "sweep.toml"
        if more and more not in path.read_text():
            path.write_text(f"{path.read_text()}\n{more}".replace("MODULE", module))
        return read_sweep(path, ['methods=["none", "uniform"]', *settings])

    def run(*settings, more="", workers=1):
        shown.clear()
        sweep = read(*settings, more=more)
        return run_sweep(sweep, workers, lambda progress: shown.append(len(progress.finished)))

    run.read, run.shown, run.module = read, shown, module
    run.results = tmp_path / "out" / "toy.parquet"
    return run


@pytest.fixture(scope="session")
def whole(quick_start, tmp_path_factory):
    """The rows of the uninterrupted sweep."""
    folder = tmp_path_factory.mktemp("whole")
    write_toy(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", lambda _: quick_start)
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        sweep = read_sweep(folder / "sweep.toml", ['methods=["none", "uniform"]'])
        progress = run_sweep(sweep, 1, lambda _: None)
    assert not progress.failed
    return read_results(folder / "out" / "toy.parquet")


# --- whole sweeps ---------------------------------------------------------------------------------------------------


def test_a_sweep_makes_a_row_for_every_run(whole):
    assert [run_key(row) for row in whole] == ALL
    for row in whole:
        assert (row["task"], row["settings"], row["steps"]) == ("toy", "{}", 12)
        assert (row["observed_count"] > 0) == (row["method"] != "none")


def test_the_same_sweep_with_more_workers_gives_the_same_numbers(toy, whole):
    progress = toy(workers=2)
    assert progress.finished == set(ALL)
    assert not progress.failed
    assert without_times(read_results(toy.results)) == without_times(whole)


def test_a_second_call_makes_nothing_again(toy, whole, monkeypatch):
    toy.results.parent.mkdir()
    write_results(toy.results, whole)
    before = toy.results.stat().st_mtime_ns
    monkeypatch.setattr(sweep_module, "_Worker", None)  # none is needed
    progress = toy()
    assert progress.finished == set(ALL)
    assert toy.results.stat().st_mtime_ns == before
    assert toy.shown == [6]


def test_only_what_is_missing_is_made(toy, whole):
    kept = whole[:2] + whole[3:4]  # the first of seed 0 made the prior pass; so here
    toy.results.parent.mkdir()
    write_results(toy.results, kept)
    progress = toy()
    rows = read_results(toy.results)
    assert rows[:3] == kept  # provenance and times, too
    assert progress.finished == set(ALL)
    assert len(progress.seconds) == 3
    assert toy.shown[0] == 3
    again, before = without_times(rows), without_times(whole)
    for row in (*again, *before):
        del row["prior_pass_forward_count"]  # the prior cache was not kept
    assert again == before


def test_an_interrupted_sweep_goes_on_to_the_same_results(toy, whole):
    def interrupt(progress):
        if len(progress.finished) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(toy.read(), 1, interrupt)
    assert [run_key(row) for row in read_results(toy.results)] == ALL[:3]
    progress = toy()
    assert len(progress.seconds) == 3
    assert without_times(read_results(toy.results)) == without_times(whole)


def test_results_grow_run_by_run(toy, monkeypatch):
    sizes, write = [], sweep_module.write_results
    monkeypatch.setattr(sweep_module, "write_results", lambda path, rows: sizes.append(len(rows)) or write(path, rows))
    toy("seeds=[0]", "wise_ft=[0.5]")
    assert sizes == [2, 4, 6]
    assert [row["wise_ft"] for row in read_results(toy.results)] == [1.0, 0.5] * 3
    assert toy.shown[0] == 0
    assert toy.shown[-1] == 3


def test_new_methods_seeds_and_mix_ratios_are_added_to_earlier_results(toy, whole):
    toy.results.parent.mkdir()
    write_results(toy.results, whole)
    progress = toy("seeds=[2]", "mix_ratios=[0.5]", 'methods=["counts"]')
    assert list(progress.finished) == [("counts", 0.5, 2)]
    rows = read_results(toy.results)
    assert rows[:6] == whole
    assert [run_key(row) for row in rows[6:]] == [("counts", 0.5, 2)]


def test_averages_with_the_base_model_that_are_asked_for_later_are_made(toy, whole):
    toy.results.parent.mkdir()
    write_results(toy.results, whole)
    progress = toy("method.uniform.wise_ft=[0.5]", "seeds=[0]")
    assert len(progress.seconds) == 2  # both runs of uniform rehearsal with this seed
    rows = read_results(toy.results)
    assert len({(*run_key(row), row["wise_ft"]) for row in rows}) == len(rows) == len(whole) + 2
    assert sorted(run_key(row) for row in rows if row["wise_ft"] == 0.5) == [ALL[1], ALL[2]]
    assert toy("method.uniform.wise_ft=[0.5]", "seeds=[0]").seconds == []
    assert toy().seconds == []  # what is there beyond the wish stays


def test_an_own_trainer_runs_in_the_worker(toy):
    progress = toy(
        "seeds=[0]",
        'methods=["mine"]',
        "mix_ratios=[0.25]",
        more='[method.mine]\ntrainer = "MODULE.py:make_told_trainer"\ntrainer_settings = { a = 1 }',
    )
    assert not progress.failed
    (row,) = read_results(toy.results)
    assert row["settings"] == f'{{"trainer": "{toy.module}.py:make_told_trainer", "trainer_settings": {{"a": 1}}}}'


# --- runs that fail -------------------------------------------------------------------------------------------------

DYING = '[method.dying]\nlike = "none"\ntrainer = "MODULE.py:make_dying_trainer"'
FAILING = '[method.failing]\ntrainer = "MODULE.py:make_failing_trainer"\nmix_ratios = [0.25, 0.75]'


def test_a_sweep_outlives_a_killed_worker_and_tries_its_run_again(toy, tmp_path):
    progress = toy('methods=["none", "dying", "uniform"]', more=DYING)
    assert progress.finished == set(ALL)
    assert progress.failed == {("dying", 0.0, seed): "the process was ended by signal 9" for seed in (0, 1)}
    assert {run_key(row) for row in read_results(toy.results)} == set(ALL)
    (tmp_path / "mended").touch()
    progress = toy('methods=["none", "dying", "uniform"]')
    assert not progress.failed
    assert len(progress.seconds) == 2
    assert len(read_results(toy.results)) == 8


def test_an_exception_in_a_run_is_told_and_the_others_are_made(toy, tmp_path):
    progress = toy('methods=["failing", "none"]', "seeds=[0]", more=FAILING)
    assert progress.finished == {("none", 0.0, 0)}
    assert progress.failed == {("failing", ratio, 0): "RuntimeError: boom, said the trainer." for ratio in (0.25, 0.75)}
    assert progress.seconds_left == 0
    (tmp_path / "mended").touch()
    assert not toy('methods=["failing", "none"]', "seeds=[0]").failed


def test_a_worker_that_leaves_is_told(toy):
    more = '[method.leaving]\ntrainer = "MODULE.py:make_leaving_trainer"\nmix_ratios = [0.25]'
    progress = toy('methods=["leaving", "none"]', "seeds=[0]", more=more)
    assert progress.failed == {("leaving", 0.25, 0): "the process ended (3)"}
    assert progress.finished == {("none", 0.0, 0)}


def test_a_task_that_cannot_be_made_fails_the_runs_of_its_seed(toy):
    progress = toy(f"task={toy.module}.py:toy_where_seed_1_is_broken", workers=2)
    assert progress.finished == {run for run in ALL if run[2] == 0}
    assert progress.failed == {run: "FileNotFoundError: the data of seed 1 are gone" for run in ALL if run[2] == 1}


def test_what_is_no_task_is_told(toy):
    progress = toy(f"task={toy.module}.py:toy_that_is_none", "seeds=[0]", 'methods=["none"]')
    assert list(progress.failed.values()) == [
        "SettingError: The task function returned a dict, but it must return a `SweepTask`."
    ]


def test_a_method_that_attach_refuses_fails_alone(toy):
    more = '[method.odd]\npartition = ["column:topic"]\nmix_ratios = [0.25]\n[method.tiny]\nmix_ratios = [0.01]'
    progress = toy('methods=["odd", "tiny", "none"]', "seeds=[0]", more=more)
    assert progress.finished == {("none", 0.0, 0)}
    reasons = {run[0]: reason for run, reason in progress.failed.items()}
    assert reasons["odd"].startswith("DataError: `prior_data` has no column `topic`")
    assert reasons["tiny"].startswith("SettingError: `mix_ratio`")


def test_a_full_disk_stops_the_sweep_and_leaves_the_results_of_before(toy, whole, monkeypatch):
    toy.results.parent.mkdir()
    write_results(toy.results, whole[:2])
    workers, make = [], sweep_module._Worker
    monkeypatch.setattr(sweep_module, "_Worker", lambda *rest: workers.append(make(*rest)) or workers[-1])

    def fill_disk(table, unfinished, **_):
        unfinished.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(pq, "write_table", fill_disk)
        with pytest.raises(OSError, match="No space left on device") as failure:
            toy(workers=2)
    assert failure.value.filename == str(toy.results)
    assert read_results(toy.results) == whole[:2]
    assert sorted(path.name for path in toy.results.parent.iterdir()) == [".toy.parquet.lock", "toy.parquet"]
    assert workers
    assert not any(worker._process.is_alive() for worker in workers)
    assert toy().finished == set(ALL)


def test_a_signal_ends_the_workers(toy, monkeypatch):
    workers, make = [], sweep_module._Worker
    monkeypatch.setattr(sweep_module, "_Worker", lambda *rest: workers.append(make(*rest)) or workers[-1])

    def interrupt(progress):
        if workers:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(toy.read(), 2, interrupt)
    assert len(workers) == 2
    assert not any(worker._process.is_alive() for worker in workers)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


# --- refusals -------------------------------------------------------------------------------------------------------


def refusal(kind, call, *arguments, **options):
    with pytest.raises(kind) as failure:
        call(*arguments, **options)
    return str(failure.value)


def test_results_of_another_version_are_refused_and_kept(toy, whole, tmp_path):
    toy.results.parent.mkdir()
    schema = RESULTS_SCHEMA.with_metadata({b"mixcd_results_format": b"3"})
    pq.write_table(pa.Table.from_pylist(whole, schema=schema), toy.results)
    before = toy.results.read_bytes()
    assert "has results format 3, but this version of mixcd reads format 2" in refusal(DataError, toy)
    assert toy.results.read_bytes() == before
    assert not (tmp_path / "work").exists()


def test_results_of_another_task_are_refused(toy, whole, tmp_path):
    toy.results.parent.mkdir()
    write_results(toy.results, whole)
    assert refusal(SettingError, toy, "name=other", f"results={toy.results}") == (
        f"`{toy.results}` holds results of the task toy, but this sweep is called `other`. A results file holds one "
        "task. Choose another file, or the same name."
    )
    assert not (tmp_path / "work").exists()


def test_a_method_of_other_settings_is_refused_by_its_name(toy, whole):
    toy.results.parent.mkdir()
    write_results(toy.results, whole)
    assert refusal(SettingError, toy, "method.uniform.floor=0.5") == (
        f"`{toy.results}` holds runs of `uniform` with other settings. Runs of one name must be alike. Give the "
        "changed method a new name, or choose another file."
    )
    assert toy("method.uniform.mix_ratios=[0.5]").finished == {run for run in ALL if run[1] != 0.25}
    assert not toy('methods=["none"]', "method.uniform.floor=0.5").failed  # it is not asked for


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["task=nope.py:toy"], "There is no file `"),
        (["task=MODULE.py:toi"], "has no function `toi`, did you mean `toy`?"),
        (["method.uniform.trainer=MODULE.py:make_tolt_trainer"], "did you mean `make_told_trainer`?"),
        (["method.uniform.trainer=nope.py:make"], "There is no file `"),
    ],
)
def test_functions_that_are_not_there_are_refused_before_anything_is_written(toy, tmp_path, settings, part):
    settings = [one.replace("MODULE", toy.module) for one in settings]
    before = sorted(tmp_path.iterdir())
    assert part in refusal(SettingError, toy, *settings)
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


def test_two_sweeps_do_not_share_a_work_folder(toy, tmp_path):
    with lock_folder(tmp_path / "work"):
        assert "is in use by another run" in refusal(FolderInUseError, toy)


def test_two_sweeps_do_not_write_to_one_results_file(toy, tmp_path):
    with lock_file(toy.results):
        assert "toy.parquet` is in use by another run" in refusal(FolderInUseError, toy)
    assert not toy().failed


# --- progress -------------------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_the_runs_so_far_over_all_workers():
    runs = [("uniform", 0.25, seed) for seed in range(10)]
    assert SweepProgress(runs, set()).seconds_left is None
    assert SweepProgress(runs, set(runs[:4]), {runs[4]: "x"}, [10.0, 20.0], 2).seconds_left == 5 * 15 / 2


@pytest.mark.parametrize(("given", "workers", "threads"), [("3", 2, 3), ("", 2, 4), ("", 16, 1), (None, 1, 8)])
def test_workers_share_the_cores(monkeypatch, given, workers, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert sweep_module._threads_for(workers) == threads


def test_how_a_process_ended_is_told():
    assert sweep_module._describe_end(-9) == "the process was ended by signal 9"
    assert sweep_module._describe_end(1) == "the process ended (1)"
    assert sweep_module._describe_end(None) == "the process ended (None)"


def test_nothing_of_a_run_stays_but_what_the_next_needs(toy, tmp_path):
    toy("seeds=[0]")
    left = {str(Path(path).relative_to(tmp_path / "work")) for path in (tmp_path / "work").glob("*/*")}
    assert left == {"seed-0/cache-plain-0"}
