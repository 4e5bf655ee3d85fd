"""`make_settings`: a settings object by its name and the settings that a config gives it."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mixcd.words.errors import SettingError, end_sentence, nearest_name, shorten

Settings = TypeVar("Settings")


def make_settings(
    table: Mapping[str, Callable[..., Settings]], name: str, settings: Mapping[str, Any], kind: str
) -> Settings:
    """Make a settings object of values from a config.

    Args:
        table: What makes the objects, frozen dataclasses, by name.
        settings: Values by the names of the object's fields.
        kind: What the names are names of, for messages: such as "estimator".

    Raises:
        SettingError: If the name or a setting is unknown, one is missing or of another type, or the object refuses one.

    Example:
        >>> from mixcd.ideas.collateral_damage_estimator import ESTIMATORS
        >>> make_settings(ESTIMATORS, "counts", {"discount": 0.98}, "estimator")
        Counts(discount=0.98, smoothing='beta')
    """
    if name not in table:
        raise SettingError(end_sentence(f'"{name}" is no {kind}{nearest_name(name, table)}'))
    made: Any = getattr(table[name], "func", table[name])  # a partial one has a function
    types = get_type_hints(made)
    known = [field.name for field in fields(made)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise SettingError(
            f'`settings` names {shorten(f"`{one}`" for one in unknown)}, but the {kind} "{name}" has '
            f"{shorten((f'`{one}`' for one in known), 9) or 'no settings'}. Correct them."
        )
    for key, value in settings.items():
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            raise SettingError(
                f'`{key}` of the {kind} "{name}" is {value!r}: {fault[:1].lower()}{fault[1:]}. Correct it.'
            ) from error
    try:
        return table[name](**settings)
    except TypeError as error:  # a field without a default
        missing = shorten(f"`{one}`" for one in known if one not in settings)
        raise SettingError(f'The {kind} "{name}" needs {missing}. Give such settings beside the name.') from error
