"""`RightSpan`: extractive question answering."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional

from mixcd.matter.correctness.reading import (
    CorrectnessRule,
    Reading,
    Targets,
    find_target,
    read_tensor,
    refuse_output,
    weigh_wrong,
)
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Ids

SPAN_KEYS = ("start_positions", "end_positions")
_MASK = "is_token"
_TASK = "extractive question answering"


@dataclass(frozen=True)
class RightSpan(CorrectnessRule):
    """Right when the arg-max start and the arg-max end are both the gold ones; padding is never predicted.

    A sample whose answer ends before it starts is never right, and has loss 0: such are the one-token answers at a
    context's end in transformers' example script.

    Paper: collateral damage in question answering.
    """

    name: ClassVar[str] = "extractive question answering: arg-max start and end equal the gold span"
    withheld: ClassVar[tuple[str, ...]] = SPAN_KEYS
    untargeted: ClassVar[str] = "an answer that ends before it starts"

    def find_targets(self, batch: Mapping[str, Any], data_name: str) -> Targets:
        """Return the gold starts and ends, token numbers; and which tokens are no padding."""
        spans = {key: find_target(batch, (key,), data_name) for key in SPAN_KEYS}
        return {**spans, _MASK: batch["attention_mask"]} if "attention_mask" in batch else spans

    def require_known(self, targets: Targets, output: Any, sample_ids: Ids, data_name: str) -> None:
        """Refuse spans outside the sample's tokens."""
        start_logits, _ = _read_logits(output, targets)
        starts, ends = (targets[key].to(start_logits.device) for key in SPAN_KEYS)
        inside = _is_inside(starts, start_logits) & _is_inside(ends, start_logits)
        padded = (starts <= ends) & ~(_is_token(starts, start_logits, targets) & _is_token(ends, start_logits, targets))
        unknown = (~inside | padded).cpu().numpy()
        if unknown.any():
            raise DataError(
                f"`{data_name}` has an answer outside the tokens of its sample on sample "
                f"{shorten(sample_ids[unknown])}: such an answer can never be found. Was it truncated away? Leave such "
                "samples out, or let their answer be token 0, as for questions without one."
            )

    def read(self, output: Any, targets: Targets) -> Reading:
        """Read `start_logits` and `end_logits`; the loss is the mean of both cross-entropies, in nats."""
        logits = _read_logits(output, targets)
        spans = [targets[key].to(logits[0].device) for key in SPAN_KEYS]
        has_target = (spans[0] <= spans[1]) & torch.stack([_is_token(one, logits[0], targets) for one in spans]).all(0)
        starts, ends = (torch.where(has_target, one, 0) for one in spans)
        losses = [
            functional.cross_entropy(one.float(), wanted, reduction="none")
            for one, wanted in zip(logits, (starts, ends), strict=True)
        ]
        margins = [_lead_of_others(one, wanted) for one, wanted in zip(logits, (starts, ends), strict=True)]
        return Reading(
            correct=is_span_correct(*logits, starts, ends) & has_target,
            loss=torch.where(has_target, (losses[0] + losses[1]) / 2, 0),
            logits=weigh_wrong(torch.stack(margins, dim=1)),
            has_target=has_target,
        )


def _is_inside(positions: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Whether positions are of the batch's tokens, shape (samples,)."""
    return (positions >= 0) & (positions < logits.shape[1])


def _is_token(positions: torch.Tensor, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Whether positions are of the sample's own tokens, and no padding, shape (samples,)."""
    inside = _is_inside(positions, logits)
    if _MASK not in targets:
        return inside
    places = torch.where(inside, positions, 0)
    return inside & (targets[_MASK].to(positions.device).gather(1, places[:, None])[:, 0] != 0)


def _lead_of_others(logits: torch.Tensor, gold: torch.Tensor) -> torch.Tensor:
    """How far the best other token is ahead of the gold one, shape (samples,)."""
    own = logits.gather(1, gold[:, None])
    others = logits.scatter(1, gold[:, None], torch.finfo(logits.dtype).min)
    return others.max(1).values.float() - own[:, 0].float()


def _read_logits(output: Any, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
    start, end = read_tensor(output, "start_logits"), read_tensor(output, "end_logits")
    if start is None or end is None:
        kind = f"a {type(output).__name__} without `start_logits` and `end_logits`"
        raise refuse_output(kind, _TASK, "both, of shape (samples, tokens)")
    if SPAN_KEYS[0] in targets and len(start) != len(targets[SPAN_KEYS[0]]):
        kind = f"`start_logits` of {len(start)} samples for {len(targets[SPAN_KEYS[0]])} answers"
        raise refuse_output(kind, _TASK, "one row a sample")
    if _MASK in targets:  # a sample's logits of padding depend on the samples beside it
        is_padding = targets[_MASK].to(start.device) == 0
        start, end = (one.masked_fill(is_padding, torch.finfo(one.dtype).min) for one in (start, end))
    return start, end


def is_span_correct(start_logits: Any, end_logits: Any, starts: Any, ends: Any) -> Any:
    """Say which answers are found: the arg-max start and the arg-max end are both the gold ones.

    Args:
        start_logits: Scores of the tokens as start, shape (samples, tokens).
        end_logits: Scores as end, shape (samples, tokens).
        starts: The gold start tokens, shape (samples,).
        ends: The gold end tokens, shape (samples,).

    Example:
        >>> import numpy as np
        >>> scores = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
        >>> is_span_correct(scores, scores, np.array([1, 1]), np.array([1, 2]))
        array([ True, False])
    """
    return (start_logits.argmax(-1) == starts) & (end_logits.argmax(-1) == ends)
