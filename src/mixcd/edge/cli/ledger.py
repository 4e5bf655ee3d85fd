"""`mixcd ledger`: what a chain of runs kept of each task."""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixcd.edge.stages.ledger import Ledger
from mixcd.edge.stages.run_ledger import read_ledger
from mixcd.words.errors import plain_name


def show_ledger(run: Path, *, as_json: bool) -> None:
    """Print the ledger of a chain of runs, whose last one is in this folder."""
    ledger = read_ledger(run)
    summary = {
        "average": ledger.average,
        "backward_transfer": ledger.backward_transfer,
        "forgetting": ledger.forgetting,
    }
    if as_json:
        scores = [[None if score != score else float(score) for score in row] for row in ledger.scores]
        by_token = {"scored_by": "token"} if ledger.is_by_token else {}
        told = {"tasks": list(ledger.task_names), "scores": scores, **summary, **by_token}
        sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=1) + "\n")
        return
    console = Console()
    console.print(_make_table(ledger))
    for name, value in summary.items():
        console.print(f"{name.replace('_', ' ')}: {'–' if value is None else f'{100 * value:.1f}'}", highlight=False)


def _make_table(ledger: Ledger) -> Table:
    scores = "token accuracies" if ledger.is_by_token else "scores"
    table = Table(title=Text(f"Held-out {scores} in % of each task, after each stage"), title_justify="left", box=None)
    table.add_column("after")
    for name in ledger.task_names:
        table.add_column(Text(plain_name(name)), justify="right")
    for number, scores in enumerate(ledger.scores):
        after = "the base model" if number == 0 else plain_name(ledger.task_names[number])
        table.add_row(Text(after), *("" if score != score else f"{100 * score:.1f}" for score in scores))
    return table
