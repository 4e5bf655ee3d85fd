"""Seconds until the command line and the library are there: `python benchmarks/startup.py [--checkout FOLDER]`.

With another checkout both are measured side by side, turn by turn, in this environment.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
COMMANDS = (
    ("-m", "mixcd", "--help"),
    ("-m", "mixcd", "train", "config.toml", "--dry-run"),
    ("-c", "import mixcd"),
    ("-c", "from mixcd import compare"),
)
CONFIG = """\
run = "run"
model.path = "base"
new.path = "new.csv"
prior = [{ path = "old.csv" }]
rehearsal.mix_ratio = 0.25
training.max_steps = 10
"""


def time_once(command, checkout, folder):
    """Run a command of a checkout's mixcd; return the seconds that it takes."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "PYTHONDONTWRITEBYTECODE": ""}
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, capture_output=True)  # noqa: S603
    return time.perf_counter() - start


def show(seconds):
    """Say median and range."""
    return f"{statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})"


def main():
    """Measure every command, and print median and range; of two checkouts, the ratio of the medians, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, help="another checkout to measure")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each command")
    chosen = parser.parse_args()
    checkouts = [HERE, *([chosen.checkout.resolve()] if chosen.checkout else [])]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "config.toml").write_text(CONFIG)
        for command in COMMANDS:
            seconds = {checkout: [] for checkout in checkouts}
            for number in range(chosen.runs + 1):
                for checkout in checkouts if number % 2 else checkouts[::-1]:
                    seconds[checkout].append(time_once(command, checkout, folder))
            own, *others = (one[1:] for one in seconds.values())  # the first run of each fills the page cache
            told = [show(own)]
            for other in others:
                told += [f"there {show(other)}", f"ratio {statistics.median(own) / statistics.median(other):.3f}"]
            print(f"python {' '.join(command)}: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
