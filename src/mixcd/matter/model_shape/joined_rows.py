"""Joined rows: batches whose samples stand one after the other in one row, instead of being padded."""

from collections.abc import Mapping
from typing import Any

import torch

from mixcd.words.errors import UnsupportedTrainerError

OWN_TOKENS = "mixcd_own_tokens"
"""The name under which a rule finds which tokens of a joined row are each sample's."""
_STARTS = "cu_seq_lens_q"
"""Where the samples of a joined row start, and where the last one ends, as kernels of flash attention want it."""


def find_own(batch: Mapping[str, Any], sample_count: int) -> torch.Tensor | None:
    """Find which tokens of a joined row are each sample's.

    Returns:
        Shape (samples, tokens); None where every sample has a row of its own.
    """
    starts: torch.Tensor | None = batch.get(_STARTS)
    if starts is not None:
        places = torch.arange(batch["input_ids"].shape[-1], device=starts.device)
        return (places >= starts[:-1, None]) & (places < starts[1:, None])
    if not is_joined(batch, sample_count) or "position_ids" not in batch:
        return None
    positions = batch["position_ids"]
    numbers = (positions.diff(dim=-1, prepend=positions[:, :1] - 1) != 1).cumsum(-1)  # 0 in the first sample
    own: torch.Tensor = numbers == torch.arange(sample_count, device=positions.device)[:, None]
    return own


def mark_own(batch: Mapping[str, Any], sample_count: int) -> Mapping[str, Any]:
    """Return a batch that says for the rules, where samples are joined in one row, which tokens are each sample's."""
    own = find_own(batch, sample_count)
    return batch if own is None else {**batch, OWN_TOKENS: own}


def require_known_starts(batch: Mapping[str, Any], sample_count: int, collator_name: str) -> None:
    """Refuse a joined row that does not say where each of its samples starts."""
    own = find_own(batch, sample_count)
    if own is None:
        is_known = not is_joined(batch, sample_count)
    else:
        is_known = len(own) == sample_count and bool(own.any(-1).all() and own.any(0).all())
    if not is_known:
        raise UnsupportedTrainerError(
            f"`{collator_name}` joined {sample_count} samples in one row, but the row does not say where each of them "
            "starts, so their predictions cannot be told apart. The batch needs `position_ids` that start anew with "
            f"every sample, or `{_STARTS}` with one start a sample. Let the collator return them "
            "(`DataCollatorWithFlattening` does by default), or pad the samples."
        )


def name_collator(collate_fn: Any) -> str:
    """Return what messages call a collator; one that only drops columns is called like the one inside."""
    inner = getattr(collate_fn, "data_collator", collate_fn)
    return getattr(inner, "__name__", type(inner).__name__)


def is_joined(batch: Mapping[str, Any], sample_count: int) -> bool:
    """Say whether several samples stand in the one row of a batch."""
    ids = batch.get("input_ids")
    return sample_count > 1 and isinstance(ids, torch.Tensor) and ids.ndim == 2 and len(ids) == 1
