"""`TokenRule`: what the rules for language models share: which target tokens a forward pass has right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional

from mixcd.matter.correctness.reading import (
    NO_TARGET,
    CorrectnessRule,
    Reading,
    Targets,
    find_target,
    read_tensor,
    refuse_logits,
)
from mixcd.matter.model_shape.joined_rows import OWN_TOKENS
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Ids

IGNORED = -100
"""The label of a token that no model is judged on."""
_NUMBERS_AT_ONCE = 1 << 22
"""Logits that are turned into losses together: a copy of all of them would be as large as the model's own."""
_FUSED: Mapping[str, Any] = {"fused_lm_head": True, "use_cache": False}
"""What makes a model of `trl.SFTTrainer` score its labels without building logits."""


@dataclass(frozen=True)
class Tokens:
    """What a forward pass shows of the target tokens of each sample; tensors on the model's device.

    Args:
        right: Whether the likeliest token is the true one, shape (samples, tokens).
        losses: In nats, shape (samples, tokens); 0 where there is no target.
        target: Which are targets, shape (samples, tokens).
        head_mask: Which inputs of the head the targets are predicted from, shape (samples, inputs).
    """

    right: torch.Tensor
    losses: torch.Tensor
    target: torch.Tensor
    head_mask: torch.Tensor

    def read(self, correct: torch.Tensor, logits: torch.Tensor | None = None) -> Reading:
        """Return what these tokens show of each sample, of which the rule says which is right.

        The loss is the mean over the target tokens, in nats. A sample without a target token is never right, and has
        loss 0.

        Args:
            correct: Whether the rule holds for each, shape (samples,).
            logits: What drift is forecast of; None where it is not.
        """
        target_count = self.target.sum(-1)
        has_target = target_count > 0
        return Reading(
            correct=correct & has_target,
            loss=self.losses.sum(-1) / target_count.clip(min=1),
            logits=logits,
            share=torch.where(has_target, self.share, torch.nan),
            head_mask=self.head_mask,
            has_target=has_target,
            tokens=torch.where(self.target, self.right, NO_TARGET).to(torch.int8),
        )

    @property
    def share(self) -> torch.Tensor:
        """The share of the target tokens that is right, shape (samples,); 0 without any."""
        shares: torch.Tensor = share_of_tokens_right(self.right, self.target)
        return shares


@dataclass(frozen=True, kw_only=True)
class TokenRule(CorrectnessRule):
    """Judges each target token, given all true tokens before it (teacher forcing).

    Args:
        is_shifted: Whether position t predicts label t + 1, as in causal models, and not label t, as in
            encoder-decoders and token classification; None for what the model is.
        is_fused: Whether the model scores its labels without building logits, as `trl.SFTTrainer` makes it do.
    """

    is_shifted: bool | None = None
    is_fused: bool = False

    untargeted: ClassVar[str] = "no target token (all labels masked, or the answer truncated away)"

    @property
    def task(self) -> str:
        """What kind of model is judged, in words."""
        return "causal language model" if self.is_shifted else "sequence to sequence or labels of tokens"

    @property
    def withheld(self) -> tuple[str, ...]:
        """The labels; not from an encoder-decoder, which makes its input of them, nor from a head that scores them."""
        return ("labels",) if self.is_shifted and not self.is_fused else ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What makes a fused head score the labels."""
        return _FUSED if self.is_fused else super().settings

    def find_targets(self, batch: Mapping[str, Any], data_name: str) -> Targets:
        """Return the target tokens, `IGNORED` where there is none; and whose they are where samples share a row."""
        labels = find_target(batch, ("labels",), data_name)
        if self.is_shifted:
            labels = _ignore_first(labels, batch.get("attention_mask"))
        return {"labels": labels, OWN_TOKENS: batch[OWN_TOKENS]} if OWN_TOKENS in batch else {"labels": labels}

    def require_known(self, targets: Targets, output: Any, sample_ids: Ids, data_name: str) -> None:
        """Refuse tokens that are not in the model's vocabulary; a fused head does so itself."""
        if read_tensor(output, "is_top1") is not None:
            return
        logits, labels = self._align(output, targets)
        is_unknown = (labels != IGNORED) & ((labels < 0) | (labels >= logits.shape[-1]))
        if OWN_TOKENS in targets:
            is_unknown = is_unknown & targets[OWN_TOKENS].to(labels.device)[:, -labels.shape[-1] :]
        unknown = is_unknown.any(-1).cpu().numpy()
        if unknown.any():
            raise DataError(
                f"`{data_name}` has labels outside the model's {logits.shape[-1]} tokens (or classes of tokens) on "
                f"sample {shorten(sample_ids[unknown])}. Tokenise with the model's own tokenizer, number classes as "
                f"the model does, and mark tokens that are no target by {IGNORED}."
            )

    def read_tokens(self, output: Any, targets: Targets) -> "Tokens":
        """Read `logits` of shape (samples, tokens, vocabulary), or what a fused head made of them."""
        right, losses, target = self._score(output, targets)
        if OWN_TOKENS in targets:
            own = targets[OWN_TOKENS].to(target.device)
            own = own[:, 1:] & own[:, :-1] if self.is_shifted else own  # a sample's first token is predicted by none
            right, losses, target = right & own, losses * own, target & own
        head_mask = functional.pad(target, (0, 1)) if self.is_shifted else target
        return Tokens(right, losses, target, head_mask)

    def mark_targets(self, targets: Targets) -> torch.Tensor:
        """Say which labels a model predicts, shape (samples, tokens): a row a sample, also where they share one."""
        labels = targets["labels"]
        own = targets.get(OWN_TOKENS, torch.ones_like(labels, dtype=torch.bool))
        is_target: torch.Tensor = (labels != IGNORED) & own
        if self.is_shifted:  # a sample's first token is predicted by none
            is_target = is_target & functional.pad(own[:, :-1], (1, 0))
        return is_target

    def find_rivals(self, output: Any, targets: Targets, places: torch.Tensor) -> torch.Tensor:
        """Return what a model says where it has a target wrong: the likeliest token but the true one.

        Args:
            places: Where in its row each sample's label stands, shape (samples,).

        Returns:
            Token numbers, shape (samples,).
        """
        logits, labels = self._align(output, targets)
        places = places.to(logits.device) - int(bool(self.is_shifted))
        rows = torch.arange(len(places), device=logits.device).clip(max=len(logits) - 1)  # 0 where they share one
        found = logits[rows, places].scatter(-1, labels[rows, places][:, None], -torch.inf)
        return found.argmax(-1)

    def _score(self, output: Any, targets: Targets) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return which predictions are right, their losses, and which are of targets; shape (rows, tokens)."""
        is_top, scores, target = (read_tensor(output, name) for name in ("is_top1", "log_probs", "label_mask"))
        if is_top is not None and scores is not None and target is not None:
            kept = targets["labels"].to(target.device)[:, -target.shape[-1] :] != IGNORED
            return is_top.bool(), -scores.float() * kept, target & kept
        logits, labels = self._align(output, targets)
        return *score_tokens(logits, labels), labels != IGNORED

    def _align(self, output: Any, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and the labels that they predict, shapes (rows, tokens, vocabulary), (rows, tokens)."""
        logits, labels = read_tensor(output, "logits"), targets["labels"]
        if logits is None or logits.shape[:-1] != labels.shape:
            wanted = (
                "`logits` of shape (samples, tokens, vocabulary), which a loss computed inside a kernel does not show"
            )
            raise refuse_logits(logits, labels, "language models", wanted)
        labels = labels.to(logits.device)
        return (logits[:, :-1], labels[:, 1:]) if self.is_shifted else (logits, labels)


