"""`mixcd` and `python -m mixcd`."""

import sys


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from mixcd.cli import run
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"The command line needs the package `{error.name}`, which is not installed. Run `pip install "
            "'mixcd[cli]'`.\n"
        )
        raise SystemExit(2) from error
    run()


if __name__ == "__main__":
    main()
