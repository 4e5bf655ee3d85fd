"""A hook of the site: links to files outside `docs/` become their text, for the site has no such pages."""

import posixpath
import re

_LINK = re.compile(r"\[([^\]\[]+)\]\(((?:\.\./)+[^)\s]*)\)")


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """Return a page's text without links that leave `docs/`.

    Args:
        markdown: The page's text.
        page: The page.

    Returns:
        The text; on GitHub, which does not run this, the links work as they are.
    """
    folder = posixpath.dirname(page.file.src_uri)

    def unlink(link: re.Match[str]) -> str:
        leaves = posixpath.normpath(posixpath.join(folder, link[2])).startswith("..")
        return link[1] if leaves else link[0]

    return _LINK.sub(unlink, markdown)
