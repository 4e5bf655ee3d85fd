"""`SweepConfig`: which runs a sweep makes, checked as a whole before anything runs."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from mixcd.edge.bench.sweep.sweep_method import BUILT_IN, ESTIMATORS, Method, ProbeSettings, choose_estimator
from mixcd.edge.bench.sweep.sweep_run import RunSpec
from mixcd.edge.config.toml_file import Section, read_section
from mixcd.edge.train.arguments import check_arguments
from mixcd.ideas.collateral_damage_estimator import AUTO
from mixcd.ideas.partition_strategy import parse_partition, partition_examples
from mixcd.run.rehearsal_loop.estimator_choice import FEATURES
from mixcd.run.rehearsal_loop.row_kind import MixUnit
from mixcd.words.errors import SettingError, end_sentence, nearest_name, shorten

SWEEP_FORMAT = 1

_SET_BY_SWEEP = {
    "max_steps": "all methods get the task's steps, less what their extra inference costs",
    "seed": "it is the run's",
}


def _require_distinct(values: list[Any]) -> list[Any]:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"names {shorten(f'`{value}`' for value in twice)} twice, but each can be run once")
    return values


def _require_shares(values: list[float]) -> list[float]:
    if any(not 0 < value < 1 for value in values):
        raise ValueError(f"are {values}, but each must lie inside (0, 1)")
    return _require_distinct(values)


Shares = Annotated[list[float], AfterValidator(_require_shares)]
"""Mix ratios, or shares of the fine-tuned weights: inside (0, 1), none of them twice."""
SomeShares = Annotated[list[float], Field(min_length=1), AfterValidator(_require_shares)]


class ProbeConfig(Section):
    """Extra inference that a method makes."""

    sample_count: int | None = Field(None, ge=1, description="Samples a probing.")
    samples_a_draw: int | None = Field(None, ge=1, description="Samples for each rehearsed one.")
    every: int = Field(1, ge=1, description="Steps from one probing to the next.")
    is_charged: bool = Field(True, description="Whether its forward passes cost the method steps.")
    use: Literal["audit", "estimate"] = Field("estimate", description="Whether it feeds the estimator.")


class MethodConfig(Section):
    """A method: what it changes of the one that it is like."""

    like: str | None = Field(None, description="The built-in method it starts from; one of its own name, or uniform.")
    estimator: str | None = Field(None, description=f"Who says what to rehearse: {', '.join((AUTO, *ESTIMATORS))}.")
    settings: dict[str, Any] = Field({}, description="Changes to the estimator's settings.")
    partition: list[str] | None = Field(None, min_length=1, description=f"The bins: {partition_examples()}.")
    mix_unit: MixUnit | None = Field(None, description="What the mix ratio is a share of: rows, or tokens.")
    floor: float | None = Field(None, ge=0, le=1, description="Share of the draws that ignores the belief.")
    lag: int | None = Field(None, ge=1, description="Steps between an observation and the draws that use it.")
    features: int | None = Field(None, ge=1, description="Features a sample to cache.")
    probe: ProbeConfig | None = Field(None, description="Extra inference.")
    trainer: str | None = Field(None, description='"FILE.py:FUNCTION" that makes the trainer.')
    trainer_settings: dict[str, Any] = Field({}, description="What that function is told.")
    training: dict[str, Any] = Field({}, description="Changes to the task's TrainingArguments.")
    mix_ratios: SomeShares | None = Field(None, description="Mix ratios of its own.")
    wise_ft: Shares | None = Field(None, description="WiSE-FT shares of its own.")

    @field_validator("estimator")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        known = (AUTO, *ESTIMATORS)
        if value is not None and value not in known:
            raise ValueError(f"is {value!r}, which is not an estimator{nearest_name(value, known)}")
        return value


class SweepConfig(Section):
    """What `mixcd sweep` is asked to do: methods × mix ratios × seeds on one task."""

    format: int = Field(SWEEP_FORMAT, ge=1, le=SWEEP_FORMAT, description="The version of this format.")
    name: str = Field(pattern=r"^[\w.+-]+$", description="What the task is called in results.")
    task: str = Field(min_length=1, description='"FILE.py:FUNCTION" that makes the task, or a config of `mixcd train`.')
    results: str = Field(min_length=1, description="The results file, Parquet.")
    work: str = Field(min_length=1, description="A folder for base models and prediction caches.")
    methods: list[str] = Field(min_length=1, description="The methods, built in or described below.")
    mix_ratios: SomeShares = Field(description="The mix ratios β.")
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(min_length=1, description="The seeds.")
    wise_ft: Shares = Field([], description="Shares of the fine-tuned weights to judge averages with f at.")
    method: dict[str, MethodConfig] = Field({}, description="Methods of this sweep's own.")

    @field_validator("methods", "seeds")
    @classmethod
    def _are_distinct(cls, values: list[Any]) -> list[Any]:
        return _require_distinct(values)


def read_sweep(path: Path, settings: Sequence[str] = ()) -> SweepConfig:
    """Read a sweep's TOML file.

    Args:
        path: The file; relative paths in it start from its folder, and `{name}` in them is the sweep's name.
        settings: Changes to it, such as `name=tweets`; the value is TOML, or a plain text.

    Raises:
        SettingError: If the file cannot be read, for all its faults at once, or for a method that is unknown or
            contradicts itself.
    """
    sweep = read_section(SweepConfig, path, settings, SWEEP_FORMAT)
    known = {**BUILT_IN, **sweep.method}
    for name in sweep.methods:
        if name not in known:
            raise SettingError(
                end_sentence(f"`{path}`: `methods` names `{name}`, which is unknown{nearest_name(name, known)}")
                + f" Name a method that is built in, or describe it in a table `[method.{name}]`."
            )
        _require_sound(resolve_method(sweep, name), name)
    folder = path.resolve().parent
    places = {
        key: str((folder / Path(getattr(sweep, key).replace("{name}", sweep.name)).expanduser()).resolve())
        for key in ("task", "results", "work")
    }
    trainers = {
        name: one.model_copy(update={"trainer": str(folder / one.trainer)}) if one.trainer else one
        for name, one in sweep.method.items()
    }
    return sweep.model_copy(update={**places, "method": trainers})


def _require_sound(method: Method, name: str) -> None:
    """Refuse now what would fail in the method's runs."""
    try:
        check_arguments(method.training)
        if method.estimator:
            choose_estimator(method)
    except SettingError as error:
        raise SettingError(f"`method.{name}`: {error}") from error
    for key in method.training.keys() & _SET_BY_SWEEP.keys():
        raise SettingError(f"`method.{name}.training.{key}` cannot be set: {_SET_BY_SWEEP[key]}. Leave it out.")
    if method.trainer_settings and not method.trainer:
        raise SettingError(
            f"`method.{name}` has `trainer_settings`, but names no `trainer` that takes them. Name it, or remove them."
        )


