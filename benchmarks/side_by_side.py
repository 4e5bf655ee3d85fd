"""What the benchmarks share: pairs of runs side by side, medians with ranges, and the machine they ran on."""

import argparse
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

Run = TypeVar("Run")


@dataclass(frozen=True)
class Spread:
    """The median and the range of some values.

    Args:
        median: The median.
        low: The smallest value.
        high: The largest value.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise values.

        Args:
            values: At least one.

        Returns:
            Their median and range.
        """
        return cls(float(np.median(values)), min(values), max(values))

    def show(self, digits: int = 3, unit: str = "") -> str:
        """Return the spread as text.

        Args:
            digits: Digits after the point.
            unit: Written after each number, with its own space if it needs one.

        Returns:
            For example "1.012 (range 0.998–1.020)".
        """
        median, low, high = (f"{value:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{median}{unit} (range {low}–{high})"


def run_pairs(first: Callable[[], Run], second: Callable[[], Run], pair_count: int) -> list[tuple[Run, Run]]:
    """Run two things side by side, swapping which one goes first from pair to pair.

    One more pair is run before all others, to warm up; its results are dropped.

    Args:
        first: Makes one run of the one thing.
        second: Makes one run of the other.
        pair_count: How many pairs to keep.

    Returns:
        The results of `first` and `second`, pair by pair.
    """
    pairs = []
    for number in range(pair_count + 1):
        if number % 2:
            right, left = second(), first()
        else:
            left, right = first(), second()
        pairs.append((left, right))
    return pairs[1:]


def describe_machine() -> dict[str, Any]:
    """Return the facts about this machine that timings depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
    }


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option that all benchmarks have.

    Args:
        description: The script's docstring.

    Returns:
        The parser; `--help` shows the whole docstring and every default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=_HelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures to this file")
    return parser


def publish(settings: argparse.Namespace, machine: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write the figures where `--json` says; without it, nothing is written.

    Args:
        settings: The parsed command line.
        machine: What `describe_machine` returned.
        figures: JSON values, by name.
    """
    if settings.json:
        chosen = {name: value for name, value in vars(settings).items() if name != "json"}
        text = json.dumps({"machine": machine, "settings": chosen, "figures": figures}, indent=1, default=vars)
        settings.json.write_text(text + "\n", "utf-8")


def say_machine(machine: dict[str, Any]) -> None:
    """Print the facts about the machine on one line.

    Args:
        machine: What `describe_machine` returned.
    """
    print("machine:", ", ".join(f"{name} {value}" for name, value in machine.items()))


def read_status(name: str) -> int:
    """Return a number of KiB that the system tells of this process.

    `VmHWM` is the peak of its resident memory; what `resource.getrusage` calls so begins with that of its parent.

    Args:
        name: The number's name in `/proc/self/status`.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    return int(found[1]) if found else 0


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the docstring's lines, and adds defaults."""
