"""`mixcd sweep`: methods × mix ratios × seeds, one process a core, a row in the results for every finished run."""

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mixcd.edge.bench.sweep.find_task import find_task, load_function
from mixcd.edge.bench.sweep.sweep_config import SweepConfig, describe_method, list_runs, make_spec
from mixcd.edge.bench.sweep.sweep_results import read_results, run_key, write_results
from mixcd.words.errors import RehearsalError, SettingError, shorten
from mixcd.words.files import lock_file, lock_folder

Run = tuple[str, float, int]
"""Method, mix ratio, seed."""


@dataclass
class SweepProgress:
    """How far a sweep is.

    Args:
        finished: Those that have a row.
        failed: Those that failed in this call, and why.
        seconds: How long the runs of this call took, training and judging.
    """

    runs: Sequence[Run]
    finished: set[Run]
    failed: dict[Run, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    workers: int = 1

    @property
    def seconds_left(self) -> float | None:
        """Estimated wall time until the end; None before the first run."""
        left = len(self.runs) - len(self.finished) - len(self.failed)
        return left * sum(self.seconds) / len(self.seconds) / self.workers if self.seconds else None


def run_sweep(sweep: SweepConfig, workers: int, show: Callable[[SweepProgress], None]) -> SweepProgress:
    """Make all runs that have no row yet; results are written after each.

    A run that fails, or a process that dies, is noted, and the sweep goes on.

    Args:
        workers: Processes; each makes the runs of one seed at a time.
        show: Told how far the sweep is, whenever that changes.

    Raises:
        DataError: If the results file is of another version.
        FolderInUseError: If another sweep is using the work folder, or writing to the results file.
        SettingError: If a method was run with other settings before, or the task cannot be loaded.
        OSError: If results cannot be written; those written before are kept.
    """
    find_task(sweep.task)
    for method in sweep.method.values():
        if method.trainer:
            load_function(method.trainer)
    _read_earlier(sweep)  # refused before anything is written
    with lock_folder(Path(sweep.work)), lock_file(Path(sweep.results)):
        return _run_all(sweep, workers, show)


def _run_all(sweep: SweepConfig, workers: int, show: Callable[[SweepProgress], None]) -> SweepProgress:
    runs = list_runs(sweep)
    rows = _read_earlier(sweep)
    progress = SweepProgress(runs, _find_finished(sweep, rows, runs), workers=workers)
    groups = [[run for run in runs if run[2] == seed and run not in progress.finished] for seed in sweep.seeds]
    waiting, working = [group for group in groups if group], list[_Worker]()
    show(progress)
    try:
        while waiting or working:
            while waiting and len(working) < workers:
                working.append(_Worker(sweep, waiting.pop(0), _threads_for(workers)))
                working[-1].start()
            ready = wait([worker.connection for worker in working], timeout=1.0)
            for worker in [one for one in working if one.connection in ready]:
                _handle(worker, rows, progress, Path(sweep.results))
                if worker.is_done:
                    working.remove(worker)
                    if worker.left:
                        waiting.insert(0, worker.left)
            show(progress)
    finally:
        for worker in working:
            worker.stop()
    return progress


def _find_finished(sweep: SweepConfig, rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> set[Run]:
    """The runs that have all their rows: their own, and one for each average with the base model."""
    shares: dict[Run, set[float]] = {}
    for row in rows:
        shares.setdefault(run_key(row), set()).add(row["wise_ft"])
    return {run for run in runs if shares.get(run, set()) >= {1.0, *make_spec(sweep, run).method.wise_ft}}


class _Worker:
    """A process that makes the runs of one seed, one after the other."""

    def __init__(self, sweep: SweepConfig, runs: list[Run], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe(duplex=False)
        self.left = list(runs)
        self.is_done = False
        self._process: BaseProcess = context.Process(
            target=_work, args=(sweep.model_dump_json(exclude_unset=True), runs, threads, other), daemon=True
        )
        self._far_end = other

    def start(self) -> None:
        """Start the process."""
        resource_tracker.ensure_running()  # whose start would unblock what is blocked here
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()  # with Ctrl-C blocked from birth: the first process decides
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._far_end.close()

    def receive(self) -> tuple[Run | None, list[dict[str, Any]] | str, float]:
        """Return the next run with its rows, or with why it failed, and its seconds; no run when none was left."""
        try:
            run, made, seconds = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            self.is_done = True
            return self.left[0] if self.left else None, _describe_end(self._process.exitcode), 0.0
        return run, made, seconds

    def stop(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _handle(worker: _Worker, rows: list[dict[str, Any]], progress: SweepProgress, results: Path) -> None:
    """Take in one message of a worker."""
    run, made, seconds = worker.receive()
    if run is None:  # all done, and the process ended
        return
    worker.left = [one for one in worker.left if one != run]
    if isinstance(made, str):
        progress.failed[run] = made
        return
    rows[:] = [row for row in rows if run_key(row) != run]  # of a run that lacked an average with the base model
    rows.extend(made)
    results.parent.mkdir(parents=True, exist_ok=True)
    write_results(results, rows)
    progress.finished.add(run)
    progress.seconds.append(seconds)


def _threads_for(workers: int) -> int:
    """Threads a process: what `OMP_NUM_THREADS` says, or an equal share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // workers))


def _read_earlier(sweep: SweepConfig) -> list[dict[str, Any]]:
    """The rows of earlier calls, refused when they belong to something else."""
    path = Path(sweep.results)
    if not path.exists():
        return []
    rows = read_results(path)
    tasks = {row["task"] for row in rows} - {sweep.name}
    if tasks:
        raise SettingError(
            f"`{path}` holds results of the task {shorten(sorted(tasks))}, but this sweep is called `{sweep.name}`. A "
            "results file holds one task. Choose another file, or the same name."
        )
    changed = {
        row["method"]
        for row in rows
        if row["method"] in sweep.methods and row["settings"] != describe_method(sweep, row["method"])
    }
    if changed:
        raise SettingError(
            f"`{path}` holds runs of {shorten(f'`{name}`' for name in sorted(changed))} with other settings. Runs "
            "of one name must be alike. Give the changed method a new name, or choose another file."
        )
    return rows


def _describe_end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was ended by signal {-code}"
    return f"the process ended ({code})"


def _work(sweep_json: str, runs: Sequence[Run], threads: int, connection: Connection) -> None:
    """Make the runs of one seed, and report each; this is what a worker process does."""
    import torch
    from threadpoolctl import threadpool_limits

    from mixcd.edge.quiet import quiet_libraries

    torch.set_num_threads(threads)
    threadpool_limits(threads)  # numpy's, too
    sweep = SweepConfig.model_validate_json(sweep_json)
    folder = Path(sweep.work) / f"seed-{runs[0][2]}"
    done: set[Run] = set()
    with quiet_libraries():
        logging.getLogger("mixcd").setLevel(logging.ERROR)  # what each of many runs says of itself is in its row
        try:
            for run, made, seconds in _make_runs(sweep, runs, folder):
                done.add(run)
                connection.send((run, made, seconds))
        except Exception as error:  # the task could not be made: the sweep goes on with other seeds, and tells
            for run in runs:
                if run not in done:
                    connection.send((run, _tell(error), 0.0))
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    connection.close()


def _make_runs(
    sweep: SweepConfig, runs: Sequence[Run], folder: Path
) -> Iterator[tuple[Run, list[dict[str, Any]] | str, float]]:
    """Yield each run with its rows, or with why it failed."""
    from mixcd.edge.bench.sweep.sweep_run import Judge, make_plain_trainer, require_task, run_once

    folder.mkdir(parents=True, exist_ok=True)
    task = find_task(sweep.task)(runs[0][2], folder)
    require_task(task)
    judge = Judge(task, folder)
    for run in runs:
        start = time.perf_counter()
        spec = make_spec(sweep, run)
        named = {"task": sweep.name, "method": run[0], "settings": describe_method(sweep, run[0])}
        try:
            own = load_function(spec.method.trainer) if spec.method.trainer else task.make_trainer
            made = run_once(task, spec, folder, judge, own or make_plain_trainer)
        except Exception as error:  # a run of one method says nothing about the others
            yield run, _tell(error), 0.0
        else:
            yield run, [{**named, **row} for row in made], time.perf_counter() - start


def _tell(error: Exception) -> str:
    if not isinstance(error, RehearsalError):
        traceback.print_exception(error, file=sys.stderr)
    return f"{type(error).__name__}: {error}"
