"""`RightTokens`: a sample is right when its target tokens are."""

from dataclasses import dataclass
from typing import Any

import torch

from mixcd.matter.correctness.reading import Reading, Targets, weigh_wrong
from mixcd.matter.correctness.token_rule import TokenRule, Tokens
from mixcd.words.errors import SettingError

_LEAST_LOSS = 1e-6
"""Smaller ones are told apart by rounding only."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class RightTokens(TokenRule):
    """Right when the target tokens are predicted, each given all true tokens before it (teacher forcing).

    With every token right, that is the same as greedy decoding giving exactly the target: rare in usual texts, for
    which `EachToken` is the default. The rules by `least_share` or `loss_tolerance` are our choice, not the paper's.

    Paper: collateral damage in translation.

    Args:
        least_share: τ, the share of the target tokens that must be right, in (0, 1].
        loss_tolerance: δ: instead, a sample is right while its loss is at most the base model's plus this, in nats a
            token; the base model gets all samples right then.
        is_shifted: As in `EachToken`, and `is_fused`, too.

    Raises:
        SettingError: If a setting makes no sense, or both are given.
    """

    least_share: float = 1.0
    loss_tolerance: float | None = None

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
        if self.loss_tolerance is not None:
            return f"{self.task}: loss at most the base model's + {self.loss_tolerance:g}"
        return f"{self.task}: share of target tokens right ≥ {self.least_share:g}"

    @property
    def has_logits(self) -> bool:
        """Whether drift can be forecast: not where the base model's loss is the measure."""
        return self.loss_tolerance is None

    def read(self, output: Any, targets: Targets) -> Reading:
        """Read `logits` of shape (samples, tokens, vocabulary), or what a fused head made of them."""
        tokens = self.read_tokens(output, targets)
        least = 0.0 if self.loss_tolerance is not None else self.least_share
        logits = weigh_wrong(self._weakest(tokens)[:, None]) if self.has_logits else None
        return tokens.read(tokens.share >= least, logits)

    def _weakest(self, tokens: Tokens) -> torch.Tensor:
        """Return the log-odds against the least likely token that must be right, shape (samples,).

        Odds, for a fused head does not show which other token is ahead; and they come with the loss.
        """
        losses = tokens.losses
        against = losses + torch.log(-torch.expm1(-losses.clamp(min=_LEAST_LOSS)))  # log (1 − p) / p
        against = against.masked_fill(~tokens.target, -torch.inf)
        target_count = tokens.target.sum(-1)
        spared = target_count - torch.ceil(self.least_share * target_count - _ROUNDING).long()  # that may be wrong
        return against.sort(dim=-1, descending=True).values.gather(-1, spared[:, None])[:, 0]
