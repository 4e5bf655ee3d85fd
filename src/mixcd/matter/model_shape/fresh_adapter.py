"""Adapters of PEFT: the base model is the model as it is, and one that adds nothing yet is no part of it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from mixcd.words.errors import UnsupportedTrainerError

_WRAPPED = ("base_layer", "original_module")
"""How PEFT calls the module of the base model under an adapted layer, and beside a copy that is trained whole."""
_FACTORS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
"""What LoRA adds to a layer is the product of the two."""
_PREFIX = "base_model.model."


def bare_model(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model under a wrapper of PEFT, which need not be installed, or the model itself."""
    wrapped: Any = model
    found: torch.nn.Module = wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
    return found


@contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[None]:
    """Switch the adapter off inside the block; what was frozen is frozen after it.

    PEFT's own `disable_adapter` makes every weight of the active adapters trainable when it ends.

    Raises:
        UnsupportedTrainerError: If the adapter is a prompt, which PEFT cannot switch off in every model.
    """
    if is_prompt(model):
        raise UnsupportedTrainerError(
            "The model's adapter is a prompt of PEFT, such as prompt or prefix tuning, which cannot be switched off to "
            "let the model under it predict. Load the base model a second time."
        )
    trainable = {weight: weight.requires_grad for weight in model.parameters()}
    adapted: Any = model
    try:
        with adapted.disable_adapter():
            yield
    finally:
        for weight, was_trainable in trainable.items():
            weight.requires_grad_(was_trainable)


def is_prompt(model: torch.nn.Module) -> bool:
    """Whether a model's adapter is a prompt that is learnt: virtual tokens before the input, or states of them."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


def prepends_tokens(model: torch.nn.Module) -> bool:
    """Whether a model's adapter puts virtual tokens before the input, so that it has outputs for them, too."""
    adapted: Any = model
    return is_prompt(model) and "PREFIX" not in str(adapted.active_peft_config.peft_type)


def has_fresh_adapter(model: torch.nn.Module, predict: Callable[[], Any]) -> bool:
    """Whether the model, in evaluation mode, bears adapters that add nothing yet: switched off, they change no output.

    What no row of a batch calls on does not show in its outputs, so weights are looked at, too.

    Args:
        predict: Returns the model's output on some rows.
    """
    layers = [module for _, module, _ in _adapted_layers(model)]
    can_be_off = hasattr(model, "disable_adapter") and not is_prompt(model)
    if not layers or not can_be_off or not all(map(_may_be_fresh, layers)):
        return False
    adapted = predict()
    with without_adapter(model):
        return _is_same(adapted, predict())


def model_weights(model: torch.nn.Module, *, with_adapter: bool = True) -> Mapping[str, torch.Tensor]:
    """Return the weights that make the model's predictions, by name: of several adapters, those of the active ones.

    Without adapters, names are those of the bare base model.
    """
    weights = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    for prefix, module, kept in _adapted_layers(model):
        own, base = f"{prefix}.", f"{prefix}.{kept}."
        active = _active_adapters(module) if with_adapter else ()
        weights = {
            name: value
            for name, value in weights.items()
            if not name.startswith(own) or name.startswith(base) or set(active) & set(name.split("."))
        }
    return weights if with_adapter else {_bare(name): value for name, value in weights.items()}


def _adapted_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any, str]]:
    """The layers that an adapter has to do with: their names, they themselves, and how the base model's is called."""
    for name, module in model.named_modules():
        kept = next((one for one in _WRAPPED if hasattr(module, one)), None)
        if kept is not None and hasattr(module, "active_adapters"):
            yield name, module, kept


def _active_adapters(layer: Any) -> tuple[str, ...]:
    return () if layer.disable_adapters else tuple(layer.active_adapters)


def _may_be_fresh(layer: Any) -> bool:
    """Whether a layer's weights allow that its adapter adds nothing on any row: a zero factor, an unchanged copy."""
    active = _active_adapters(layer)
    copies = getattr(layer, "modules_to_save", None)
    if copies is not None:
        return all(_has_same_weights(copies[name], layer.original_module) for name in active if name in copies)
    if getattr(layer, "merged", False):
        return False
    factors = [(getattr(layer, down, {}), getattr(layer, up, {})) for down, up in _FACTORS]
    pairs = [(downs[name], ups[name]) for downs, ups in factors for name in active if name in downs]
    return bool(pairs or not active) and all(_is_zero(down) or _is_zero(up) for down, up in pairs)


def _is_zero(factor: torch.nn.Module | torch.Tensor) -> bool:
    weights = factor.parameters() if isinstance(factor, torch.nn.Module) else [factor]
    return not any(bool(weight.any()) for weight in weights)


def _has_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _is_same(one: Any, other: Any) -> bool:
    """Whether two outputs of a model hold the same numbers, to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return all(_is_same(value, other[name]) for name, value in one.items() if isinstance(value, torch.Tensor))
    return False


def _bare(name: str) -> str:
    name = name.removeprefix(_PREFIX)
    for kept in _WRAPPED:
        name = name.replace(f".{kept}", "", 1)
    return name
