"""`mixcd` and `python -m mixcd`."""

import sys

from mixcd.words.errors import MissingExtraError
from mixcd.words.extras import require_extra


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        require_extra("cli", "The command line")
    except MissingExtraError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    from mixcd.edge.cli import run

    run()


if __name__ == "__main__":
    main()
