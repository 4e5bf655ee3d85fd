"""The runs that a frontier is made of: joined from results files, checked, by method, mix ratio and seed."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from mixcd.words.errors import DataError, SettingError, end_sentence, nearest_name, shorten
from mixcd.words.vocabulary import Floats

Half = Literal["test", "validation"]
Row = Mapping[str, Any]
_MEASURED_ANEW = ("seconds", "provenance", "prior_pass_forward_count")
"""What differs between two runs of the same thing."""


@dataclass(frozen=True)
class Run:
    """One run, judged on one half of the held-out data.

    Args:
        scores: New and prior score after it.
        base_scores: Those of the base model.
        damaged_share: Share of held-out prior samples that it damaged.
        observed_count: Rehearsed samples.
        damaged_count: Those of them found damaged.
        extra_compute: Scoring passes, as a share of training.
        is_charged: Whether they cost it steps; False for oracles.
    """

    scores: tuple[float, float]
    base_scores: tuple[float, float]
    damaged_share: float
    observed_count: int
    damaged_count: int
    extra_compute: float
    is_charged: bool


Seeds = dict[int, Run]
MixRatios = dict[float, Seeds]


def join_results(files: Iterable[Sequence[Row]]) -> list[Row]:
    """Join the rows of several results files of one task; a run that is in two of them counts once.

    Args:
        files: The rows of each file, as `read_results` returns them.

    Raises:
        DataError: If there are none, if they are of several tasks, if a method has several settings, or if the same
            run is there twice with different numbers.
    """
    rows: dict[tuple[Any, ...], Row] = {}
    by_method: dict[str, Row] = {}
    for row in (row for file in files for row in file):
        _require_one("task", next(iter(rows.values()), row), row)
        _require_one("settings", by_method.setdefault(row["method"], row), row)
        earlier = rows.setdefault((row["method"], row["mix_ratio"], row["seed"], row["wise_ft"]), row)
        if _numbers(earlier) != _numbers(row):
            raise DataError(
                f"{_name_run(row)} is there twice, with different numbers. A run counts once. Pass only one of the "
                "files, or give one of the methods another name."
            )
    if not rows:
        raise DataError("The results hold no runs, but a frontier needs at least one. Run `mixcd sweep` first.")
    return list(rows.values())


def gather_runs(rows: Iterable[Row], half: Half) -> dict[str, MixRatios]:
    """Sort runs by method, mix ratio and seed; averages with the base model are methods of their own.

    Raises:
        DataError: If a score is no finite number.
    """
    found: dict[str, MixRatios] = {}
    for row in sorted(rows, key=lambda row: (row["method"], row["wise_ft"] != 1, row["wise_ft"], row["mix_ratio"])):
        found.setdefault(name_method(row), {}).setdefault(row["mix_ratio"], {})[row["seed"]] = _read_run(row, half)
    return found


def judge_by(rows: Sequence[Row], measure: str) -> list[Row]:
    """Put what else the task measures in the place of accuracy, on the test half.

    Args:
        measure: Its name, such as "f1".

    Returns:
        The rows, with other scores and the measure in the task's name.

    Raises:
        SettingError: If a run was not measured so.
    """
    judged: list[Row] = []
    for row in rows:
        measured = json.loads(row["measures"])
        known = sorted(name.removeprefix("new_") for name in measured["after"] if name.startswith("new_"))
        if measure not in known:
            nearest = nearest_name(measure, known)
            raise SettingError(end_sentence(f"{_name_run(row)} was not measured by `{measure}`{nearest}"))
        scores = {
            f"{task}_{when}_test": measured[when][f"{task}_{measure}"]
            for task in ("prior", "new")
            for when in ("before", "after")
        }
        judged.append({**row, **scores, "task": f"{row['task']}, {measure}"})
    return judged


def name_method(row: Row) -> str:
    """Return the name of a row's method; an average with the base model is a method of its own."""
    return str(row["method"]) if row["wise_ft"] == 1 else f"{row['method']} + WiSE-FT {row['wise_ft']:g}"


