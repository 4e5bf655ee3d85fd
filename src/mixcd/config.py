"""`Config`: what `mixcd train` is asked to do, checked as a whole before anything runs."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mixcd.errors import RehearsalError, SettingError, shorten
from mixcd.partition_strategy import ByColumn, ByPriorLoss
from mixcd.vocabulary import PartitionStrategy

FORMAT = 1


class Section(BaseModel):
    """A table of the config: unknown keys are refused, values keep their types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelConfig(Section):
    """The base model: a sequence classifier that knows the prior task."""

    path: str = Field(
        min_length=1, description="A folder written by save_pretrained, or a name on the Hugging Face hub."
    )
    tokenizer: str | None = Field(
        None, min_length=1, description="Folder or name of the tokenizer; the model's own by default."
    )
    max_length: int | None = Field(
        None, ge=1, description="Longest input in tokens; what model and tokenizer allow by default."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")


class ColumnsConfig(Section):
    """Which of the data's columns are what."""

    text: str | None = Field(None, description='The text; "text" by default.')
    text_pair: str | None = Field(None, description="The second text of a pair.")
    label: str | None = Field(None, description='The label; "label" or "labels" by default.')


class HeldOutConfig(Section):
    """Held-out data that are given, in the same columns."""

    path: str | list[str] | None = Field(None, description="Where they are; the same path by default.")
    split: str | None = Field(None, description="Which split.")
    subset: str | None = Field(None, description="Which subset of a data set on the hub.")

    @model_validator(mode="after")
    def _names_something(self) -> "HeldOutConfig":
        if self.path is None and self.split is None:
            raise ValueError("needs a `path` or a `split` of its own")
        return self


class DataConfig(Section):
    """Data of one task."""

    path: str | list[str] = Field(
        description="Parquet, CSV, TSV or JSONL files, a folder, or the name of a data set on the hub."
    )
    split: str | None = Field(None, description="Which split, when the data have several.")
    subset: str | None = Field(None, description="Which subset of a data set on the hub.")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig, description="Which columns hold text and label.")
    held_out: Annotated[float, Field(ge=0, lt=1)] | HeldOutConfig = Field(
        0.1, description="Samples never trained on: their share, drawn by the seed; or where they are."
    )


class PriorConfig(DataConfig):
    """Data of the prior task, or of one of several prior tasks."""

    name: str | None = Field(None, description="With several: its name, a value of the column `prior_set`.")


class RehearsalConfig(Section):
    """How prior samples are rehearsed."""

    mix_ratio: float = Field(gt=0, lt=1, description="Share of prior samples in every batch, β.")
    partition: list[str] = Field(
        ["loss:10"],
        min_length=1,
        description='What the prior data are cut by: "loss:10", "column:topic"; several are combined.',
    )
    estimator: Literal["auto", "counts", "drift", "paper", "uniform"] = Field(
        "auto", description='"auto" for what measured best so far; "uniform" for plain rehearsal.'
    )
    lag: int | None = Field(None, ge=1, description="Steps between an observation and the draws that use it.")
    seed: int | None = Field(None, ge=0, lt=2**64, description="Seed of draws and held-out split; the trainer's own.")
    cache: str | None = Field(
        None, min_length=1, description="The prediction cache; a folder `cache` in the run's by default."
    )
    cache_columns: list[str] = Field([], description="More columns to cache, for `mixcd partition`.")

    @field_validator("partition")
    @classmethod
    def _is_a_partition(cls, values: list[str]) -> list[str]:
        parse_partition(values)
        return values


