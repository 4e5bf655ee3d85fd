"""The tokens of a language model's samples: what it is given, what it should say, and what it says instead."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from mixcd.matter.base_model.batched_inference import batch_by_tokens, collate, count_padded, evaluating, run_model
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.correctness import TokenRule
from mixcd.matter.model_shape.fresh_adapter import bare_model
from mixcd.matter.model_shape.joined_rows import OWN_TOKENS, mark_own
from mixcd.words.vocabulary import Ids

_READ_ROWS, _PREDICTED_ROWS = 64, 4
"""Rows at the length of the longest that are read together; and predicted together, for their logits are large."""


@dataclass(frozen=True)
class SampleTokens:
    """One sample, in tokens.

    Args:
        inputs: What the model is given, without padding; empty where that is no text.
        targets: Its target tokens, or classes of tokens, in their order, shape (targets,).
        places: Where these stand: among the inputs, or in an encoder-decoder among the labels; shape (targets,).
        prompt: What a causal model is given before the first target; others are given all inputs.
        rival: What the model predicts at the target that was asked about; None where none was.
    """

    inputs: Ids
    targets: Ids
    places: Ids
    prompt: Ids
    rival: int | None = None


def read_samples(inference: Inference, sample_ids: Ids) -> list[SampleTokens]:
    """Read the tokens of some samples, as the collator makes them; no model runs."""
    return _read(inference, sample_ids, None)


def predict_wrong(inference: Inference, sample_ids: Ids, numbers: Ids) -> list[SampleTokens]:
    """Read some samples, and what the model predicts at one target each, which it has wrong.

    This takes a forward pass over these samples, in small batches: it builds logits even where the model's head can do
    without.

    Args:
        numbers: Which of its targets is asked about, from 0, shape (samples,).
    """
    with evaluating(inference.model), inference.autocast():
        return _read(inference, sample_ids, numbers)


def is_paired(model: torch.nn.Module) -> bool:
    """Whether a model is an encoder-decoder, whose targets are a text of their own."""
    return bool(getattr(getattr(bare_model(model), "config", None), "is_encoder_decoder", False))


def _read(inference: Inference, sample_ids: Ids, numbers: Ids | None) -> list[SampleTokens]:
    rows = inference.data.rows(sample_ids.tolist())
    found: dict[int, SampleTokens] = {}
    at_once = _READ_ROWS if numbers is None else _PREDICTED_ROWS
    for places in batch_by_tokens([count_padded(row) for row in rows], at_once) if rows else ():
        batch = collate(inference.collate_fn, [rows[place] for place in places])
        asked = None if numbers is None else numbers[places]
        found.update(zip(places.tolist(), _split(inference, batch, len(places), asked), strict=True))
    return [found[place] for place in range(len(rows))]


def _split(
    inference: Inference, batch: Mapping[str, Any], sample_count: int, numbers: Ids | None
) -> Iterator[SampleTokens]:
    """The samples of a batch, one after another."""
    rule = replace(cast(TokenRule, inference.rule), is_fused=False)  # a fused head builds no logits
    marked, output = mark_own(batch, sample_count), None
    if numbers is not None:
        marked, output = run_model(inference.model, rule, batch, sample_count)
    targets = rule.find_targets(marked, inference.data.name)
    columns = [np.flatnonzero(one) for one in rule.mark_targets(targets).cpu().numpy()]
    rivals: list[int | None] = [None] * sample_count
    if numbers is not None:
        asked = [one[number] for one, number in zip(columns, numbers, strict=True)]
        rivals = rule.find_rivals(output, targets, torch.as_tensor(np.array(asked))).tolist()
    labels = np.broadcast_to(targets["labels"].cpu().numpy(), (sample_count, targets["labels"].shape[-1]))
    for number, (inputs, own) in enumerate(_own_inputs(marked, sample_count)):
        places = columns[number] if is_paired(inference.model) else np.searchsorted(own, columns[number])
        start = places[0] if rule.is_shifted and places.size else inputs.size
        yield SampleTokens(inputs, labels[number, columns[number]], places, inputs[:start], rivals[number])


def _own_inputs(batch: Mapping[str, Any], sample_count: int) -> Iterator[tuple[Ids, Ids]]:
    """The tokens that each sample is given, and where they stand in its row."""
    inputs = batch.get("input_ids")
    if inputs is None:
        inputs = torch.empty(sample_count, 0, dtype=torch.long)  # such as sound
    mask = batch.get(OWN_TOKENS, batch.get("attention_mask", torch.ones_like(inputs)))[..., : inputs.shape[-1]]
    rows = np.broadcast_to(inputs.cpu().numpy(), mask.shape)
    for row, own in zip(rows, mask.cpu().numpy(), strict=True):
        places = np.flatnonzero(own)
        yield row[places], places
