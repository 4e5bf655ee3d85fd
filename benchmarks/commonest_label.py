"""What each task's base model knows: its score on held-out prior rows against always saying their commonest label.

    python benchmarks/commonest_label.py

A base model that is no better has nothing that could be lost. Scores come from `results/fast-*.parquet`, the shares
of the labels from the same seeds' test halves.
"""

import json
import sys
from pathlib import Path

import numpy as np

from mixcd.edge.bench.sweep.sweep_results import read_results
from mixcd.words.files import replace_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "tasks"))

import task_data  # noqa: E402


def commonest_share(labels: np.ndarray) -> float:
    """Return the share of the commonest label in the second half of the rows, which is the test half."""
    test = labels[len(labels) // 2 :]
    return float(np.bincount(test).max() / len(test))


def main() -> None:
    """Measure, print, and write the results."""
    found = {}
    for path in sorted((HERE / "results").glob("fast-*.parquet")):
        scores = {row["seed"]: row["prior_before_test"] for row in read_results(path)}
        raw = getattr(task_data, path.stem.removeprefix("fast-"))()
        shares = [commonest_share(raw.prior.labels[raw.prior.split(seed)[1]]) for seed in scores]
        found[raw.name] = {"base_score": list(scores.values()), "commonest_share": shares}
        print(f"{raw.name:20} base {np.mean(found[raw.name]['base_score']):.3f}, commonest {np.mean(shares):.3f}")
    target = HERE / "results" / "commonest_label.json"
    with replace_file(target) as unfinished:
        unfinished.write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
