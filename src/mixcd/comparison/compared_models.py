"""The two models of a comparison: given, or loaded with the tokenizer beside them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer

from mixcd.comparison.tokenizer_match import require_same_tokens
from mixcd.errors import SettingError
from mixcd.fresh_adapter import bare_model
from mixcd.label_names import match_labels
from mixcd.model_loading import explain, has_tokenizer, load_weights, locate, reason_of
from mixcd.vocabulary import Ids

ADAPTER_CONFIG = "adapter_config.json"
"""The file by which a folder is known to hold an adapter of PEFT."""

Model = torch.nn.Module | str | Path
"""A model, or the folder or hub name to load it from."""


@dataclass(frozen=True)
class ModelPair:
    """Two models to compare.

    Args:
        base: The base model.
        tuned: The fine-tuned model; None where it is the base model with an adapter.
        adapter: The adapter's folder, loaded when the base model has predicted: the base model is held once.
        tokenizer: What makes tokens for both; None where none was given nor lies beside the models.
        moves: Which of the two were loaded here, and so are moved to the accelerator for their pass and back.
    """

    base: torch.nn.Module
    tuned: torch.nn.Module | None
    adapter: Path | None
    tokenizer: Any
    moves: tuple[bool, bool]

    def match_labels(self) -> Ids | None:
        """Return the fine-tuned model's number of each label, as `label_names.match_labels` does."""
        return None if self.tuned is None else match_labels(self.base, self.tuned)

    @contextmanager
    def base_alone(self) -> Iterator[torch.nn.Module]:
        """Give the base model, without an adapter that was put on it, on the device that it predicts on."""
        adapted: Any = self.tuned
        is_wrapped = adapted is not None and adapted is not self.base and bare_model(adapted) is self.base
        with adapted.disable_adapter() if is_wrapped else nullcontext(), _placed(self.base, self.moves[0]):
            yield self.base

    @contextmanager
    def tuned_alone(self) -> Iterator[torch.nn.Module]:
        """Give the fine-tuned model; an adapter is taken off the base model afterwards."""
        if self.tuned is not None:
            with _placed(self.tuned, self.moves[1]):
                yield self.tuned
            return
        with _restored(self.base):
            adapted = _put_on(self.base, self.adapter)
            with _placed(adapted, self.moves[0]):
                yield adapted


def open_models(base: Model, tuned: Model, tokenizer: Any = None) -> ModelPair:
    """Load what is given by its folder or hub name, and see that both take the same tokens.

    Args:
        base: The base model.
        tuned: The fine-tuned model, or the folder of an adapter for the base model.
        tokenizer: The tokenizer of both; those beside the models by default.

    Returns:
        The models.

    Raises:
        SettingError: If a model cannot be loaded.
        DataError: If the tokenizers differ.
    """
    if _is_adapter(base):
        raise SettingError(
            f"The base model is `{base}`, which holds an adapter alone, but a comparison starts from a whole model. "
            "Name the model that the adapter was made for, or merge the two first."
        )
    adapter = Path(str(tuned)).expanduser() if _is_adapter(tuned) else None
    if tokenizer is None:
        found = [_find_tokenizer(base, "base"), _find_tokenizer(tuned, "tuned")]
        require_same_tokens(*found)
        tokenizer = found[0] or found[1]
    return ModelPair(
        base=_load(base, "base"),
        tuned=None if adapter else _load(tuned, "tuned"),
        adapter=adapter,
        tokenizer=tokenizer,
        moves=(not isinstance(base, torch.nn.Module), not isinstance(tuned, torch.nn.Module)),
    )


def _load(model: Model, name: str) -> torch.nn.Module:
    """Load a model of the class that its config names."""
    if isinstance(model, torch.nn.Module):
        return model
    place, choices = locate(str(model), name)
    try:
        architectures = AutoConfig.from_pretrained(place, **choices).architectures or []
    except Exception as error:  # damaged files make the loaders raise almost anything
        raise SettingError(
            f"`{name}` is `{model}`, but no model can be loaded from there: {explain(error, choices)} Name a folder "
            "written by `save_pretrained`, or a model on the hub that can be reached."
        ) from error
    model_class = getattr(transformers, architectures[0], None) if architectures else None
    if model_class is None:
        raise SettingError(
            f"`{name}` is `{model}`, whose `config.json` names {' '.join(architectures) or 'no class'} as its "
            "architecture, but a class of transformers is needed there. Save it with `save_pretrained`, or load it "
            "yourself and call `mixcd.compare`."
        )
    return load_weights(model_class, model, name)


def _find_tokenizer(model: Model, name: str) -> Any:
    """The tokenizer beside a model; None where there is none."""
    if isinstance(model, torch.nn.Module):
        return None
    place, choices = locate(str(model), name)
    if Path(place).is_dir() and not has_tokenizer(Path(place)):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **choices)
    except Exception as error:  # damaged files make the loaders raise almost anything
        if not Path(place).is_dir():
            return None  # a model of the hub that is none of texts
        raise SettingError(
            f"No tokenizer can be loaded from `{model}`: {reason_of(error)} Restore its files as `save_pretrained` "
            "wrote them."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked, so any token does
    return tokenizer


def _is_adapter(model: Model) -> bool:
    return not isinstance(model, torch.nn.Module) and (Path(model).expanduser() / ADAPTER_CONFIG).is_file()


def _put_on(base: torch.nn.Module, adapter: Path | None) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise SettingError(
            f"The fine-tuned model `{adapter}` is an adapter, which needs the package `peft`. Run `pip install peft`."
        ) from error
    wrapped: Any = base
    try:
        return PeftModel.from_pretrained(wrapped, str(adapter))
    except Exception as error:  # damaged files make the loaders raise almost anything
        raise SettingError(
            f"The adapter `{adapter}` does not go on the base model: {reason_of(error)} Name the base model that it "
            "was made for."
        ) from error


@contextmanager
def _restored(model: torch.nn.Module) -> Iterator[None]:
    """Put back what an adapter replaces; PEFT's own `unload` would leave its trained head on the model."""
    children = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    trainable = {weight: weight.requires_grad for weight in model.parameters()}
    try:
        yield
    finally:
        for parent, name, child in children:
            setattr(parent, name, child)
        for weight, was_trainable in trainable.items():
            weight.requires_grad_(was_trainable)
        vars(model).pop("peft_config", None)


@contextmanager
def _placed(model: torch.nn.Module, moves: bool) -> Iterator[None]:
    moves = moves and torch.cuda.is_available()
    if moves:
        model.to("cuda")
    try:
        yield
    finally:
        if moves:
            model.to("cpu")
