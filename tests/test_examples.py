"""Every script in `examples/` runs as it stands, and is short enough to be read at a glance."""

import ast
from pathlib import Path

import pytest

from forked import run_forked
from tiny_sft import make_model, make_rows, make_sft_trainer, make_tokenizer

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name not in ("toy.py", "film_reviews.py"))
MOST_LINES = 40


def run(script, *arguments):
    done = run_forked(script, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def code_lines(path):
    """Lines that say something: no blank ones, comments or docstrings."""
    text = path.read_text()
    documented = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return [line for number, line in lines if line.strip() and line.strip()[0] != "#" and number not in documented]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_short(script):
    assert len(code_lines(script)) <= MOST_LINES


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.stem != "with_sft"], ids=lambda path: path.stem)
def test_an_example_runs_and_rehearses(script, tmp_path):
    first_word = run(script, tmp_path / "cache").strip().splitlines()[-1].split()[0]
    assert int(first_word) > 50


def test_the_example_of_sft_runs_on_a_folder_with_a_chat_model(tmp_path):
    model, tokenizer = make_model(), make_tokenizer()
    rows = make_rows(100, "prior")
    make_sft_trainer(model, rows, tmp_path / "base", max_steps=60, assistant_only_loss=True).train()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    said = run(FOLDER / "with_sft.py", tmp_path / "model", tmp_path / "out").strip().splitlines()[-1]
    assert int(said.split()[0]) == 20 * 2
