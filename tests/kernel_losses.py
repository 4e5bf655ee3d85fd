"""Stand-ins for causal models whose loss in training shows no logits of tokens, as kernels for GPUs compute it.

They shift their labels, and take `num_items_in_batch`, as models of transformers do.
"""

from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

KEPT = 4


class EmptyLogits:
    """What Unsloth returns in the place of logits: whatever is asked of it fails."""

    def __getattr__(self, name):
        raise NotImplementedError(f"Unsloth: Logits are empty from 2024.11 onwards ({name})")


class HiddenLoss(LlamaForCausalLM):
    """Computes the loss in training from the last hidden states and the head's weight, some rows at a time: Liger."""

    shown = None
    hides_in_evaluation = False

    def forward(self, input_ids=None, attention_mask=None, labels=None, num_items_in_batch=None, **kwargs):
        if labels is None or not (self.training or self.hides_in_evaluation):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs)
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        target = functional.pad(labels, (0, 1), value=-100)[:, 1:]
        losses = [
            checkpoint(self._sum_up, one, row, use_reentrant=False) for one, row in zip(states, target, strict=True)
        ]
        count = num_items_in_batch if num_items_in_batch is not None else (target != -100).sum()
        return CausalLMOutputWithPast(loss=sum(losses) / count, logits=self.show(states))

    def _sum_up(self, states, target):
        return functional.cross_entropy(states @ self.lm_head.weight.T, target, ignore_index=-100, reduction="sum")

    def show(self, states):
        return self.shown


class EmptyLogitsLoss(HiddenLoss):
    """Shows an object that is no tensor, in evaluation with labels, too: Unsloth."""

    shown = EmptyLogits()
    hides_in_evaluation = True


class LastLogitsLoss(HiddenLoss):
    """Shows the logits of the last positions only: ms-swift's `logits_to_keep`."""

    def show(self, states):
        return self.lm_head(states[:, -KEPT:])


HIDDEN = {"no logits": HiddenLoss, "empty logits": EmptyLogitsLoss, "the last logits": LastLogitsLoss}