def resolve_method(sweep: SweepConfig, name: str) -> Method:
    """Return a method as it is to run: the built-in one, with the changes that the sweep describes.

    Raises:
        SettingError: If it is like a method that does not exist.
    """
    if name not in sweep.method:
        return replace(BUILT_IN[name], wise_ft=tuple(sweep.wise_ft))
    wanted = sweep.method[name]
    like = wanted.like or (name if name in BUILT_IN else "uniform")
    if like not in BUILT_IN:
        raise SettingError(
            end_sentence(f"`method.{name}.like` is `{like}`, which is unknown{nearest_name(like, BUILT_IN)}")
        )
    changes = {
        key: getattr(wanted, key)
        for key in wanted.model_fields_set - {"like", "partition", "probe", "wise_ft", "mix_ratios"}
    }
    if wanted.partition is not None:
        changes["partition"] = parse_partition(wanted.partition)
    if wanted.probe is not None:
        changes["probe"] = _change_probe(BUILT_IN[like].probe, wanted.probe)
    return replace(
        BUILT_IN[like], **changes, wise_ft=tuple(sweep.wise_ft if wanted.wise_ft is None else wanted.wise_ft)
    )


def _change_probe(like: ProbeSettings | None, wanted: ProbeConfig) -> ProbeSettings:
    """The probe of the method that a method is like, with what is said of it; a new number takes the other's place."""
    changes = {key: getattr(wanted, key) for key in wanted.model_fields_set}
    if changes.keys() & {"sample_count", "samples_a_draw"}:
        changes = {"sample_count": None, "samples_a_draw": None, **changes}
    return replace(like or ProbeSettings(), **changes)


def list_runs(sweep: SweepConfig) -> list[tuple[str, float, int]]:
    """List the runs: method, mix ratio, seed; seed by seed. A method without rehearsal runs once a seed, at 0."""
    return [
        (name, mix_ratio, seed)
        for seed in sweep.seeds
        for name in sweep.methods
        for mix_ratio in _mix_ratios_of(sweep, name)
    ]


def _mix_ratios_of(sweep: SweepConfig, name: str) -> list[float]:
    if resolve_method(sweep, name).estimator is None:
        return [0.0]
    own = sweep.method[name].mix_ratios if name in sweep.method else None
    return own or sweep.mix_ratios


def make_spec(sweep: SweepConfig, run: tuple[str, float, int]) -> RunSpec:
    """Return all that a run needs to know."""
    name, mix_ratio, seed = run
    method = resolve_method(sweep, name)
    return RunSpec(method, mix_ratio, seed, method.features or _common_features(sweep))


def describe_method(sweep: SweepConfig, name: str) -> str:
    """Describe a method's settings as JSON, so that results of changed settings are told apart."""
    table = sweep.method.get(name)
    described = table.model_dump(exclude_defaults=True, exclude={"mix_ratios", "wise_ft"}) if table else {}
    if "trainer" in described:
        described["trainer"] = Path(described["trainer"]).name  # the folder says nothing
    return json.dumps(described, sort_keys=True)


def _common_features(sweep: SweepConfig) -> int:
    """How many features all runs without a number of their own cache: they share one cache."""
    methods = [resolve_method(sweep, name) for name in sweep.methods]
    return FEATURES if any(_reads_features(one) for one in methods) else 0


def _reads_features(method: Method) -> bool:
    if method.partition is not None and method.partition.reads_features:
        return True
    return method.estimator == AUTO or (method.estimator is not None and ESTIMATORS[method.estimator]().reads_features)
