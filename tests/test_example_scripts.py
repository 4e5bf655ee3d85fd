"""Example scripts of other libraries train with rehearsal when one line is added; TRL's lies in its package."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import trl.scripts.sft
from trl import SFTTrainer  # noqa: F401  (imported before the script's process is forked)

from forked import run_forked

ROOT = Path(__file__).parents[1]
FOLDERS = (ROOT / "benchmarks", ROOT / "docs")
SFT_KINDS = ("conversations", "text", "prompt and completion", "assistant only", "LoRA", "packing", "streaming")
EXACT = [[(8, 2), (8, 2)]] * 6


@pytest.fixture
def load(monkeypatch):
    """Import a module of `benchmarks/` or `docs/`, for this test."""
    monkeypatch.setattr(sys, "path", [*map(str, FOLDERS), *sys.path])
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "unknown").parent in FOLDERS:
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SFT_KINDS)
def test_trl_s_script_trains_with_the_exact_ratio(load, tmp_path, kind):
    scripts, running = load("example_scripts"), load("example_run")
    (example,) = [example for example in scripts.EXAMPLES if (example.script, example.kind) == ("sft.py", kind)]

    def run(script, arguments, folder, env):
        return run_forked(script, *arguments, cwd=folder, env=env)

    script = scripts.find_script("sft.py")
    assert script == Path(trl.scripts.sft.__file__)
    outcome = running.run_example(example, script, tmp_path, run)
    assert outcome.fault == ""
    assert outcome.observed == 6 * 4 or example.by_tokens


def test_one_import_and_one_line_are_added_besides_the_check(load):
    add_lines = load("example_run").add_lines
    code = '"""Trains."""\nimport os\n\ndef main():\n    result = trainer.train(resume_from_checkpoint=None)\n'
    assert add_lines(code, "rehearsal = mixcd.attach(trainer, prior)").splitlines() == [
        '"""Trains."""',
        "import mixcd",
        "import example_check",
        "import os",
        "",
        "def main():",
        "    rehearsal = mixcd.attach(trainer, prior)",
        "    trainer.add_callback(example_check.Watch(trainer, rehearsal))",
        "    result = trainer.train(resume_from_checkpoint=None)",
    ]
    with pytest.raises(SystemExit, match="calls `trainer.train` 0 times"):
        add_lines("import os\n", "")


@pytest.mark.parametrize(
    ("steps", "forward_count", "part"),
    [
        (EXACT, 12, ""),
        ([[(8, 3), (8, 2)], *EXACT[1:]], 12, r"Rows and prior rows of its steps: \[\(16, 5\)"),
        (EXACT[1:], 10, "Rows and prior rows"),
        (EXACT, 13, "12 forward passes, 13 of them counted, in 12 micro-batches"),
        ([[(4, 1)] * 4, *EXACT[1:]], 14, "14 forward passes"),
    ],
)
def test_a_share_that_is_not_exact_and_a_pass_too_many_are_found(steps, forward_count, part, load):
    running = load("example_run")
    fault = running.find_row_fault(steps) or running.find_pass_fault(steps, forward_count)
    assert bool(fault) == bool(part)
    assert re.search(part, fault)


@pytest.mark.parametrize(
    ("steps", "part"),
    [
        ([[(200, 20), (200, 60)], [(210, 90), (190, 60)]] * 3, "Tokens and prior tokens"),  # 690 of 2,400: 90 too many
        ([[(200, 20), (200, 60)], [(210, 70), (190, 60)]] * 3, ""),  # 630: 30 too many
        ([[(200, 20), (200, 80)]] * 5, "Tokens and prior tokens"),
    ],
)
def test_a_share_of_tokens_may_be_off_by_one_row(steps, part, load):
    fault = load("example_run").find_token_fault(steps)
    assert bool(fault) == bool(part)
    assert re.search(part, fault)


def test_the_page_shows_what_was_found_with_every_script(load):
    page = (ROOT / "docs" / "support.md").read_text("utf-8")
    assert load("example_table").show_examples() in page
    for example in load("example_scripts").EXAMPLES:
        assert f"| `{example.script}`{example.kind and f', {example.kind}'} | " in page
        assert f"| `{example.attach_line}` | " in page
