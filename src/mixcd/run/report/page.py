"""The page of a report: what it shows, as values, and how they become one HTML file."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from mixcd.run.report.shown_text import show_text
from mixcd.words.files import replace_file, require_free

_MOST_IN_SENTENCES = 2000


@dataclass(frozen=True)
class Share:
    """A share with its interval, drawn as a bar behind its number.

    Args:
        value: The share, from 0 to 1.
        interval: Its bounds; None where the samples are too few.
        scale: The share at which the bar fills its cell.
    """

    value: float
    interval: tuple[float, float] | None
    scale: float = 1.0

    def __str__(self) -> str:
        bounds = "" if self.interval is None else f" ({100 * self.interval[0]:.1f}–{100 * self.interval[1]:.1f})"
        return f"{100 * self.value:.1f} %{bounds}"

    def place(self, share: float) -> float:
        """Return where a share lies on the bar, in percent of its length.

        Example:
            >>> Share(0.1, None, scale=0.4).place(0.1)
            25.0
        """
        return round(100 * min(share / self.scale, 1.0), 2) if self.scale > 0 else 0.0


@dataclass(frozen=True)
class Marked:
    """A text with marked parts, which brackets and a line under them set off.

    Args:
        pieces: Its parts in their order: the second, the fourth and so on are marked.
    """

    pieces: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        rows: Their cells; texts are shown as they are, made inert.
        text_columns: How many columns, from the left, are words: the others are numbers.
        is_searchable: Whether its rows can be filtered by what is typed.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | Share | Marked]]
    text_columns: int = 1
    is_searchable: bool = False
    is_folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture that is read without script.

    Args:
        description: What it shows, for readers who do not see it.
    """

    svg: Markup
    description: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        reading: How to read it, in place.
        remarks: Sentences below.
    """

    title: str
    reading: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A report.

    Args:
        verdict: What was found, in one sentence.
        facts: Settings and provenance, name by name.
    """

    title: str
    verdict: str
    remarks: Sequence[str]
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]]


def render_page(page: Page) -> str:
    """Render a report as HTML that needs no network and runs nothing but its own script.

    Example:
        >>> "&lt;script&gt;" in render_page(Page("t", "<script>", (), (), ()))
        True
    """
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(page=page, style=Markup(_read("page.css")), script=Markup(script), digest=digest)  # noqa: S704


def write_page(page: Page, path: str | Path, *, overwrite: bool) -> None:
    """Write a report, whole or not at all.

    Raises:
        SettingError: If there is a file and it may not be replaced, or no folder to write to.
    """
    require_free([path], "a report", overwrite=overwrite)
    with replace_file(Path(path)) as unfinished:
        unfinished.write_text(render_page(page), "utf-8")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = show_text
    environment.filters["sentence"] = _show_sentence
    return environment.from_string(_read("page.html"))


def _show_sentence(text: str) -> Markup:
    """A sentence, with what stands between backticks as code: the names in it are the user's, so they are escaped."""
    escaped = str(escape(show_text(text, _MOST_IN_SENTENCES)))
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", escaped))  # noqa: S704


def _read(name: str) -> str:
    return files("mixcd.run.report").joinpath(name).read_text("utf-8")
