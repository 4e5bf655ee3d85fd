"""`mixcd` and `python -m mixcd`."""

import sys
from importlib.util import find_spec

_NEEDED = ("plotly", "rich", "tomli_w", "typer")
"""What the extra `cli` brings; some of it comes with other packages, too, so each is looked for."""


def main() -> None:
    """Run the command line, or say what to install for it."""
    missing = next((name for name in _NEEDED if find_spec(name) is None), None)
    if missing is not None:
        sys.stderr.write(
            f"The command line needs the package `{missing}`, which is not installed. Run `pip install 'mixcd[cli]'`.\n"
        )
        raise SystemExit(2)
    from mixcd.edge.cli import run

    run()


if __name__ == "__main__":
    main()
