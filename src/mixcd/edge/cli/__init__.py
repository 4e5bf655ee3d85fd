"""The command line's commands."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

from mixcd.edge.train.stop_signals import Stopped
from mixcd.words.errors import (
    WRONG_PLACE,
    RehearsalError,
    SettingError,
    SweepError,
    end_sentence,
    nearest_name,
    plain_name,
)
from mixcd.words.extras import require_extra
from mixcd.words.version import __version__

FAILED, WRONG_REQUEST, TOO_DAMAGED, INTERRUPTED = 1, 2, 3, 130
_FORMATS = ("table", "json")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

app = typer.Typer(
    name="mixcd",
    help="Fine-tune a model on a new task without losing what it already knows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML config; `mixcd init` writes one.")]
Bins = Annotated[list[str], typer.Option(help='"loss:10", "column:NAME" or "features:10"; repeat to combine.')]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as training.learning_rate=1e-4; repeatable."),
]


def _require_format(name: str) -> str:
    if name not in _FORMATS:
        raise SettingError(end_sentence(f"`--format` is `{name}`, which is not a format{nearest_name(name, _FORMATS)}"))
    return name


def _column(what: str) -> Any:
    return typer.Option(metavar="COLUMN", help=what)


OutputFormat = Annotated[str, typer.Option("--format", callback=_require_format, help="table or json.")]


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit.

    A wrong request is one line on stderr and exit code 2; a run that failed, 1; one that a signal stopped,
    128 and the signal's number.

    Args:
        arguments: The command's arguments; those of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        code = app([argument for argument in given if argument != "--debug"], prog_name="mixcd", standalone_mode=False)
    except Stopped as stopped:
        _exit(128 + stopped.signal_number, str(stopped))
    except TyperException as error:
        message = error.format_message().rstrip(".") or "No command is named"  # Typer showed the help
        _exit(WRONG_REQUEST, f"{message}{'' if message.endswith('?') else '.'} See `mixcd --help`.")
    except Exception as error:
        if debug:
            traceback.print_exc()
        _exit(*_explain(error))
    if code == INTERRUPTED:
        _exit(INTERRUPTED, "Stopped.")
    raise SystemExit(code)


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line that tell of an error."""
    if isinstance(error, RehearsalError):
        return FAILED if isinstance(error, SweepError) else WRONG_REQUEST, str(error)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return FAILED, (
            f"{_name_of(error)} cannot be written: {error.strerror}. What was written before is kept. Free some space, "
            "and go on with `--resume`."
        )
    if isinstance(error, OSError) and error.errno in WRONG_PLACE:
        return WRONG_REQUEST, (
            f"{_name_of(error)} cannot be used: {error.strerror}. Choose a place that can be read and written."
        )
    what = f"{type(error).__name__}: {error}".rstrip(".")
    return FAILED, f"Internal fault, {what}. Run the command again with `--debug` for the traceback, and report it."


def _name_of(error: OSError) -> str:
    return f"`{error.filename}`" if error.filename else "A file"


def _exit(code: int, line: str) -> None:
    rank = os.environ.get("RANK", "0")
    line = " ".join(plain_name(line).split())  # names may hold anything
    sys.stderr.write(f"{line}\n" if rank == "0" else f"[process {rank}] {line}\n")
    raise SystemExit(code)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback; also after a command.")] = False,
) -> None:
    """Fine-tune a model on a new task without losing what it already knows."""
    del debug  # `run` reads it, so that it may stand anywhere
    if version:
        sys.stdout.write(f"mixcd {__version__}\n")
        raise typer.Exit


@app.command()
def init(
    model: Annotated[str, typer.Option(help="The base model: a folder or a hub name.")],
    new: Annotated[str, typer.Option(help="The new task's data: a file, a folder or a hub name.")],
    prior: Annotated[list[str], typer.Option(help="The prior task's data; repeatable.")],
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The file to write.")] = Path("mixcd.toml"),
    run: Annotated[str, typer.Option(help="The folder of the run.")] = "runs/first",
) -> None:
    """Write a commented starter config for your files."""
    from mixcd.edge.cli.init import write_starter_config
    from mixcd.edge.quiet import quiet_libraries

    with quiet_libraries():
        write_starter_config(config, model=model, new=new, prior=prior, run=run)
    Console().print(f"Wrote `{config}`. Look it over, then: mixcd train {config}", soft_wrap=True, highlight=False)


