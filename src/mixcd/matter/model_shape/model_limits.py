"""What a model can take: how many token numbers, and how many tokens a sample; and what a collator must do."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mixcd.words.errors import DataError, UnsupportedTrainerError, shorten
from mixcd.words.vocabulary import Ids

logger = logging.getLogger(__name__)

_POSITIONS = ("position_embeddings", "wpe")
"""How modules of absolute positions are called."""
_NO_LIMIT = 10**9  # tokenizers without a limit say 10³⁰


def count_tokens(model: Any) -> int | None:
    """Return the number of a model's tokens, where it says."""
    embeddings = model.get_input_embeddings()
    return embeddings.num_embeddings if isinstance(embeddings, torch.nn.Embedding) else None


def count_positions(model: torch.nn.Module) -> int | None:
    """Return the number of absolute positions, where the model has them: a longer sample fails in the forward pass."""
    counts = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _POSITIONS and isinstance(module, torch.nn.Embedding)
    ]
    return min(counts, default=None)


def longest_input(tokenizer: Any, model: Any) -> int | None:
    """Return the most tokens of a sample that tokenizer and model both take, when either says."""
    limits = (
        tokenizer.model_max_length,
        getattr(model.config, "max_position_embeddings", None),
        count_positions(model),
    )
    return min((limit for limit in limits if limit and limit < _NO_LIMIT), default=None)


def require_fitting(model: torch.nn.Module, lengths: Sequence[int], sample_ids: Ids, data_name: str) -> None:
    """Refuse samples that are longer than the model's positions, before PyTorch fails on an index.

    Args:
        lengths: Tokens of each sample, shape (samples,).
    """
    longest = count_positions(model)
    if longest is None:
        return
    too_long = np.asarray(lengths) > longest
    if too_long.any():
        raise DataError(
            f"`{data_name}` has {max(lengths)} tokens on sample {shorten(sample_ids[too_long])}, but the model has "
            f"{longest} positions. Truncate when tokenising (`truncation=True, max_length={longest}`)."
        )


def warn_of_positions(model: Any, lengths: Sequence[int], data_name: str) -> None:
    """Say when samples are longer than the model was made for, though its positions have no end."""
    config = getattr(model, "config", None)
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and max(lengths, default=0) > longest:
        logger.warning(
            "`%s` has samples of up to %d tokens, but the model was made for %d positions (`max_position_embeddings`). "
            "It is trained on positions that it may never have seen. Pass a `max_length` of no more than these.",
            data_name,
            max(lengths),
            longest,
        )


def require_padding(collate_fn: Any) -> None:
    """Refuse a collator whose tokenizer cannot pad: batches of samples of several lengths could not be made."""
    tokenizer = getattr(collate_fn, "tokenizer", None)
    if tokenizer is not None and getattr(tokenizer, "pad_token", "") is None:
        raise DataError(
            "The tokenizer of the data collator has no padding token, but new and prior samples of several lengths "
            "share a batch. Set it first, such as `tokenizer.pad_token = tokenizer.eos_token`; for a classifier "
            "`model.config.pad_token_id = tokenizer.pad_token_id`, too."
        )


def require_fixed_masks(collate_fn: Any) -> None:
    """Refuse a collator that masks at random: a sample's targets would be others each time that it is read."""
    if getattr(collate_fn, "mlm", False) or hasattr(collate_fn, "plm_probability"):
        raise UnsupportedTrainerError(
            f"The data collator `{type(collate_fn).__name__}` masks other tokens each time that a sample is read, so "
            "what the base model was asked about it is not what training asks, and damage cannot be told. Mask once, "
            "when the rows are prepared, with labels of -100 at all other tokens; collate with "
            "`DataCollatorForTokenClassification`, and pass `correctness=mixcd.RightTokens(is_shifted=False)`."
        )
