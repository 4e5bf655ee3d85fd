"""`HeadReader`: reads tokens off the input of the model's head, where a loss inside a kernel shows no logits."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from mixcd.matter.base_model.batched_inference import collate, evaluating, run_model
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.correctness import CorrectnessRule, TokenRule
from mixcd.matter.correctness.reading import Reading, Targets, read_tensor
from mixcd.matter.correctness.token_rule import IGNORED, score_tokens
from mixcd.matter.model_shape.joined_rows import OWN_TOKENS
from mixcd.words.errors import UnsupportedTrainerError

_LOGITS_AT_ONCE, _LOGITS_AT_ONCE_ON_GPU = 1 << 20, 1 << 24
"""Logits that are made together: those of all targets would take the memory that the kernel saves."""
_SCALINGS = ("logit_scale", "logits_scaling", "final_logit_softcapping")
"""What a config says of logits: they are multiplied (Cohere), divided (Granite), kept within bounds (Gemma)."""
_TOLERANCE, _TOLERANCE_IN_16_BITS = 1e-3, 0.05
"""How far logits may lie from the model's own, as a share of the largest."""


class HeadReader:
    """Keeps what a model's head is given in a forward pass, and scores target tokens by it.

    No forward pass is made: the head alone is applied again, to a few tokens at a time. It is the output of the model's
    backbone that is kept, since losses inside kernels take the weights of the head without calling it.

    Args:
        model: The model as it is called, wrapped or not.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.score_count = 0
        """Forward passes that were scored."""
        self._headed = next((module for module in model.modules() if _find_head(module) is not None), model)
        self._backbone = _find_backbone(self._headed)
        self._states: torch.Tensor | None = None
        self._autocast = ("cpu", torch.float32, False)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Keep what the head is given by forward passes inside the block, and nothing after it."""
        hook = None if self._backbone is None else self._backbone.register_forward_hook(self._keep)
        try:
            yield
        finally:
            self._states = None
            if hook is not None:
                hook.remove()

    @torch.no_grad()
    def score(
        self, targets: Targets, output: Any, is_shifted: bool, is_wanted: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Score the target tokens of the last forward pass, in the form that TRL's fused head returns.

        Args:
            output: What the model returned, for the message.
            is_shifted: Whether position t predicts label t + 1.
            is_wanted: Which samples are scored, shape (samples,), None for all: tokens of others are wrong, at loss 0.

        Returns:
            `is_top1`, `log_probs` and `label_mask`, each of shape (rows, tokens), or (rows, tokens − 1) if shifted.

        Raises:
            UnsupportedTrainerError: If the head or its input are not found.
        """
        self.score_count += 1
        labels = targets["labels"]
        states = self._take_states(labels.shape, output)
        labels = labels.to(states.device)
        chosen = labels != IGNORED
        if is_wanted is not None:
            chosen = chosen & _tokens_of(is_wanted.to(states.device), targets)
        if is_shifted:
            states, labels, chosen = states[:, :-1], labels[:, 1:], chosen[:, 1:]
        right, losses = torch.zeros_like(chosen), torch.zeros(chosen.shape, device=chosen.device)
        limit = _LOGITS_AT_ONCE_ON_GPU if states.is_cuda else _LOGITS_AT_ONCE
        for places in torch.split(chosen.nonzero(), max(1, limit // self._count_tokens())):
            here = tuple(places.T)
            part = score_tokens(self.predict(states[here])[None], labels[here][None])
            right[here], losses[here] = part[0][0], part[1][0]
        return {"is_top1": right, "log_probs": -losses, "label_mask": labels != IGNORED}

    @torch.no_grad()
    def predict(self, states: torch.Tensor) -> torch.Tensor:
        """Apply the head as the model does, but for dropout: return logits, shape (…, vocabulary)."""
        head, config = _find_head(self._headed), _config_of(self._headed)
        device, precision, is_on = self._autocast
        with evaluating(head), torch.autocast(device, precision, enabled=is_on):
            logits: torch.Tensor = head(states)
        factor, divisor, cap = (getattr(config, name, None) for name in _SCALINGS)
        logits = logits * (factor or 1) / (divisor or 1)
        return torch.tanh(logits / cap) * cap if cap else logits

    def require_own_logits(self, output: Any) -> None:
        """Refuse a model whose logits, which this pass shows, are not what `predict` makes of its head's input.

        Raises:
            UnsupportedTrainerError: If they differ, as where a model scales its logits in a way that is not known.
        """
        shown: Any = read_tensor(output, "logits")
        made = self.predict(self._take_states(shown.shape[:-1], output))
        is_coarse = made.element_size() < 4 or torch.get_float32_matmul_precision() != "highest"
        bound = (_TOLERANCE_IN_16_BITS if is_coarse else _TOLERANCE) * shown.abs().max()
        if made.shape != shown.shape or not bool(((made.float() - shown).abs() <= bound).all()):
            raise self._refuse(output, "what the head makes of its input are not the model's own logits")

    def _keep(self, _module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
        if isinstance(states, torch.Tensor):
            device = states.device.type
            self._states = states.detach()
            self._autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)

    def _take_states(self, shape: torch.Size, output: Any) -> torch.Tensor:
        states, self._states = self._states, None
        if _find_head(self._headed) is None:
            raise self._refuse(output, "the model has no output embeddings (`get_output_embeddings()`)")
        if states is None:
            raise self._refuse(output, "its backbone returned no `last_hidden_state`")
        if states.shape[:-1] != shape:
            found = f"of shape {tuple(states.shape)} for labels of shape {tuple(shape)}"
            raise self._refuse(output, f"the head's input is {found}")
        return states

    def _refuse(self, output: Any, reason: str) -> UnsupportedTrainerError:
        loss = getattr(getattr(self._headed, "loss_function", None), "__name__", "its loss")
        return UnsupportedTrainerError(
            f"In training `{type(self._headed).__name__}` shows no logits of tokens in its `{type(output).__name__}`: "
            f"`{loss}` is computed inside a kernel. Rehearsal then reads predictions off the input of the head, but "
            f"{reason}. Let training show logits, such as by `liger_kernel_config="
            '{"fused_linear_cross_entropy": False}`, which keeps the other kernels.'
        )

    def _count_tokens(self) -> int:
        head: Any = _find_head(self._headed)
        count: int = getattr(head, "out_features", None) or _config_of(self._headed).vocab_size
        return count


def read_pass(
    rule: CorrectnessRule,
    output: Any,
    targets: Targets,
    head: HeadReader | None,
    is_wanted: torch.Tensor | None = None,
) -> Reading:
    """Read a forward pass, off the input of its head where it shows no logits of tokens.

    Args:
        head: What watched the pass; None where the rule counts no tokens.
        is_wanted: Which samples matter, shape (samples,), None for all. Losses of others are NaN where the head is
            read.
    """
    if head is None or not isinstance(rule, TokenRule) or not isinstance(output, Mapping):
        return rule.read(output, targets)
    if shows_tokens(output, targets["labels"]):
        return rule.read(output, targets)
    reading = rule.read(head.score(targets, output, bool(rule.is_shifted), is_wanted), targets)
    if is_wanted is None:
        return reading
    return replace(reading, loss=reading.loss.where(is_wanted.to(reading.loss.device), torch.nan))


def shows_tokens(output: Mapping[str, Any], labels: torch.Tensor) -> bool:
    """Whether an output shows a prediction for every label: logits, or what a fused head made of them."""
    logits = output.get("logits")
    shows_logits = isinstance(logits, torch.Tensor) and logits.shape[:-1] == labels.shape
    return shows_logits or isinstance(output.get("is_top1"), torch.Tensor)


def require_true_head(inference: Inference) -> None:
    """Refuse a model whose logits are not what is read off the input of its head: it predicts one row for that.

    Raises:
        UnsupportedTrainerError: If the head or its input are not found, or the model does something else to its logits.
    """
    head = HeadReader(inference.model)
    batch = collate(inference.collate_fn, [inference.data[0]])
    with evaluating(inference.model), inference.autocast(), head.watch():
        head.require_own_logits(run_model(inference.model, inference.rule, batch, 1)[1])


def _find_head(module: torch.nn.Module) -> Any:
    """Return the layer that makes a language model's logits; not of a wrapper, which only passes the question on."""
    if not hasattr(type(module), "get_output_embeddings"):
        return None
    owner: Any = module
    head = owner.get_output_embeddings()
    return head if isinstance(head, torch.nn.Module) else None


def _find_backbone(module: torch.nn.Module) -> torch.nn.Module | None:
    """Return the part of a language model that makes the input of its head."""
    owner: Any = module
    decoder = getattr(owner, "get_decoder", lambda: None)
    found = (getattr(owner, "base_model", None), decoder() if _find_head(module) is not None else None)
    return next((one for one in found if isinstance(one, torch.nn.Module) and one is not module), None)


def _config_of(module: torch.nn.Module) -> Any:
    config: Any = getattr(module, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _tokens_of(is_wanted: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Return which tokens are of wanted samples, shape (rows, tokens) or (rows, 1)."""
    own = targets.get(OWN_TOKENS)
    return is_wanted[:, None] if own is None else own.to(is_wanted.device)[is_wanted].any(0)[None]
