"""Head features: what the base model hands to its classification head, reduced to a few numbers a sample."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from mixcd.matter.model_shape.fresh_adapter import bare_model
from mixcd.words.errors import UnsupportedTrainerError

FITTED_ROWS = 4096
"""Samples that the reduction is fitted on."""
_LEAST_SCALE = 1e-4
"""Components that vary less than this share of the first are not blown up to the same size."""


@dataclass(frozen=True)
class FeatureBasis:
    """Maps head inputs to features: principal components, each of unit variance.

    Args:
        mean: Shape (inputs,).
        components: Shape (inputs, features).
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    def apply(self, head_inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features, shape (samples, features), of head inputs, shape (samples, inputs)."""
        return ((head_inputs - self.mean) @ self.components).astype(np.float32)


def fit_basis(head_inputs: NDArray[np.float32], feature_count: int) -> FeatureBasis:
    """Fit the principal components of some samples' head inputs, shape (samples, inputs), at least two samples.

    At most as many components are kept as there are.

    Example:
        >>> basis = fit_basis(np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32), 2)
        >>> basis.components.shape
        (3, 2)
    """
    count = min(feature_count, *head_inputs.shape)
    reduction = PCA(n_components=count, svd_solver="full").fit(head_inputs.astype(np.float64))
    scale: NDArray[np.float64] = np.sqrt(reduction.explained_variance_)
    scale = np.maximum(scale, _LEAST_SCALE * max(scale[0], np.finfo(np.float32).tiny))
    components = (reduction.components_ / scale[:, None]).T
    return FeatureBasis(reduction.mean_.astype(np.float32), components.astype(np.float32))


@contextmanager
def watch_head(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what the model's head is given by the forward passes inside the block.

    The head is the last linear layer that the model calls, those of adapters left out. A head that is computed without
    being called, as TRL's fused one, is given what the model's backbone returns.

    Yields:
        A list that holds one tensor after a forward pass, shape (rows, inputs) or (rows, tokens, inputs).

    Raises:
        UnsupportedTrainerError: If there is no linear layer.
    """
    layers = [module for name, module in model.named_modules() if _is_layer(name, module)]
    if not layers:
        raise UnsupportedTrainerError(f"The model has no linear layer. {_CURE}")
    seen: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[:] = [inputs[0].detach()]

    def keep_states(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        states = getattr(output, "last_hidden_state", None)
        if isinstance(states, torch.Tensor):
            seen[:] = [states.detach()]  # until a linear layer is called after it

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    hooks += [backbone.register_forward_hook(keep_states) for backbone in _find_backbone(model)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _find_backbone(model: torch.nn.Module) -> list[torch.nn.Module]:
    bare = bare_model(model)
    backbone = getattr(bare, "base_model", None)
    return [backbone] if isinstance(backbone, torch.nn.Module) and backbone is not bare else []


def _is_layer(name: str, module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) and "lora_" not in name


_CURE = (
    "The features that drift is forecast with are the input of the model's head, which must be the last "
    '`torch.nn.Linear` that it calls. Use `estimator="counts"`, or such a model.'
)


def pool_head_input(
    seen: list[torch.Tensor], batch: Mapping[str, Any], row_count: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Make one vector a sample: a head that is given every token, or every choice, is averaged over those that count.

    Args:
        seen: What `watch_head` collected; it is taken out.
        mask: Which tokens count, shape (rows, tokens); None for those that are no padding.

    Returns:
        Shape (rows, inputs), single precision.

    Raises:
        UnsupportedTrainerError: If the forward pass did not use the head.
    """
    if not seen:
        raise UnsupportedTrainerError(f"No linear layer of the model took part in its forward pass. {_CURE}")
    head_input = seen.pop().float()
    if head_input.ndim == 3:
        counted = batch.get("attention_mask", torch.ones(head_input.shape[:2])) if mask is None else mask
        weights = counted.flatten(0, -2)[:, None].to(head_input)
        head_input = (weights @ head_input)[:, 0] / weights.sum(2).clamp(min=1)
    if len(head_input) > row_count:  # of a sample's choices, which lie beside each other
        head_input = head_input.view(row_count, -1, head_input.shape[-1]).mean(1)
    return head_input
