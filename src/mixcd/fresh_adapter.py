"""Adapters of PEFT that have learnt nothing yet: the base model is the model without them."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

_UP, _OWN = "lora_B", "lora_"
_WRAPPED = ("base_model.model.", ".base_layer")


def bare_model(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model under a wrapper of PEFT, or the model itself.

    Args:
        model: Any model; PEFT need not be installed.
    """
    wrapped: Any = model
    found: torch.nn.Module = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    return found


def has_fresh_adapter(model: torch.nn.Module) -> bool:
    """Whether the model bears LoRA adapters that add nothing: all their up-projections are zero, as at first.

    Args:
        model: Any model; PEFT need not be installed.
    """
    if not hasattr(model, "disable_adapter"):
        return False
    ups = [weight for name, weight in model.named_parameters() if _UP in name]
    return bool(ups) and not any(bool(weight.any()) for weight in ups)


@contextmanager
def without_fresh_adapter(model: torch.nn.Module) -> Iterator[None]:
    """Let the base model predict alone inside the block, if the adapter on it adds nothing.

    It would predict the same with it, and the base model is not held twice.

    Args:
        model: The model.
    """
    if not has_fresh_adapter(model):
        yield
        return
    adapted: Any = model
    off: AbstractContextManager[None] = adapted.disable_adapter()
    with off:
        yield


def base_weights(model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """Return the weights that make the model's predictions, by name: not those of an adapter that adds nothing.

    A fresh adapter's other half is random, and another one in every process. Names are those of the bare base model.

    Args:
        model: The model.
    """
    weights = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    if not has_fresh_adapter(model):
        return weights
    return {_bare(name): value for name, value in weights.items() if _OWN not in name}


def _bare(name: str) -> str:
    for part in _WRAPPED:
        name = name.replace(part, "", 1)
    return name