class Config(Section):
    """A config of `mixcd train`: base model, new and prior data, rehearsal, and transformers' TrainingArguments."""

    format: int = Field(FORMAT, ge=1, le=FORMAT, description="The version of this format.")
    run: str = Field(min_length=1, description="The folder of the run: everything it writes lies there.")
    batch_size: int | None = Field(
        None, ge=2, description="Rows a step over all processes; sets gradient_accumulation_steps."
    )
    model: ModelConfig = Field(description="The base model.")
    new: DataConfig = Field(description="Data of the new task.")
    prior: list[PriorConfig] = Field(min_length=1, description="Data of the prior task, or of several.")
    rehearsal: RehearsalConfig = Field(description="How prior samples are rehearsed.")
    training: dict[str, Any] = Field({}, description="transformers.TrainingArguments, by name.")

    @model_validator(mode="after")
    def _does_not_contradict_itself(self) -> "Config":
        names = [prior.name for prior in self.prior]
        if len(names) > 1 and (None in names or len(set(names)) < len(names)):
            raise ValueError(f"`prior` has {len(names)} data sets, so each needs a `name` of its own")
        if self.batch_size is not None and "gradient_accumulation_steps" in self.training:
            raise ValueError(
                "`batch_size` and `training.gradient_accumulation_steps` contradict each other: the first sets the "
                "second; remove one"
            )
        return self

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return Path(self.run).expanduser()

    @property
    def cache_folder(self) -> Path:
        """The folder of the prediction cache."""
        cache = self.rehearsal.cache
        return Path(cache).expanduser() if cache is not None else self.run_folder / "cache"


def read_config(path: Path, settings: Sequence[str] = ()) -> Config:
    """Read a config file.

    Args:
        path: A TOML file.
        settings: Changes to it, such as `training.learning_rate=1e-4` or `prior.0.path=old.csv`; the value
            is TOML, or a plain text.

    Returns:
        The config, defaults filled in.

    Raises:
        SettingError: If the file cannot be read, or for all its faults at once.
    """
    values = _read_toml(path)
    for setting in settings:
        _apply(values, setting)
    version = values.get("format", FORMAT)
    if isinstance(version, int) and version > FORMAT:
        raise SettingError(
            f"`{path}` is written for format {version}, but this version of mixcd reads up to {FORMAT}. Upgrade mixcd."
        )
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        faults = _describe_all(error)
        count = f"{len(faults)} faults: " if len(faults) > 1 else ""
        told = end_sentence("; ".join(faults))
        raise SettingError(f"`{path}`: {count}{told} Correct the file, or pass `--set`.") from error


def render(config: Config) -> str:
    """Write a config as TOML, defaults filled in; it is itself a valid config.

    Args:
        config: The config.

    Returns:
        The text.
    """
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def list_values(config: Config) -> dict[str, Any]:
    """List a config's values by dotted key.

    Args:
        config: The config.

    Returns:
        Values such as `{"rehearsal.mix_ratio": 0.25, "prior.0.path": "old.csv"}`.
    """
    return dict(_flatten(config.model_dump(exclude_none=True), ""))


def parse_partition(texts: Sequence[str]) -> PartitionStrategy:
    """Make a partition strategy of its text.

    Args:
        texts: Such as "loss:10" (prior loss, in ten bins) or "column:topic"; several are combined jointly.

    Returns:
        The strategy.

    Raises:
        SettingError: If a text is neither.

    Example:
        >>> parse_partition(["loss:5"])
        ByPriorLoss(bins=5)
    """
    strategies = [_parse_one(text) for text in texts]
    combined: Any = strategies[0]
    for strategy in strategies[1:]:
        combined = combined * strategy
    partition: PartitionStrategy = combined
    return partition


def _read_toml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise SettingError(f"`{path}` is a folder, but a config is a TOML file. Name the file, such as a config.toml.")
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise SettingError(f"There is no config `{path}`. Name a TOML file; `mixcd init` writes one.") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"`{path}` is not UTF-8: {error.reason} at byte {error.start}. Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"`{path}` is not TOML: {error}. Correct that line.") from error
    except OSError as error:
        raise SettingError(f"`{path}` cannot be read: {error.strerror}. Make it readable.") from error