def _ignore_first(labels: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the labels of a causal model without that of each row's first token, which is predicted by none.

    With padding before it, it would be predicted by that: a sample would have a target more beside a longer one.
    """
    if mask is None or mask.shape != labels.shape:
        return labels
    is_own = mask.to(labels.device) != 0
    return labels.masked_fill(is_own & (is_own.cumsum(-1) == 1), IGNORED)


def score_tokens(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the most likely token is the label, and the cross-entropy; shape (rows, tokens), 0 without a target.

    A processor only looks at the targets, of which prompts have none; elsewhere, to choose would wait for the device.
    """
    _, tokens, vocabulary = logits.shape
    wanted = labels.reshape(-1)
    right, losses = torch.zeros_like(wanted, dtype=torch.bool), torch.zeros(wanted.shape, device=wanted.device)
    on_processor = wanted.device.type == "cpu"
    chosen = (wanted != IGNORED).nonzero()[:, 0] if on_processor else torch.arange(len(wanted), device=wanted.device)
    flat = logits.view(-1, vocabulary) if logits.is_contiguous() else None
    for places in torch.split(chosen, max(1, _NUMBERS_AT_ONCE // vocabulary)):
        part = logits[places // tokens, places % tokens] if flat is None else flat.index_select(0, places)
        label = wanted[places]
        losses[places] = functional.cross_entropy(part.float(), label, ignore_index=IGNORED, reduction="none")
        right[places] = _is_likeliest(part, label) if on_processor else part.argmax(-1) == label
    return right.view(labels.shape), losses.view(labels.shape)


def _is_likeliest(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Say where the label is the arg-max, the first of several, shape (tokens,); it is struck out of the logits.

    A processor takes several times as long for `argmax` as for `amax`.
    """
    own = logits.gather(-1, labels[:, None])[:, 0]
    others = logits.scatter_(-1, labels[:, None], -torch.inf).amax(-1)
    right = own > others
    even = (own == others).nonzero()[:, 0]
    right[even] = labels[even] < logits[even].argmax(-1)
    return right


def share_of_tokens_right(right: Any, target: Any) -> Any:
    """Return the share of the target tokens that are predicted, given all true tokens before each of them.

    Args:
        right: Whether the likeliest token at each position is the true one, shape (samples, tokens).
        target: Which positions are targets, shape (samples, tokens).

    Returns:
        Shape (samples,): 1 when greedy decoding would give exactly the target; 0 without a target.

    Example:
        >>> import numpy as np
        >>> share_of_tokens_right(np.array([[True, False], [True, False]]), np.array([[True, True], [True, False]]))
        array([0.5, 1. ])
    """
    return (right & target).sum(-1) / target.sum(-1).clip(min=1)