@app.command()
def train(
    config: ConfigPath,
    setting: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in the folder first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the resolved config, no more.")] = False,
) -> None:
    """Fine-tune the base model on new data, rehearsing the prior data that it is losing."""
    from mixcd.edge.config.config import read_config, render

    resolved = read_config(config, setting or [])
    if dry_run:
        from mixcd.edge.train.arguments import resolve_arguments

        resolve_arguments(resolved)
        sys.stdout.write(render(resolved))
        return
    from mixcd.edge.quiet import quiet_libraries
    from mixcd.edge.train.training_run import run_training

    with quiet_libraries():
        run_training(resolved, resume=resume, overwrite=overwrite, say=_say)


@app.command()
def predict(
    config: ConfigPath,
    setting: Settings = None,
    share: Annotated[float | None, typer.Option(help="Predict only this share of the prior samples.")] = None,
) -> None:
    """Make the prior pass alone: cache what the base model predicts for the prior data."""
    from mixcd.edge.cli.predict import predict_prior_data
    from mixcd.edge.config.config import read_config
    from mixcd.edge.quiet import quiet_libraries

    with quiet_libraries():
        predict_prior_data(read_config(config, setting or []), share, _say)


@app.command()
def partition(
    cache: Annotated[Path, typer.Argument(help="A prediction cache: the folder `cache` of a run.")],
    by: Bins = ["loss:10"],  # noqa: B006
) -> None:
    """Show what a partition makes of a prediction cache: sizes, mean loss, share right."""
    from mixcd.edge.cli.partition import make_partition_table

    Console().print(make_partition_table(cache, by))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    model: Annotated[Path | None, typer.Option(help="The model to judge; the run's own by default.")] = None,
    output: Annotated[Path | None, typer.Option(help="A new folder for evaluation.json and damaged.parquet.")] = None,
) -> None:
    """Compare a fine-tuned model with its base model on the run's held-out data."""
    from mixcd.edge.cli.evaluate import evaluate_run
    from mixcd.edge.quiet import quiet_libraries

    with quiet_libraries():
        _say(str(evaluate_run(run, model, output)))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="The file; report.html there by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a run's report, one HTML file, from its folder alone; `mixcd train` does so at its end."""
    from mixcd.run.outcome.run_folder import RunFolder
    from mixcd.run.report.page import write_page
    from mixcd.run.report.run_findings import read_findings
    from mixcd.run.report.run_page import make_run_page

    folder = RunFolder(run)
    write_page(make_run_page(read_findings(folder)), output or folder.report, overwrite=overwrite)
    _say(f"Wrote `{output or folder.report}`.")


@app.command()
def compare(
    base: Annotated[str, typer.Argument(help="The base model: a folder or a hub name.")],
    tuned: Annotated[str, typer.Argument(help="The fine-tuned model, likewise; or a folder with a LoRA adapter.")],
    data: Annotated[list[str], typer.Option(help="Prior samples: a file, a folder or a hub name; repeatable.")],
    split: Annotated[str | None, typer.Option(help="Which split of a folder or hub data set.")] = None,
    subset: Annotated[str | None, typer.Option(help="Which subset of it.")] = None,
    text: Annotated[str | None, _column('The texts; by default "text".')] = None,
    text_pair: Annotated[str | None, _column("The second texts of pairs.")] = None,
    label: Annotated[str | None, _column('The labels; by default "label".')] = None,
    question: Annotated[str | None, _column('The questions; by default "question".')] = None,
    context: Annotated[str | None, _column('Where their answers are; by default "context".')] = None,
    answers: Annotated[str | None, _column('The answers, as in SQuAD; by default "answers".')] = None,
    source: Annotated[str | None, _column('The source texts; by default "source".')] = None,
    target: Annotated[str | None, _column('The target texts; by default "target".')] = None,
    column: Annotated[list[str] | None, typer.Option(help="A column to break damage down by; all by default.")] = None,
    cache: Annotated[Path | None, typer.Option(help="The base model's prediction cache of these samples.")] = None,
    tolerance: Annotated[
        float, typer.Option(help="The damaged share that is tolerated; of texts, the mean damage by token.")
    ] = 0.01,
    choices: Annotated[int | None, typer.Option(help="Choices per question: what guessing loses is taken off.")] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Exit 3 if the damaged share, at its lower bound, is above.", min=0, max=1),
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="The most tokens of a sample.", min=1)] = None,
    assistant_only_loss: Annotated[
        bool, typer.Option("--assistant-only-loss", help="In conversations judge only what the assistant says.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Rows a batch at the longest length.", min=1)] = 32,
    least_share: Annotated[
        float | None, typer.Option(help="τ: judge whole samples, right with this share of their target tokens right.")
    ] = None,
    loss_tolerance: Annotated[
        float | None,
        typer.Option(help="δ: judge whole samples, right up to a loss of the base model's plus this, in nats a token."),
    ] = None,
    near: Annotated[
        float | None, typer.Option(help="How far off a right number may be, in label units.", min=0)
    ] = None,
    output_format: OutputFormat = "table",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JSON, too.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report: one HTML file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """See what a fine-tune broke: both models over the same prior samples, nothing trained."""
    from mixcd.edge.cli.compare import choose_correctness, show_comparison
    from mixcd.edge.compare.compare import compare as compare_models
    from mixcd.edge.compare.page import write_report
    from mixcd.edge.config.data_config import ColumnsConfig
    from mixcd.edge.quiet import quiet_libraries
    from mixcd.matter.prior_and_new_data.data_source import open_data
    from mixcd.words.files import require_free

    require_free([output, report], "the comparison", overwrite=overwrite)
    correctness = choose_correctness(least_share, loss_tolerance, near)
    names = ColumnsConfig(
        text=text,
        text_pair=text_pair,
        label=label,
        question=question,
        context=context,
        answers=answers,
        source=source,
        target=target,
    )
    with quiet_libraries(sys.stderr):
        comparison = compare_models(
            base,
            tuned,
            open_data(data[0] if len(data) == 1 else data, name="data", split=split, subset=subset),
            columns=column or None,
            tolerance=tolerance,
            choices=choices,
            correctness=correctness,
            cache_dir=cache,
            names=names,
            max_length=max_length,
            assistant_only_loss=assistant_only_loss,
            batch_size=batch_size,
            progress=sys.stderr.isatty(),
        )
    show_comparison(comparison, output_format, output)
    if report is not None:
        told = {"base model": base, "fine-tuned model": tuned, "data": ", ".join(data)}
        write_report(comparison, report, overwrite=overwrite, settings=told)
    if fail_above is not None and comparison.exceeds(fail_above):
        sys.stderr.write(f"The damaged share is above {fail_above:.3g}, at its lower bound.\n")
        raise typer.Exit(TOO_DAMAGED)


