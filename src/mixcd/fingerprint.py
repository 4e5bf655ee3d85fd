"""Fingerprints: short texts that differ when a model, a tokenizer or data differ."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mixcd.batched_inference import evaluating, run_model
from mixcd.correctness_rule import CorrectnessRule
from mixcd.fixed_random_numbers import fixed_random_numbers
from mixcd.fresh_adapter import bare_model, has_fresh_adapter, model_weights
from mixcd.prior_dataset import PriorDataset, fetch_rows

SAMPLED_VALUES = 4096
"""How many evenly spaced values of each weight tensor are read."""
SAMPLED_ROWS = 32_768
"""How many evenly spaced rows of a dataset are read; smaller datasets are read whole."""
_ROWS_AT_ONCE = 32
"""Rows held in memory, and rows that are read twice to see what is random in them."""


def fingerprint_model(
    model: torch.nn.Module, rule: CorrectnessRule, batch: Mapping[str, Any], sample_count: int
) -> dict[str, str]:
    """Fingerprint what makes a model's predictions: its weights, and the settings that it computes with.

    An adapter that adds nothing yet does not count: its weights are random, others in every process.

    Args:
        model: The model.
        rule: Says how it is called when it only predicts.
        batch: Some samples, on which an adapter shows whether it adds anything.
        sample_count: How many they are.

    Returns:
        `model`, a hexadecimal SHA-256, and `settings`, a JSON text.
    """
    with evaluating(model):
        is_fresh = has_fresh_adapter(model, lambda: run_model(model, rule, batch, sample_count)[1])
    return {"model": fingerprint_weights(model, with_adapter=not is_fresh), "settings": describe_settings(model)}


def describe_settings(model: torch.nn.Module) -> str:
    """Describe what decides a model's predictions besides its weights, as it would compute here and now.

    Args:
        model: The model.

    Returns:
        A JSON text: the token that it takes for padding, its attention, the types of its weights, and the type that
        operations are cast to.

    Example:
        >>> describe_settings(torch.nn.Linear(2, 2))
        '{"padding token": null, "attention": null, "weights": "float32", "autocast": null}'
    """
    config: Any = getattr(bare_model(model), "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    weights = model_weights(model, with_adapter=False).values()
    dtypes = {str(weight.dtype).removeprefix("torch.") for weight in weights if weight.is_floating_point()}
    device = next(model.parameters()).device.type
    casts = torch.is_autocast_enabled(device)
    return json.dumps(
        {
            "padding token": getattr(text_config, "pad_token_id", None),
            "attention": getattr(config, "_attn_implementation", None),
            "weights": ", ".join(sorted(dtypes)),
            "autocast": str(torch.get_autocast_dtype(device)).removeprefix("torch.") if casts else None,
        }
    )


def fingerprint_weights(model: torch.nn.Module, *, with_adapter: bool = True) -> str:
    """Fingerprint a model by its weights: name, shape, dtype and spaced values of each tensor.

    Args:
        model: The model, on any device.
        with_adapter: Whether the weights of its active adapters count.

    Returns:
        A hexadecimal SHA-256.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> before = fingerprint_weights(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> fingerprint_weights(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model_weights(model, with_adapter=with_adapter).items()):
        flat = tensor.detach().reshape(-1)
        spaced = flat[torch.from_numpy(_spaced(flat.numel(), SAMPLED_VALUES)).to(flat.device)]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(spaced.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """Fingerprint a tokenizer (or another processor) by its vocabulary and settings.

    Args:
        tokenizer: A Hugging Face tokenizer or processor, or None.

    Returns:
        A hexadecimal SHA-256, or "none".
    """
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
    """Fingerprint a map-style dataset by its length and its rows' contents.

    Random augmentation does not count: rows are read with the same random numbers every time. What differs even so, by
    random numbers of its own, is left out; of a `datasets.Dataset` with such a transform the rows under it are read.

    Args:
        data: The dataset; every row is read when there are at most `SAMPLED_ROWS`, spaced ones otherwise.

    Returns:
        A hexadecimal SHA-256.

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
    numbers = _spaced(len(data), SAMPLED_ROWS)
    with fixed_random_numbers(0):
        for start in range(0, numbers.size, _ROWS_AT_ONCE):
            rows = fetch_rows(data, numbers[start : start + _ROWS_AT_ONCE].tolist())
            _feed(digest, [_without(row, unstable) for row in rows])
    return digest.hexdigest()


def spaced_rows(data: Any) -> list[Any]:
    """Read a few evenly spaced rows of a map-style dataset.

    Args:
        data: The dataset.
    """
    return fetch_rows(data, _spaced(len(data), _ROWS_AT_ONCE).tolist())


def find_differing(read: Callable[[], Sequence[Any]], seeds: Sequence[int]) -> set[Any]:
    """Find what differs when the same rows are read again.

    Args:
        read: Reads the rows.
        seeds: The seeds of the random numbers that each reading begins with: between equal ones only that differs which
            has random numbers of its own.

    Returns:
        The names of what differs, or places where rows are no mappings.

    Example:
        >>> find_differing(lambda: [{"x": 1, "noise": torch.rand(1)}], (0, 1)), find_differing(lambda: [(1,)], (0, 1))
        ({'noise'}, set())
    """
    readings = []
    for seed in seeds:
        with fixed_random_numbers(seed):
            readings.append([{name: _print(value) for name, value in _fields(row).items()} for row in read()])
    return {
        name
        for first, *others in zip(*readings, strict=True)
        for other in others
        for name in first.keys() | other.keys()
        if first.get(name) != other.get(name)
    }


def fingerprint_batch(batch: Mapping[str, Any]) -> str:
    """Fingerprint what the model is handed: a collated batch.

    Args:
        batch: Tensors by name.

    Returns:
        A hexadecimal SHA-256.
    """
    return _print(dict(batch))


def make_stable_batch(make_batch: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Make a batch that is the same every time: with the same random numbers, and without what differs even so.

    Args:
        make_batch: Reads and collates rows.

    Returns:
        Tensors by name.
    """
    unstable = find_differing(lambda: [make_batch()], (0, 0))
    with fixed_random_numbers(0):
        return {name: value for name, value in make_batch().items() if name not in unstable}


def _fields(row: Any) -> dict[Any, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    return dict(enumerate(row)) if isinstance(row, list | tuple) else {0: row}


def _without(row: Any, names: set[Any]) -> Any:
    return {name: value for name, value in _fields(row).items() if name not in names} if names else row


def _print(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _spaced(count: int, most: int) -> np.ndarray:
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
