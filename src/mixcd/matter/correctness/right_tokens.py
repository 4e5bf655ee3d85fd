"""`RightTokens`: translation and other sequence-to-sequence tasks, and causal language models."""

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
    refuse_logits,
    weigh_wrong,
)
from mixcd.matter.model_shape.joined_rows import OWN_TOKENS
from mixcd.words.errors import DataError, SettingError, shorten
from mixcd.words.vocabulary import Ids

IGNORED = -100
"""The label of a token that no model is judged on."""
_NUMBERS_AT_ONCE = 1 << 22
"""Logits that are turned into losses together: a copy of all of them would be as large as the model's own."""
_LEAST_LOSS = 1e-6
"""Smaller ones are told apart by rounding only."""
_ROUNDING = 1e-6
_FUSED: Mapping[str, Any] = {"fused_lm_head": True, "use_cache": False}
"""What makes a model of `trl.SFTTrainer` score its labels without building logits."""


@dataclass(frozen=True)
class RightTokens(CorrectnessRule):
    """Right when the target tokens are predicted, each given all true tokens before it (teacher forcing).

    With every token right, the default, that is the same as greedy decoding giving exactly the target. The graded
    rules, by `least_share` or `loss_tolerance`, are our choice, not the paper's.

    Paper: collateral damage in translation.

    Args:
        least_share: τ, the share of the target tokens that must be right, in (0, 1].
        loss_tolerance: δ: instead, a sample is right while its loss is at most the base model's plus this, in nats a
            token; the base model gets all samples right then.
        is_shifted: Whether position t predicts label t + 1, as in causal models, and not label t, as in
            encoder-decoders and token classification; None for what the model is.
        is_fused: Whether the model scores its labels without building logits, as `trl.SFTTrainer` makes it do.

    Raises:
        SettingError: If a setting makes no sense, or both are given.
    """

    least_share: float = 1.0
    loss_tolerance: float | None = None
    is_shifted: bool | None = None
    is_fused: bool = False

    untargeted: ClassVar[str] = "no target token (all labels masked, or the answer truncated away)"

    def __post_init__(self) -> None:
        if not 0 < self.least_share <= 1:
            raise SettingError(
                f"`least_share` is {self.least_share}, but it is a share of the target tokens, in (0, 1]. Pass a "
                "value such as 0.8; 1 asks for every token."
            )
        if self.loss_tolerance is not None and not 0 <= self.loss_tolerance < float("inf"):
            raise SettingError(
                f"`loss_tolerance` is {self.loss_tolerance}, but it must be finite and not negative: nats a token. "
                "Pass a value such as 0.1."
            )
        if self.loss_tolerance is not None and self.least_share != 1:
            raise SettingError(
                "`least_share` and `loss_tolerance` are both given, but a sample is right by one of them. Pass one."
            )

    @property
    def name(self) -> str:
        """The rule in words, with its settings."""
        task = "causal language model" if self.is_shifted else "sequence to sequence or labels of tokens"
        if self.loss_tolerance is not None:
            return f"{task}: loss at most the base model's + {self.loss_tolerance:g}"
        return f"{task}: share of target tokens right ≥ {self.least_share:g}"

    @property
    def has_logits(self) -> bool:
        """Whether drift can be forecast: not where the base model's loss is the measure."""
        return self.loss_tolerance is None

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

    def read(self, output: Any, targets: Targets) -> Reading:
        """Read `logits` of shape (samples, tokens, vocabulary), or what a fused head made of them.

        The loss is the mean over the target tokens, in nats. A sample without a target token is never right, and has
        loss 0.
        """
        right, losses, target = self._score(output, targets)
        if OWN_TOKENS in targets:
            own = targets[OWN_TOKENS].to(target.device)
            own = own[:, 1:] & own[:, :-1] if self.is_shifted else own  # a sample's first token is predicted by none
            right, losses, target = right & own, losses * own, target & own
        share, target_count = share_of_tokens_right(right, target), target.sum(-1)
        has_target = target_count > 0
        least = 0.0 if self.loss_tolerance is not None else self.least_share
        return Reading(
            correct=(share >= least) & has_target,
            loss=losses.sum(-1) / target_count.clip(min=1),
            logits=weigh_wrong(self._weakest(losses, target)[:, None]) if self.has_logits else None,
            share=torch.where(has_target, share, torch.nan),
            head_mask=functional.pad(target, (0, 1)) if self.is_shifted else target,
            has_target=has_target,
        )

    def _score(self, output: Any, targets: Targets) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return which predictions are right, their losses, and which are of targets; shape (rows, tokens)."""
        is_top, scores, target = (read_tensor(output, name) for name in ("is_top1", "log_probs", "label_mask"))
        if is_top is not None and scores is not None and target is not None:
            return is_top.bool(), -scores.float(), target
        logits, labels = self._align(output, targets)
        return *_score_tokens(logits, labels), labels != IGNORED

    def _weakest(self, losses: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the log-odds against the least likely token that must be right, shape (samples,).

        Odds, for a fused head does not show which other token is ahead; and they come with the loss.
        """
        against = losses + torch.log(-torch.expm1(-losses.clamp(min=_LEAST_LOSS)))  # log (1 − p) / p
        against = against.masked_fill(~target, -torch.inf)
        target_count = target.sum(-1)
        spared = target_count - torch.ceil(self.least_share * target_count - _ROUNDING).long()  # that may be wrong
        return against.sort(dim=-1, descending=True).values.gather(-1, spared[:, None])[:, 0]

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


def _score_tokens(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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
