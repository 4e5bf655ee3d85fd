"""WiSE-FT: weights between those of the base model and the fine-tuned one."""

from collections.abc import Mapping

import torch


def average_weights(
    base: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Interpolate between two models of one architecture, as in WiSE-FT (Wortsman et al. 2022).

    Args:
        share: The share of the fine-tuned weights: 0 gives the base model, 1 the fine-tuned one.

    Returns:
        A state with (1 − share) · base + share · tuned; tensors that are not floats are the fine-tuned model's.

    Example:
        >>> average_weights({"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}, 0.5)
        {'w': tensor([1.])}
    """
    return {
        name: torch.lerp(base[name].to(weight), weight, share) if weight.is_floating_point() else weight.clone()
        for name, weight in tuned.items()
    }
