"""Fingerprints of models and of what they are handed: short texts that differ when these differ."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mixcd.matter.base_model.batched_inference import evaluating, run_model
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.model_shape.fresh_adapter import bare_model, has_fresh_adapter, model_weights
from mixcd.matter.prior_and_new_data.fingerprint import find_differing, fingerprint_value, spaced_numbers
from mixcd.matter.prior_and_new_data.fixed_random_numbers import fixed_random_numbers

SAMPLED_VALUES = 4096
"""How many evenly spaced values of each weight tensor are read."""


def fingerprint_model(
    model: torch.nn.Module, rule: CorrectnessRule, batch: Mapping[str, Any], sample_count: int
) -> dict[str, str]:
    """Fingerprint what makes a model's predictions: its weights, and the settings that it computes with.

    An adapter that adds nothing yet does not count: its weights are random, others in every process.

    Args:
        batch: Some samples, on which an adapter shows whether it adds anything.

    Returns:
        `model`, a hexadecimal SHA-256, and `settings`, a JSON text.
    """
    with evaluating(model):
        is_fresh = has_fresh_adapter(model, lambda: run_model(model, rule, batch, sample_count)[1])
    return {"model": fingerprint_weights(model, with_adapter=not is_fresh), "settings": describe_settings(model)}


def describe_settings(model: torch.nn.Module) -> str:
    """Describe what decides a model's predictions besides its weights, as it would compute here and now.

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
    """Fingerprint a model by its weights, those of its active adapters too: a hexadecimal SHA-256.

    What counts is the name, shape, dtype and spaced values of each tensor.

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
        spaced = flat[torch.from_numpy(spaced_numbers(flat.numel(), SAMPLED_VALUES)).to(flat.device)]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(spaced.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint_batch(batch: Mapping[str, Any]) -> str:
    """Fingerprint what the model is handed, a collated batch: a hexadecimal SHA-256."""
    return fingerprint_value(dict(batch))


def make_stable_batch(make_batch: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Make a batch that is the same every time: with the same random numbers, and without what differs even so."""
    unstable = find_differing(lambda: [make_batch()], (0, 0))
    with fixed_random_numbers(0):
        return {name: value for name, value in make_batch().items() if name not in unstable}
