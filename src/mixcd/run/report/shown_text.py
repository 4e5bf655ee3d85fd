"""Shown text: a user's text as a page may show it, with nothing in it that acts on the page."""

import re

MOST_SHOWN = 400
"""Characters of a text that a report shows."""

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of text
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"  # halves of pairs, and what is no character
)


def show_text(text: str, most: int = MOST_SHOWN) -> str:
    """Return a text as a report shows it: short, with every invisible control character made visible.

    Markup is not escaped here: the page's template escapes whatever it is given.

    Args:
        most: Characters that are kept; a longer text ends in an ellipsis.

    Example:
        >>> show_text("a" + chr(0) + "b" + chr(0x202E) + "c")
        'a⟨U+0000⟩b⟨U+202E⟩c'
        >>> show_text("word" * 1000, most=6)
        'wordwo…'
    """
    start = text if len(text) <= most else text[:most] + "…"
    return _CONTROLS.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", start)
