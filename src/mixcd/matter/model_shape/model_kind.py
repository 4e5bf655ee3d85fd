"""What a model of transformers is for, by the names of its class and of those it is made from."""

from typing import Any

import torch

from mixcd.matter.model_shape.fresh_adapter import bare_model

_CAUSAL = ("ForCausalLM", "LMHeadModel", "ModelWithLMHead")
"""How transformers' causal language models are called; a `…WithLMHeadModel` predicts masked tokens."""
_SEEING = ("ForConditionalGeneration", "ForVisionText2Text")
"""How transformers' models of images and text are called; of those with a decoder alone, which shift their labels."""
_UNSHIFTED = {
    "BartForCausalLM",
    "BigBirdPegasusForCausalLM",
    "BlenderbotForCausalLM",
    "BlenderbotSmallForCausalLM",
    "CpmAntForCausalLM",
    "MBartForCausalLM",
    "MarianForCausalLM",
    "MvpForCausalLM",
    "PLBartForCausalLM",
    "PegasusForCausalLM",
    "ProphetNetForCausalLM",
    "TrOCRForCausalLM",
    "WhisperForCausalLM",
    "XLNetLMHeadModel",
}
"""Those among them whose loss takes the labels as they are: whoever trains them has shifted the labels."""


def find_shift(model: torch.nn.Module) -> bool | None:
    """Say whether position t of a model is trained to predict label t + 1, and not label t.

    Returns:
        True for causal language models, those that see images, too; False for encoder-decoders, token classification,
        masked language models and the few causal ones that do not shift their labels; None where it is not known.
    """
    if is_causal(model) or is_vision_language(model):
        return True
    is_paired: bool = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if is_paired or is_token_classifier(model) or is_masked(model) or _UNSHIFTED & _names_of(model):
        return False
    return None


def is_causal(model: torch.nn.Module) -> bool:
    """Whether a model is a causal language model that shifts its labels itself, as nearly all do."""
    names = _names_of(model)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) or _UNSHIFTED & names:
        return False
    return any(name.endswith(_CAUSAL) and not name.endswith("WithLMHeadModel") for name in names)


def is_vision_language(model: torch.nn.Module) -> bool:
    """Whether a model is a causal language model that sees images, too, such as LLaVA or Qwen2-VL."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "vision_config") or not any(name.endswith(_SEEING) for name in _names_of(model)):
        return False
    return not (config.is_encoder_decoder or config.get_text_config().is_encoder_decoder)


def is_classifier(model: torch.nn.Module) -> bool:
    """Whether a model gives every text or image a class, or a set of classes."""
    return _is_for(model, "SequenceClassification") or _is_for(model, "ImageClassification")


def is_token_classifier(model: torch.nn.Module) -> bool:
    """Whether a model gives every token a class."""
    return _is_for(model, "TokenClassification")


def is_masked(model: torch.nn.Module) -> bool:
    """Whether a model predicts masked tokens."""
    return _is_for(model, "MaskedLM")


def is_multiple_choice(model: torch.nn.Module) -> bool:
    """Whether a model scores the choices of a question: its classes are places, and as many as a sample has choices."""
    return _is_for(model, "MultipleChoice")


def count_labels(model: torch.nn.Module) -> int | None:
    """Return the number of a model's labels, where its config says."""
    count: int | None = getattr(getattr(model, "config", None), "num_labels", None)
    return count


def _is_for(model: torch.nn.Module, task: str) -> bool:
    return any(name.endswith(f"For{task}") for name in _names_of(model))


def _names_of(model: torch.nn.Module) -> set[str]:
    return {kind.__name__ for kind in type(bare_model(model)).__mro__}