@app.command()
def ledger(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of the last run of a chain.")],
    output_format: OutputFormat = "table",
) -> None:
    """See what a chain of runs kept of each task: scores, average, backward transfer, forgetting."""
    from mixcd.edge.cli.ledger import show_ledger

    show_ledger(run, as_json=output_format == "json")


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(metavar="SWEEP", help="A TOML file: task, methods, mix ratios, seeds.")],
    setting: Settings = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core by default.", min=1)] = None,
) -> None:
    """Compare methods over mix ratios and seeds; goes on where an earlier call stopped."""
    require_extra("bench", "`mixcd sweep`")
    from mixcd.edge.bench.sweep.show import sweep_and_show

    sweep_and_show(config, setting or [], workers)


@app.command()
def frontier(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS", help="Results of `mixcd sweep`, of one task.")],
    half: Annotated[str, typer.Option(help="The half of the held-out data: test or validation.")] = "test",
    measure: Annotated[str | None, typer.Option(help="Judge by this measure, such as f1; accuracy by default.")] = None,
    against: Annotated[str, typer.Option(help="The method to compare with.")] = "uniform",
    oracle: Annotated[str | None, typer.Option(help="The oracle; oracle-hard by default, if it was run.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="METHOD", help="Show only this method; repeatable.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a picture.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw an interactive page.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report: one HTML file.")] = None,
    output_format: OutputFormat = "table",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Compare the methods of a sweep: prior against new score, seed by seed, with 95 % intervals."""
    require_extra("bench", "`mixcd frontier`")
    from mixcd.edge.bench.frontier.show import show_frontier

    show_frontier(results, half, measure, against, oracle, only or [], png, html, report, output_format, overwrite)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the config, for editors."""
    import json

    from mixcd.edge.config.config import Config

    sys.stdout.write(json.dumps(Config.model_json_schema(), indent=1) + "\n")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for models, tweets, cache and picture.")] = Path("mixcd-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run, under 2 minutes on 2 cores.")] = False,
    seed: Annotated[int, typer.Option(help="The seed of everything.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier demo wrote there.")] = False,
) -> None:
    """Show forgetting, uniform rehearsal and mix-cd on real tweets, in 7 to 11 minutes on 2 cores."""
    from mixcd.edge.demo.demo import FULL, QUICK, name_comparison, run_demo
    from mixcd.edge.demo.demo_result import make_table

    console = Console()
    result = run_demo(output, QUICK if quick else FULL, seed, overwrite, console.print)
    console.print(make_table(result))
    console.print(
        f"The one prior pass, shared by uniform and mix-cd, took {result.prior_pass_forward_count} forward passes "
        f"more. Picture: {output / 'demo.png'}"
    )
    console.print(result.verdict)
    console.print("See what fine-tuning without rehearsal broke:")
    console.print(f"  {name_comparison(output)}", markup=False, highlight=False, soft_wrap=True)


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
