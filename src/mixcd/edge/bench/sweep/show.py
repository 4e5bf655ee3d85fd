"""What `mixcd sweep` shows: how far it is, and how it ended."""

import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mixcd.edge.bench.sweep.sweep import SweepProgress, run_sweep
from mixcd.edge.bench.sweep.sweep_config import read_sweep
from mixcd.edge.train.stop_signals import Stopped, StopSignals
from mixcd.words.errors import SweepError
from mixcd.words.files import is_disk_fault


def sweep_and_show(path: Path, settings: Sequence[str], workers: int | None) -> None:
    """Make all runs of a sweep that have no row yet.

    Args:
        workers: Processes; one a core by default.

    Raises:
        SweepError: If a run failed; the others are in the results.
        Stopped: If a signal ended the sweep.
    """
    sweep = read_sweep(path, settings)
    console = Console()
    shown: list[int] = []

    def show(progress: SweepProgress) -> None:
        if console.is_terminal:
            live.update(Group(make_progress_table(progress), Text(describe_progress(progress))), refresh=True)
        elif not shown or shown[-1] != len(progress.finished) + len(progress.failed):
            shown.append(len(progress.finished) + len(progress.failed))
            console.print(describe_progress(progress), markup=False, highlight=False, soft_wrap=True)

    signals = StopSignals((signal.SIGINT, signal.SIGTERM))
    with Live(console=console, auto_refresh=False) as live, signals.watch():
        try:
            progress = run_sweep(sweep, workers or os.cpu_count() or 1, show)
        except Stopped as stopped:
            message = f"Stopped. Finished runs are in `{sweep.results}`; the same command makes the others."
            raise Stopped(stopped.signal_number, message) from None
        except OSError as error:
            if not is_disk_fault(error):
                raise
            raise SweepError(
                f"`{error.filename}` cannot be written: {error.strerror}. Runs that were finished before are kept. "
                "Free some space; the same command makes the others."
            ) from error
        if console.is_terminal:
            live.update(Text(describe_progress(progress)), refresh=True)
    if progress.failed:
        (method, mix_ratio, seed), reason = next(iter(progress.failed.items()))
        raise SweepError(
            f"{len(progress.failed)} of {len(progress.runs)} runs failed; the first is `{method}` at mix ratio "
            f"{mix_ratio:g}, seed {seed}: {reason.rstrip('.')}. The others are in `{sweep.results}`. The same command "
            "tries the failed ones again."
        )
    console.print(f"Results: `{sweep.results}`. See: mixcd frontier {sweep.results}", markup=False, soft_wrap=True)


def make_progress_table(progress: SweepProgress) -> Table:
    """Show how many runs of each method are finished, at each mix ratio."""
    wanted = Counter(run[:2] for run in progress.runs)
    finished = Counter(run[:2] for run in progress.finished)
    mix_ratios = sorted({mix_ratio for _, mix_ratio in wanted})
    table = Table("method", *(f"β {mix_ratio:g}" for mix_ratio in mix_ratios))
    for method in dict.fromkeys(method for method, _ in wanted):
        cells = [
            f"{finished[method, mix_ratio]} / {wanted[method, mix_ratio]}" if (method, mix_ratio) in wanted else ""
            for mix_ratio in mix_ratios
        ]
        table.add_row(escape(method), *cells)
    return table


def describe_progress(progress: SweepProgress) -> str:
    """Say how far a sweep is, in one line.

    Example:
        >>> runs = [("uniform", 0.25, seed) for seed in range(4)]
        >>> describe_progress(SweepProgress(runs, {runs[0], runs[1]}, seconds=[30.0, 40.0], workers=2))
        '2 of 4 runs finished, about 35 s left'
    """
    left = progress.seconds_left
    time = "" if not left else f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
    failed = f", {len(progress.failed)} failed" if progress.failed else ""
    return f"{len(progress.finished)} of {len(progress.runs)} runs finished{failed}{time}"
