"""The part of `docs/support.md` on the example scripts, of what `benchmarks/example_scripts.py` found."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "example_scripts.json"

PART = """
## The example scripts of transformers and TRL

`python benchmarks/example_scripts.py FOLDER` takes the scripts as they are and adds `import mixcd` and, before
`trainer.train`, the line below. Each trains on the processor, offline, on data files and a tiny model, which it trained
itself on the prior task before; metrics are local folders. *exact*: it ran to its end, each of its 6 steps of 2
micro-batches had 4 prior rows among 16 (of packed rows, a quarter of the tokens was prior over the run, to within those
of one row), and there was one forward pass a micro-batch. Damage of texts is by token, so it is a sum of shares.
transformers' scripts are of {release}, the nearest release that could be had; TRL's lies
in the installed package, and
`make test` runs it, too. Installed: {versions}.

| script | its own settings | the added line | result | rehearsed, damaged |
|---|---|---|---|---|
{rows}
"""


def show_examples() -> str:
    """Return the part: a row for each script."""
    found = json.loads(RESULTS.read_text("utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    rows = "\n".join(map(_show, found["outcomes"]))
    return PART.format(release=found["release"], versions=versions, rows=rows)


def _show(outcome: dict[str, Any]) -> str:
    result = outcome["fault"].replace("|", "\\|") or "exact"
    seen = "–" if outcome["observed"] is None else f"{outcome['observed']}, {outcome['damaged']:g}"
    settings = f"`{outcome['settings']}`" if outcome["settings"] else "–"
    kind = f", {outcome['kind']}" if outcome["kind"] else ""
    return f"| `{outcome['script']}`{kind} | {settings} | `{outcome['attach_line']}` | {result} | {seen} |"
