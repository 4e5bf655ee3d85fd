"""TOML files that are checked as a whole: every fault is told, in one message, with the nearest known name."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from mixcd.words.errors import RehearsalError, SettingError, end_sentence, nearest_name


class Section(BaseModel):
    """A table of the config: unknown keys are refused, values keep their types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Checked = TypeVar("Checked", bound=Section)


def read_section(kind: type[Checked], path: Path, settings: Sequence[str], newest: int) -> Checked:
    """Read a TOML file, change it, check it as a whole, and fill in the defaults.

    Args:
        settings: Changes to it, such as `training.learning_rate=1e-4` or `prior.0.path=old.csv`; the value is TOML, or
            a plain text.
        newest: The newest format that is known.

    Raises:
        SettingError: If the file cannot be read, a change is no key=value or names what cannot be, or for all faults of
            the values at once.
    """
    values = _read(path)
    for setting in settings:
        _apply(values, setting)
    version = values.get("format", newest)
    if isinstance(version, int) and version > newest:
        raise SettingError(
            f"`{path}` is written for format {version}, but this version of mixcd reads up to {newest}. Upgrade mixcd."
        )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = _describe_all(kind, error)
        count = f"{len(faults)} faults: " if len(faults) > 1 else ""
        told = end_sentence("; ".join(faults))
        raise SettingError(f"`{path}`: {count}{told} Correct the file, or pass `--set`.") from error


def _read(path: Path) -> dict[str, Any]:
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
    """Change one of the values, in place."""
    key, equals, text = setting.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise SettingError(f"`--set {setting}` is not key=value. Write it like `--set training.learning_rate=1e-4`.")
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


def _describe_all(kind: type[Section], error: ValidationError) -> list[str]:
    """All faults that pydantic found, in our words, one for each place; a fault further in says more."""
    faults: dict[str, str] = {}
    for fault in error.errors():
        place = _place_of(kind, fault)
        is_ours = "error" in fault.get("ctx", {})
        if place not in faults or is_ours:  # a value that fits no kind of a union is reported once for each
            faults[place] = _describe(kind, fault, place)
    return [text for place, text in faults.items() if not any(other.startswith(f"{place}.") for other in faults)]


def _describe(kind: type[Section], fault: Any, place: str) -> str:
    name, cause = f"`{place}`", fault.get("ctx", {}).get("error")
    if fault["type"] == "extra_forbidden":
        known = getattr(_follow(kind, fault["loc"][:-1])[1], "model_fields", {})
        return f"{name} is unknown{nearest_name(str(fault['loc'][-1]), known)}"
    if fault["type"] == "missing":
        return f"{name} is missing"
    if isinstance(cause, RehearsalError):
        return f"{name}: {str(cause).rstrip('.')}"
    if cause is not None:
        return f"{name} {cause}" if place else str(cause)
    if fault["type"] in ("model_type", "dict_type"):
        return f"{name} is {fault['input']!r}: input should be a table of keys and values"
    return f"{name} is {fault['input']!r}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def _place_of(kind: type[Section], fault: Any) -> str:
    """A dotted key, without the names that pydantic adds for the kinds of a union."""
    location = fault["loc"] or ("",)
    if fault["type"] == "extra_forbidden":
        return ".".join([*_follow(kind, location[:-1])[0], str(location[-1])])
    return ".".join(_follow(kind, location)[0])


def _follow(kind: type[Section], location: Sequence[str | int]) -> tuple[list[str], Any]:
    """The keys of a location that pydantic tells, and the section that it leads to."""
    model: Any = kind
    keys, is_name = [], False
    for part in location:
        fields = getattr(model, "model_fields", {})
        if isinstance(part, int) or is_name:
            keys.append(str(part))
            is_name = False
        elif part in fields:
            keys.append(part)
            model = _model_in(fields[part].annotation)
            is_name = model is not None and get_origin(fields[part].annotation) is dict
    return keys, model


def _model_in(annotation: Any) -> Any:
    """The section that a field holds, alone, in a list or in a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
