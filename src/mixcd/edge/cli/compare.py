"""`mixcd compare`: what a fine-tune broke, as tables and a verdict."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mixcd.edge.cli.comparison_tables import print_comparison
from mixcd.edge.compare.compare import compare
from mixcd.edge.compare.comparison import Comparison
from mixcd.edge.compare.json_page import comparison_to_json
from mixcd.edge.compare.page import write_report
from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.edge.quiet import quiet_libraries
from mixcd.matter.correctness import CorrectnessRule, NearTarget, RightTokens
from mixcd.matter.prior_and_new_data.data_source import open_data
from mixcd.words.errors import SettingError, end_sentence, nearest_name
from mixcd.words.files import replace_file, require_free

FORMATS = ("table", "json")


@dataclass(frozen=True)
class Samples:
    """Where the samples are.

    Args:
        paths: A file, several of one kind, a folder or a hub name.
        assistant_only_loss: Whether only what the assistant says is a target.
    """

    paths: Sequence[str]
    split: str | None
    subset: str | None
    names: ColumnsConfig
    max_length: int | None
    assistant_only_loss: bool


@dataclass(frozen=True)
class Judging:
    """How to compare, as `mixcd.compare` says it.

    Args:
        columns: The columns to tell damage apart by; empty for all.
        least_share: τ, the share of its target tokens that a sample needs right, or None.
        loss_tolerance: δ, how much larger than the base model's its loss may be instead, or None.
        near: How far a predicted number may be off, or None.
    """

    columns: Sequence[str]
    tolerance: float
    choices: int | None
    cache: Path | None
    batch_size: int
    least_share: float | None
    loss_tolerance: float | None
    near: float | None


@dataclass(frozen=True)
class Showing:
    """How to show what was found.

    Args:
        output_format: "table" or "json".
        output: A file for the JSON, or None.
        report: A file for the report, or None.
    """

    output_format: str
    output: Path | None
    report: Path | None
    overwrite: bool


def compare_and_show(base: str, tuned: str, samples: Samples, judging: Judging, showing: Showing) -> Comparison:
    """Compare two models, print what was found, and write it if that is wanted.

    Raises:
        SettingError: If the format is unknown, or a file would be replaced.
    """
    _check(showing)
    correctness = choose_correctness(judging)
    with quiet_libraries(sys.stderr):
        data = open_data(
            samples.paths[0] if len(samples.paths) == 1 else samples.paths,
            name="data",
            split=samples.split,
            subset=samples.subset,
        )
        comparison = compare(
            base,
            tuned,
            data,
            names=samples.names,
            columns=judging.columns or None,
            tolerance=judging.tolerance,
            choices=judging.choices,
            correctness=correctness,
            cache_dir=judging.cache,
            max_length=samples.max_length,
            assistant_only_loss=samples.assistant_only_loss,
            batch_size=judging.batch_size,
            progress=sys.stderr.isatty(),
        )
    text = json.dumps(comparison_to_json(comparison), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    if showing.output is not None:
        with replace_file(showing.output) as unfinished:
            unfinished.write_text(text, "utf-8")
    if showing.report is not None:
        told = {"base model": base, "fine-tuned model": tuned, "data": ", ".join(samples.paths)}
        write_report(comparison, showing.report, overwrite=showing.overwrite, settings=told)
    if showing.output_format == "json":
        sys.stdout.write(text)
    else:
        print_comparison(comparison, Console())
    return comparison


def choose_correctness(judging: Judging) -> CorrectnessRule | None:
    """Make the rule that says what is right; None where model and labels say it.

    Raises:
        SettingError: If two rules are asked for, or one makes no sense.
    """
    asked = [name for name in ("least_share", "loss_tolerance", "near") if getattr(judging, name) is not None]
    if len(asked) > 1:
        first, second = (f"`--{name.replace('_', '-')}`" for name in asked[:2])
        raise SettingError(f"{first} and {second} are two rules, but one must judge. Pass one of them.")
    if judging.near is not None:
        return NearTarget(judging.near)
    if not asked:
        return None
    least_share = 1.0 if judging.least_share is None else judging.least_share
    return RightTokens(least_share=least_share, loss_tolerance=judging.loss_tolerance)


def _check(showing: Showing) -> None:
    if showing.output_format not in FORMATS:
        told = f"`--format` is `{showing.output_format}`, which is no format"
        raise SettingError(end_sentence(told + nearest_name(showing.output_format, FORMATS)))
    require_free([showing.output, showing.report], "the comparison", overwrite=showing.overwrite)
