"""Fingerprints of data and tokenizers: short texts that differ when these differ."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mixcd.matter.prior_and_new_data.fixed_random_numbers import fixed_random_numbers
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset, fetch_rows

SAMPLED_ROWS = 32_768
"""How many evenly spaced rows of a dataset are read; smaller datasets are read whole."""
_ROWS_AT_ONCE = 32
"""Rows held in memory, and rows that are read twice to see what is random in them."""


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """Fingerprint a tokenizer (or another processor) by vocabulary and settings: a hexadecimal SHA-256, or "none"."""
    if tokenizer is None:
        return "none"
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        _feed(digest, getattr(tokenizer, "get_vocab", dict)())
    else:
        settings = json.loads(backend.to_str())
        _feed(digest, json.dumps({**settings, "truncation": None, "padding": None}))  # those of the last call only
    for name in ("chat_template", "padding_side", "truncation_side", "pad_token", "eos_token"):
        _feed(digest, getattr(tokenizer, name, None))
    return digest.hexdigest()


def fingerprint_rows(data: Any) -> str:
    """Fingerprint a map-style dataset by its length and its rows' contents: a hexadecimal SHA-256.

    Every row is read when there are at most `SAMPLED_ROWS`, spaced ones otherwise.

    Random augmentation does not count: rows are read with the same random numbers every time. What differs even so, by
    random numbers of its own, is left out; of a `datasets.Dataset` with such a transform the rows under it are read.

    Example:
        >>> fingerprint_rows([{"x": 1}]) == fingerprint_rows([{"x": 2}])
        False
    """
    digest = hashlib.sha256(str(len(data)).encode())
    unstable = find_differing(lambda: spaced_rows(data), (0, 0))
    if unstable:
        data, transforms = (data if isinstance(data, PriorDataset) else PriorDataset(data)).without_transforms()
        _feed(digest, transforms)
        unstable = find_differing(lambda: spaced_rows(data), (0, 0))
    numbers = spaced_numbers(len(data), SAMPLED_ROWS)
    with fixed_random_numbers(0):
        for start in range(0, numbers.size, _ROWS_AT_ONCE):
            rows = fetch_rows(data, numbers[start : start + _ROWS_AT_ONCE].tolist())
            _feed(digest, [_without(row, unstable) for row in rows])
    return digest.hexdigest()


def spaced_rows(data: Any) -> list[Any]:
    """Read a few evenly spaced rows of a map-style dataset."""
    return fetch_rows(data, spaced_numbers(len(data), _ROWS_AT_ONCE).tolist())


def find_differing(read: Callable[[], Sequence[Any]], seeds: Sequence[int]) -> set[Any]:
    """Find what differs when the same rows are read again: names, or places where rows are no mappings.

    Args:
        seeds: The seeds of the random numbers that each reading begins with: between equal ones only that differs which
            has random numbers of its own.

    Example:
        >>> find_differing(lambda: [{"x": 1, "noise": torch.rand(1)}], (0, 1)), find_differing(lambda: [(1,)], (0, 1))
        ({'noise'}, set())
    """
    readings = []
    for seed in seeds:
        with fixed_random_numbers(seed):
            readings.append(
                [{name: fingerprint_value(value) for name, value in _fields(row).items()} for row in read()]
            )
    return {
        name
        for first, *others in zip(*readings, strict=True)
        for other in others
        for name in first.keys() | other.keys()
        if first.get(name) != other.get(name)
    }


def _fields(row: Any) -> dict[Any, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    return dict(enumerate(row)) if isinstance(row, list | tuple) else {0: row}


def _without(row: Any, names: set[Any]) -> Any:
    return {name: value for name, value in _fields(row).items() if name not in names} if names else row


def fingerprint_value(value: Any) -> str:
    """Fingerprint numbers, texts, arrays and tensors, in lists and mappings of them: a hexadecimal SHA-256."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def spaced_numbers(count: int, most: int) -> np.ndarray:
    """Return at most so many evenly spaced numbers of 0 … count − 1."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(f"{key}:".encode())
            _feed(digest, value[key])
    elif isinstance(value, torch.Tensor | np.ndarray):
        array = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    elif isinstance(value, list | tuple) and value and not isinstance(value[0], int | float | str):
        for item in value:
            _feed(digest, item)
    elif hasattr(value, "tobytes"):
        digest.update(value.tobytes())
    else:
        digest.update(f"{value!r};".encode())