def _apply(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise SettingError(f"`--set {setting}` is not key=value. Pass such as `--set training.learning_rate=1e-4`.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a plain text needs no quotes
    place: Any = values
    for part in keys[:-1]:
        place = place.setdefault(part, {}) if isinstance(place, dict) else _item(place, part, setting)
    if isinstance(place, dict):
        place[keys[-1]] = value
    else:
        _item(place, keys[-1], setting)
        place[int(keys[-1])] = value


def _item(place: Any, part: str, setting: str) -> Any:
    if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
        return place[int(part)]
    what = f"a list of {len(place)}" if isinstance(place, list) else f"{place!r}"
    raise SettingError(f"`--set {setting}`: there is no `{part}` in {what}. Lists are counted from 0.")


def _parse_one(text: str) -> ByPriorLoss | ByColumn:
    kind, _, argument = text.partition(":")
    if text == "loss":
        return ByPriorLoss()
    if kind == "loss" and argument.isdecimal():
        return ByPriorLoss(int(argument))
    if kind == "column" and argument:
        return ByColumn(argument)
    raise SettingError(f'"{text}" is no partition: write "loss:10" for ten bins of prior loss, or "column:NAME".')


def _describe_all(error: ValidationError) -> list[str]:
    """All faults that pydantic found, in our words, one for each place; a fault further in says more."""
    faults: dict[str, str] = {}
    for fault in error.errors():
        place = _place_of(fault)
        is_ours = "error" in fault.get("ctx", {})
        if place not in faults or is_ours:  # a value that fits no kind of a union is reported once for each
            faults[place] = _describe(fault, place)
    return [text for place, text in faults.items() if not any(other.startswith(f"{place}.") for other in faults)]


def _describe(fault: Any, place: str) -> str:
    name, cause = f"`{place}`", fault.get("ctx", {}).get("error")
    if fault["type"] == "extra_forbidden":
        return f"{name} is unknown{nearest_name(str(fault['loc'][-1]), _fields_at(fault['loc'][:-1]))}"
    if fault["type"] == "missing":
        return f"{name} is missing"
    if isinstance(cause, RehearsalError):
        return f"{name}: {str(cause).rstrip('.')}"
    if cause is not None:
        return f"{name} {cause}" if place else str(cause)
    if fault["type"] in ("model_type", "dict_type"):
        return f"{name} is {fault['input']!r}: input should be a table of keys and values"
    return f"{name} is {fault['input']!r}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _place_of(fault: Any) -> str:
    """A dotted key, without the names that pydantic adds for the kinds of a union."""
    *above, last = fault["loc"] or ("",)
    model: Any = Config
    parts = []
    for part in above + [last] * (fault["type"] != "extra_forbidden"):
        fields = getattr(model, "model_fields", {})
        if isinstance(part, int) or part in fields:
            parts.append(str(part))
            model = _model_in(fields[part].annotation) if part in fields else model
    return ".".join([*parts, *[str(last)] * (fault["type"] == "extra_forbidden")])


def _fields_at(location: Sequence[str | int]) -> list[str]:
    model: Any = Config
    for part in location:
        if isinstance(part, str) and part in getattr(model, "model_fields", {}):
            model = _model_in(model.model_fields[part].annotation)
    return list(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The section that a field holds, alone, in a list or in a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Say which known name comes nearest to an unknown one, or which names are known.

    Args:
        name: The unknown name.
        known: The known ones.

    Returns:
        The end of a sentence.

    Example:
        >>> nearest_name("mixratio", ["mix_ratio", "lag"])
        ', did you mean `mix_ratio`?'
    """
    known = list(known)
    close = get_close_matches(name, known, n=1)
    if close:
        return f", did you mean `{close[0]}`?"
    return f" (known: {shorten((f'`{key}`' for key in known), 12)})"


def end_sentence(text: str) -> str:
    """Put a full stop after a sentence that has no end yet.

    Args:
        text: The sentence.

    Returns:
        The sentence, with its end.

    Example:
        >>> end_sentence("nothing is there"), end_sentence("did you mean `lag`?")
        ('nothing is there.', 'did you mean `lag`?')
    """
    return text if text.endswith(("?", ".")) else f"{text}."


def _flatten(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, inner in enumerate(value):
            yield from _flatten(inner, f"{key}.{number}")
    else:
        yield key, value
