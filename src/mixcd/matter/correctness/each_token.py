"""`EachToken`: damage by token, in language models and token classification."""

from dataclasses import dataclass
from typing import Any, ClassVar

from mixcd.matter.correctness.reading import Reading, Targets
from mixcd.matter.correctness.token_rule import TokenRule


@dataclass(frozen=True)
class EachToken(TokenRule):
    """Each target token is right or wrong, given all true tokens before it (teacher forcing); damage is graded.

    A sample's damage is the share of the tokens that the base model had right and the fine-tuned model has wrong: no
    threshold says when a text as a whole is right. As a whole it counts as right when every target token is, as with
    `RightTokens()`; reports show both. Our choice, not the paper's.

    Args:
        is_shifted: Whether position t predicts label t + 1, as in causal models, and not label t, as in
            encoder-decoders and token classification; None for what the model is.
        is_fused: Whether the model scores its labels without building logits, as `trl.SFTTrainer` makes it do.
    """

    is_graded: ClassVar[bool] = True
    has_logits: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The rule in words."""
        return f"{self.task}: each target token"

    def read(self, output: Any, targets: Targets) -> Reading:
        """Read `logits` of shape (samples, tokens, vocabulary), or what a fused head made of them."""
        tokens = self.read_tokens(output, targets)
        return tokens.read(tokens.share >= 1)
