"""The command line's commands."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mixcd import __version__
from mixcd.errors import RehearsalError

app = typer.Typer(
    name="mixcd",
    help="Fine-tune a model on a new task without losing what it already knows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def run() -> None:
    """Run the command line: a wrong request is one line on stderr and exit code 2."""
    try:
        app()
    except RehearsalError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Fine-tune a model on a new task without losing what it already knows."""
    if version:
        sys.stdout.write(f"mixcd {__version__}\n")
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the base model, the cache, the picture.")] = Path(
        "mixcd-demo"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run, under 2 minutes on 2 cores.")] = False,
    seed: Annotated[int, typer.Option(help="The seed of everything.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in the folder.")] = False,
) -> None:
    """Show forgetting, uniform rehearsal and mix-cd on real tweets, under 8 minutes on 2 cores."""
    from mixcd.demo import FULL, QUICK, run_demo
    from mixcd.demo_result import make_table

    console = Console()
    result = run_demo(output, QUICK if quick else FULL, seed, overwrite, console.print)
    console.print(make_table(result))
    console.print(
        f"The one prior pass, shared by uniform and mix-cd, took {result.prior_pass_forward_count} forward passes "
        f"more. Picture: {output / 'demo.png'}"
    )
    console.print(result.verdict)
