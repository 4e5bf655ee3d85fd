"""The code that the pages show: blocks, command lines, and what is said to be printed."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_NUMBER = re.compile(r"[+−-]?\d[\d.,]*(?:e[+-]?\d+)?")


def name_of(page):
    return str(page.relative_to(ROOT))


def list_blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def run_page(page, names, prepare=dict):
    """Execute a page's Python blocks in one namespace; `prepare` makes what each block takes for granted, anew."""
    for number, block in enumerate(list_blocks(page, "python"), start=1):
        names.update(prepare())
        exec(compile(block, f"{name_of(page)}, block {number}", "exec"), names)  # noqa: S102


def list_commands(page):
    """The command lines of `mixcd` on a page, in console blocks or indented ones, as lists of words after `mixcd`."""
    lines = [line for block in list_blocks(page, "console") for line in block.splitlines()]
    lines += re.findall(r"^ {4}mixcd .*$", page.read_text("utf-8"), re.MULTILINE)
    parts = [part for line in lines for part in re.split(r" && | > ", line)]
    words = [shlex.split(part, comments=True) for part in parts]
    return [one[one.index("mixcd") + 1 :] for one in words if "mixcd" in one]


def mask(text):
    """A text without its numbers and line breaks: what stays the same from machine to machine."""
    return " ".join(_NUMBER.sub("#", text).split())