def keep_methods(rows: Sequence[Row], only: Sequence[str], needed: Iterable[str]) -> list[Row]:
    """Keep the rows of some methods.

    Args:
        needed: More methods to keep, where they are there: those that are compared with.

    Raises:
        SettingError: If the results do not hold one of the first.
    """
    known = {name_method(row) for row in rows}
    for name in only:
        require_method(name, known, "`only`")
    return [row for row in rows if name_method(row) in {*only, *needed}]


def require_half(half: str) -> Half:
    """Return the half of that name.

    Raises:
        SettingError: If there is none.
    """
    known = get_args(Half)
    if half not in known:
        raise SettingError(end_sentence(f"`{half}` is not a half of the held-out data{nearest_name(half, known)}"))
    return cast(Half, half)


def require_method(name: str, known: Iterable[str], what: str) -> None:
    """Refuse, by a `SettingError`, the name of a method that the results do not hold."""
    known = list(known)
    if name not in known:
        told = f"{what} names the method `{name}`, but the results hold no run of it{nearest_name(name, known)}"
        raise SettingError(end_sentence(told))


def stack_scores(runs: MixRatios, mix_ratios: Iterable[float], seeds: Sequence[int]) -> Floats:
    """Return new and prior scores, shape (mix ratios, seeds, 2).

    Args:
        seeds: Those wanted; every mix ratio has them.
    """
    scores = [[runs[mix_ratio][seed].scores for seed in seeds] for mix_ratio in mix_ratios]
    return np.array(scores, dtype=np.float64).reshape(-1, len(seeds), 2)


def shared_seeds(*all_runs: Mapping[int, object]) -> list[int]:
    """Return the seeds that all have, in order.

    Example:
        >>> shared_seeds({0: "a", 2: "b"}, {2: "c", 0: "d", 1: "e"})
        [0, 2]
    """
    return sorted(set.intersection(*(set(runs) for runs in all_runs))) if all_runs else []


def _read_run(row: Row, half: Half) -> Run:
    scores = [row[f"{task}_{when}_{half}"] for when in ("after", "before") for task in ("new", "prior")]
    if not all(math.isfinite(score) for score in (*scores, row[f"damaged_{half}"])):
        raise DataError(
            f"{_name_run(row)} has the scores {shorten(scores)} on the {half} half, but scores are finite numbers. "
            "Run it again, with more held-out data."
        )
    return Run(
        scores=(scores[0], scores[1]),
        base_scores=(scores[2], scores[3]),
        damaged_share=row[f"damaged_{half}"],
        observed_count=row["observed_count"],
        damaged_count=row["damaged_count"],
        extra_compute=row["extra_compute"],
        is_charged=row["is_charged"],
    )


def _require_one(name: str, one: Row, other: Row) -> None:
    if one[name] == other[name]:
        return
    if name == "task":
        raise DataError(
            f"The results are of the tasks `{one['task']}` and `{other['task']}`, but a frontier is of one task. Pass "
            "the files of one."
        )
    raise DataError(
        f"The runs of `{one['method']}` have different settings: {_differ(one[name], other[name])}. Runs of one name "
        "must be alike. Pass only one of the files, or give one of the methods another name."
    )


def _differ(one: str, other: str) -> str:
    """Where two settings differ, as far as that can be told in a line."""
    first, second = json.loads(one), json.loads(other)
    names = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    return shorten(f"`{name}` is {first.get(name)} and {second.get(name)}" for name in names)


def _numbers(row: Row) -> str:
    return str({name: value for name, value in sorted(row.items()) if name not in _MEASURED_ANEW})  # NaN equals NaN


def _name_run(row: Row) -> str:
    average = "" if row["wise_ft"] == 1 else f", WiSE-FT {row['wise_ft']:g}"
    return f"The run of `{row['method']}` at mix ratio {row['mix_ratio']:g}, seed {row['seed']}{average}"
