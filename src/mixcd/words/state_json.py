"""State as JSON: frozen dataclasses of float64 arrays, exact to the bit and free of pickle."""

import base64
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def encode(value: Any) -> Any:
    """Turn a dataclass, a tuple, a float64 array (kept as base64, little-endian) or a plain number into JSON values.

    Example:
        >>> encode((np.array([0.5]), 3))
        [{'shape': [1], 'float64': 'AAAAAAAA4D8='}, 3]
    """
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, np.ndarray):
        text = base64.b64encode(value.astype("<f8").tobytes()).decode("ascii")
        return {"shape": list(value.shape), "float64": text}
    return value


def decode(like: Any, stored: Any) -> Any:
    """Turn what `encode` returned back into a state, of the kind of `like`.

    Example:
        >>> decode((np.zeros(1), 0), encode((np.array([0.5]), 3)))
        (array([0.5]), 3)
    """
    if is_dataclass(like) and isinstance(stored, Mapping):
        kind: Any = type(like)
        return kind(**{field.name: decode(getattr(like, field.name), stored[field.name]) for field in fields(like)})
    if isinstance(like, tuple):
        return tuple(decode(item, value) for item, value in zip(like, stored, strict=True))
    if isinstance(like, np.ndarray):
        flat = np.frombuffer(base64.b64decode(stored["float64"], validate=True), dtype="<f8")
        return flat.astype(np.float64).reshape(stored["shape"])
    return stored
