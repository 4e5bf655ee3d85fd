"""Imports and runs every public name with what `pip install mixcd` brings, and nothing else. `make test-wheel`."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import mixcd

EXTRAS = ("plotly", "tomli_w", "peft", "trl")


class Sign(torch.nn.Module):
    """Says whether a number is above a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(threshold))
        self.head = torch.nn.Linear(2, 2)
        torch.nn.init.eye_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, x, labels=None):
        logits = self.head(torch.stack([self.threshold - x, x - self.threshold], -1))
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def collate(rows):
    return {"x": torch.tensor([row["x"] for row in rows]), "labels": torch.tensor([row["label"] for row in rows])}


def make_rows(low, high):
    return [{"x": float(x), "label": int(x > 0), "kind": "ab"[x % 2]} for x in range(low, high)]


def run_each(folder):
    """Return what was run, by public name."""
    from transformers import Trainer, TrainingArguments

    prior, new = make_rows(-50, 50), make_rows(-20, 20)
    partition = mixcd.ByPriorLoss(4) * mixcd.ByColumn("kind")
    predictions = mixcd.predict_prior(Sign(0.5), prior, folder / "cache", collate_fn=collate, progress=False)
    arguments = TrainingArguments(
        str(folder / "run"),
        max_steps=4,
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    trainer = Trainer(Sign(0.5), arguments, train_dataset=new, data_collator=collate)
    settings = {"mix_ratio": 0.25, "partition": partition}
    attached = mixcd.attach(trainer, prior, held_out=prior, probe=mixcd.Probe(8, every=2), **settings)
    trainer.train()
    attached.report(folder / "run.html")
    model = Sign(0.5)
    by_hand = mixcd.rehearse(model, new, prior, folder / "own", batch_size=8, collate_fn=collate, **settings)
    for batch in by_hand.loader():
        with by_hand.observe(model, batch) as inputs:
            loss = model(**inputs)["loss"]
        loss.backward()
        by_hand.commit()
    comparison = mixcd.compare(Sign(0.5), Sign(10.5), prior, collate_fn=collate)
    mixcd.write_report(comparison, folder / "what-broke.html")
    bins = by_hand.partition
    return {
        "__version__": mixcd.__version__,
        "attach": attached.evaluate(),
        "ByColumn": partition,
        "ByFeatures": mixcd.ByFeatures(4),
        "ByPriorLoss": partition,
        "CollateralDamageEstimator": issubclass(mixcd.CountEstimator, mixcd.CollateralDamageEstimator),
        "Combined": partition,
        "compare": comparison,
        "Comparison": isinstance(comparison, mixcd.Comparison),
        "CountEstimator": mixcd.CountEstimator(bins, predictions.base_correct).init(),
        "Counts": mixcd.Counts(discount=0.98).bind(bins, predictions).init(),
        "Drift": mixcd.Drift(ridge=1.0),
        "DriftEstimator": mixcd.DriftEstimator(
            np.zeros((4, 2), np.float16),
            np.zeros((4, 3), np.float16),
            np.zeros(4, np.int64),
            np.ones(4, dtype=bool),
        ).init(),
        "EachToken": mixcd.EachToken(is_shifted=True),
        "EstimatorSettings": issubclass(mixcd.Counts, mixcd.EstimatorSettings),
        "Factored": mixcd.Factored().bind(bins, predictions).init(),
        "FactoredEstimator": mixcd.FactoredEstimator((bins,), predictions.base_correct).init(),
        "judge_damage": mixcd.judge_damage(comparison),
        "judge_rehearsal": mixcd.judge_rehearsal(comparison),
        "Ledger": mixcd.Ledger,
        "make_ledger": mixcd.make_ledger,
        "NearTarget": mixcd.NearTarget(0.5),
        "Paper": mixcd.Paper().bind(bins, predictions).init(),
        "PartitionStrategy": isinstance(partition, mixcd.PartitionStrategy),
        "predict_prior": predictions,
        "Probe": mixcd.Probe(8),
        "rehearse": by_hand.counts,
        "RehearsalError": mixcd.RehearsalError("said"),
        "RightClass": mixcd.RightClass(),
        "RightLabels": mixcd.RightLabels(),
        "RightSpan": mixcd.RightSpan(),
        "RightTokens": mixcd.RightTokens(0.7),
        "Uniform": mixcd.Uniform().bind(bins, predictions).init(),
        "write_report": folder / "what-broke.html",
    }


def main():
    if not Path(mixcd.__file__).is_relative_to(sys.prefix):
        sys.exit(f"This mixcd is not installed here, but lies in {Path(mixcd.__file__).parent}.")
    there = [name for name in EXTRAS if importlib.util.find_spec(name)]
    if there:
        sys.exit(f"This environment is not bare: it has {', '.join(there)}.")
    importlib.import_module("mixcd.testing")
    with tempfile.TemporaryDirectory() as folder:
        done = run_each(Path(folder))
    missing = sorted(set(mixcd.__all__) ^ set(done))
    if missing:
        sys.exit(f"Not run: {', '.join(missing)}.")
    sweep = "from mixcd.edge.cli import run; run(['sweep', 'sweep.toml'])"  # transformers brings typer and rich
    for extra, *arguments in (("cli", "-m", "mixcd", "--help"), ("bench", "-c", sweep)):
        told = subprocess.run([sys.executable, "-I", *arguments], capture_output=True, text=True, check=False)
        if told.returncode != 2 or f"pip install 'mixcd[{extra}]'" not in told.stderr or told.stderr.count("\n") != 1:
            sys.exit(f"Without the extra `{extra}` `mixcd` exits {told.returncode} and says: {told.stderr}")
    sys.stdout.write(f"{len(done)} public names ran without extras.\n")


if __name__ == "__main__":
    main()
