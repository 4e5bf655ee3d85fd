"""What the docs name exists."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import mixcd
from mixcd.edge.cli import app
from mixcd.edge.demo.demo_result import HEADINGS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mixcd"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


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
    named = [name for row in rows for name in re.findall(r"`(\w+(?:\.\w+)+)`", row.split("|")[2])]
    assert len(named) > 20
    for name in named:
        module, attribute = name.rsplit(".", 1)
        assert hasattr(importlib.import_module(f"mixcd.{module}"), attribute), name


def list_tree():
    """The files and folders of the architecture's tree, each in the last folder above it that is indented less."""
    above = [(-1, ROOT)]
    for line in re.search(r"^```\n(src/mixcd/ .*?)^```", ARCHITECTURE, re.DOTALL | re.MULTILINE)[1].splitlines():
        if not line:
            continue
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        above = [(other, folder) for other, folder in above if other < indent]
        path = above[-1][1] / name
        above.append((indent, path))
        yield path, name.endswith("/")


def test_every_file_and_folder_named_in_the_tree_exists():
    tree = list(list_tree())
    assert len(tree) > 50
    for path, is_folder in tree:
        assert path.is_dir() if is_folder else path.is_file(), path


def test_every_folder_of_the_source_is_in_the_tree():
    assert {path.parent for path in SOURCE.rglob("__init__.py")} <= {path for path, _ in list_tree()}


def test_the_tables_of_the_architecture_name_what_exists():
    rows = "".join(line for line in ARCHITECTURE.splitlines() if line.startswith("| "))
    places = re.findall(r"`(\w+/[\w/.]+)`", rows)
    names = re.findall(r"`mixcd\.(\w+)`", rows)
    assert len(places) > 15
    assert len(names) > 10
    for place in places:
        assert (SOURCE / place).exists(), place
    assert set(names) <= set(mixcd.__all__)


def test_the_demos_table_has_its_columns():
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    table = next(line for line in page.splitlines() if line.startswith("| run |"))
    assert [cell.strip() for cell in table.strip("|").split("|")] == HEADINGS


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
