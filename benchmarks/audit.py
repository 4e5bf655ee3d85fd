"""The audit: free damage rates against those of extra inference, over several seeds.

    python benchmarks/audit.py tweets newsgroups_r8 --seeds 100 101 102 103 104
    python benchmarks/audit.py tweets --lane slow_lane --every 10

Smoothed counts in 10 bins of prior loss, β = 1/8. A probe predicts 200 uniformly drawn prior samples every few steps;
it changes nothing in training. Reported over seeds: the mean absolute error of the free rates, what chance alone
would leave of it, the bias (dropout raises it, recent rehearsal lowers it), the rank correlation over bins, and how
much the rates of both change from window to window.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from mixcd.edge.bench.sweep.find_task import load_function
from mixcd.edge.bench.sweep.sweep_run import make_plain_trainer, trainer_arguments
from mixcd.ideas.probe import Probe
from mixcd.run.rehearsal_loop.audit import Audit
from mixcd.run.trainer.attach import attach
from mixcd.words.files import replace_file

HERE = Path(__file__).parent
MIX_RATIO = 1 / 8
PROBED = 200
QUANTITIES = ("error", "noise", "bias", "rank_correlation", "free_change", "probed_change")


def audit(lane: str, task_name: str, seed: int, every: int) -> Audit:
    """Train once with a probe, and compare."""
    folder = HERE / "work" / f"{lane.removesuffix('_lane')}-{task_name}" / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    task = load_function(f"{HERE / 'tasks' / lane}.py:{task_name}")(seed, folder)
    trainer = make_plain_trainer(task, {}, trainer_arguments(task, folder, {}, int(task.training["max_steps"]), seed))
    rehearsal = attach(
        trainer,
        task.prior,
        mix_ratio=MIX_RATIO,
        estimator="counts",
        cache_dir=folder / "cache-plain-64",
        features=64,
        probe=Probe(PROBED, every),
        seed=seed,
    )
    trainer.train()
    return rehearsal.audit()


def main(arguments: Sequence[str]) -> None:
    """Audit, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help="functions of the lane's file, such as tweets")
    parser.add_argument("--lane", default="fast_lane", help="fast_lane or slow_lane")
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102, 103, 104])
    parser.add_argument("--every", type=int, default=2, help="steps from one probing to the next")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for task in given.tasks:
        audits = [audit(given.lane, task, seed, given.every) for seed in given.seeds]
        found = {name: [getattr(one, name) for one in audits] for name in QUANTITIES}
        path = HERE / "results" / f"audit-{given.lane.removesuffix('_lane')}-{task}.json"
        with replace_file(path) as unfinished:
            unfinished.write_text(json.dumps(found), "utf-8")
        print(f"\n{task}, {given.lane}, {len(audits)} seeds: mean ± 95 % t interval")
        for name, values in found.items():
            half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
            print(f"  {name.replace('_', ' '):18} {np.mean(values):+.3f} ± {half:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
