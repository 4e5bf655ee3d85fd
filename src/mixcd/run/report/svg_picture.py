"""Pictures as SVG markup whose colours are the page's own, so that they follow light, dark and print."""

import io
import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, RULE, PAPER = "#000001", "#000002", "#000003", "#000004"
SERIES = ("#000011", "#000012", "#000013", "#000014")
"""Stand for the page's colours; more series are told apart by markers and line styles."""
_NAMES = ("--ink", "--soft", "--rule", "--paper", "--one", "--two", "--three", "--four")
_VARIABLES = dict(zip((INK, SOFT, RULE, PAPER, *SERIES), _NAMES, strict=True))
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), SOFT),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
    **dict.fromkeys(("text.parse_math", "axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
}
WIDTH, HEIGHT = 4.9, 3.3
"""Inches at 72 points: read at that size on a phone, grown on wider screens."""


def draw_svg(name: str, draw: Callable[[Axes], None], *, height: float = HEIGHT) -> Markup:
    """Draw a picture.

    Args:
        name: Letters that no other picture of the page has: its parts are told apart by it.
        draw: Draws on the axes, in `INK`, `SOFT`, `RULE` and `SERIES` only.
        height: In inches.

    Returns:
        SVG markup without script, style sheet or link.
    """
    with rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = re.sub(r"<(metadata|style).*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#0000[01][1-4]", lambda found: f"var({_VARIABLES[found[0]]})", text)
    text = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        r'<svg \1 xmlns="http://www.w3.org/2000/svg" aria-hidden="true">',
        text,
        count=1,
    )
    return Markup(text.replace("xlink:href", "href"))  # noqa: S704 (matplotlib escapes the texts that it is given)
