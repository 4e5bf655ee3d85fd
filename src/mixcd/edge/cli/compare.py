"""`mixcd compare`: which rule judges, and where what was found is shown."""

import json
import sys
from pathlib import Path

from rich.console import Console

from mixcd.edge.cli.comparison_tables import print_comparison
from mixcd.edge.compare.comparison import Comparison
from mixcd.edge.compare.json_page import comparison_to_json
from mixcd.matter.correctness import CorrectnessRule, NearTarget, RightTokens
from mixcd.words.errors import SettingError
from mixcd.words.files import replace_file


def show_comparison(comparison: Comparison, output_format: str, output: Path | None) -> None:
    """Print what was found, and write the JSON if that is wanted.

    Args:
        output_format: "table" or "json".
        output: A file for the JSON, or None.
    """
    text = json.dumps(comparison_to_json(comparison), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    if output is not None:
        with replace_file(output) as unfinished:
            unfinished.write_text(text, "utf-8")
    if output_format == "json":
        sys.stdout.write(text)
    else:
        print_comparison(comparison, Console())


def choose_correctness(
    least_share: float | None, loss_tolerance: float | None, near: float | None
) -> CorrectnessRule | None:
    """Make the rule that says what is right; None where model and labels say it.

    Args:
        least_share: τ, the share of its target tokens that a sample needs right, or None.
        loss_tolerance: δ, how much larger than the base model's its loss may be instead, or None.
        near: How far a predicted number may be off, or None.

    Raises:
        SettingError: If two rules are asked for, or one makes no sense.
    """
    given = {"--least-share": least_share, "--loss-tolerance": loss_tolerance, "--near": near}
    asked = [f"`{name}`" for name, value in given.items() if value is not None]
    if len(asked) > 1:
        raise SettingError(f"{asked[0]} and {asked[1]} are two rules, but one must judge. Pass one of them.")
    if near is not None:
        return NearTarget(near)
    if not asked:
        return None
    return RightTokens(least_share=1.0 if least_share is None else least_share, loss_tolerance=loss_tolerance)
