"""The package's extras: what each brings, and what to run when something of it is missing."""

from importlib.util import find_spec

from mixcd.words.errors import MissingExtraError

EXTRAS = {"cli": ("rich", "tomli_w", "typer"), "bench": ("plotly",)}
"""Some of it comes with other packages, too, so each package is looked for."""


def require_extra(extra: str, what: str) -> None:
    """Refuse what needs an extra that is not installed; nothing is imported.

    Example:
        >>> require_extra("cli", "The command line")
    """
    missing = next((name for name in EXTRAS[extra] if find_spec(name) is None), None)
    if missing is not None:
        raise MissingExtraError(
            f"{what} needs the package `{missing}`, which is not installed. Run `pip install 'mixcd[{extra}]'`."
        )
