"""The site builds without a warning, needs no network, and its reference is complete."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mixcd

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*?\ssrc=[\"'](?:https?:)?//|<link\b[^>]*?\shref=[\"'](?:https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # Not with `--quiet`: warnings that are not shown are not counted by `--strict`.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_public_name_is_in_the_built_reference(site):
    pages = "".join(page.read_text("utf-8") for page in (site / "reference").glob("*.html"))
    for name in set(mixcd.__all__) - {"__version__"}:
        home = getattr(mixcd, name).__module__
        assert f'id="mixcd.{name}"' in pages or f'id="{home}.{name}"' in pages, name


def test_the_built_pages_load_nothing_from_the_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert not LOADED.search(page.read_text("utf-8")), page


def test_links_out_of_the_docs_folder_become_text(site):
    page = (site / "decisions" / "lift.html").read_text("utf-8")
    assert "figures in LOG.md" in page


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert set(re.findall(r"^::: mixcd\.(\w+)$", text, re.MULTILINE)) == set(mixcd.__all__) - {"__version__"}


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in navigation, page
