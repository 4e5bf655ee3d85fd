"""Seconds until `mixcd --help` and `mixcd train --dry-run` are done: `python benchmarks/startup.py`."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 7
CONFIG = """\
run = "run"
model.path = "base"
new.path = "new.csv"
prior = [{ path = "old.csv" }]
rehearsal.mix_ratio = 0.25
training.max_steps = 10
"""


def measure(arguments, folder):
    """Run a command a few times; return the seconds of each run but the first, which fills the page cache."""
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mixcd", *arguments], cwd=folder, check=True, capture_output=True)  # noqa: S603
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main():
    """Measure both commands, and print median and range."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "config.toml").write_text(CONFIG)
        for arguments in (("--help",), ("train", "config.toml", "--dry-run")):
            seconds = measure(arguments, folder)
            middle = statistics.median(seconds)
            print(f"mixcd {' '.join(arguments)}: {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
