"""What the docs name exists."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from mixcd.edge.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_tests_and_scripts_exist(page):
    for name in re.findall(r"`(?:python )?((?:tests|benchmarks)/[\w/]+\.py)(?:::(\w+))?", page.read_text("utf-8")):
        path, test = name
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text("utf-8"), test


def test_the_paper_map_names_code_that_exists():
    rows = [line for line in (ROOT / "docs" / "paper-map.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`(\w+\.\w+)`", row.split("|")[2])]
    assert len(named) > 15
    for name in named:
        module, attribute = name.split(".")
        assert hasattr(importlib.import_module(f"mixcd.{module}"), attribute), name


def test_every_open_choice_has_its_page():
    pages = {path.stem for path in (ROOT / "docs" / "decisions").glob("*.md")}
    assert {"smoothing", "denominator", "window", "factors", "correctness", "lag"} <= pages


def test_the_generated_pages_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for path, text in generate.make_pages().items():
        assert path.read_text("utf-8") == text, f"run `python docs/generate.py`: {path.name} is out of date"


def test_every_command_is_documented():
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert {name for name in commands if f"## `mixcd {name}`" in page} == commands
