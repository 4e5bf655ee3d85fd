"""The two models of a comparison: given, or opened with the tokenizer beside them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer

from mixcd.edge.compare.tokenizer_match import require_same_tokens
from mixcd.edge.model.loading import Dtype, find_tokenizer_place, open_model
from mixcd.edge.model.model_place import has_tokenizer, locate, reason_of
from mixcd.edge.model.saved_adapter import find_adapter, put_adapter
from mixcd.matter.model_shape.fresh_adapter import bare_model, without_adapter
from mixcd.matter.prior_and_new_data.label_names import match_labels
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Ids

Model = torch.nn.Module | str | Path
"""A model, or the folder or hub name to load it from."""


@dataclass(frozen=True)
class ModelPair:
    """Two models to compare.

    Args:
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

    @property
    def dtype(self) -> str:
        """What the weights are held in while they predict."""
        models = (self.base, self.base if self.tuned is None else self.tuned)
        before, after = (str(_dtype_of(one)).removeprefix("torch.") for one in models)
        return before if before == after else f"{before} before, {after} after"

    def match_labels(self) -> Ids | None:
        """Return the fine-tuned model's number of each label, as `label_names.match_labels` does."""
        return None if self.tuned is None else match_labels(self.base, self.tuned)

    @contextmanager
    def base_alone(self) -> Iterator[torch.nn.Module]:
        """Give the base model, without an adapter that was put on it, on the device that it predicts on."""
        adapted: Any = self.tuned
        is_wrapped = adapted is not None and adapted is not self.base and bare_model(adapted) is self.base
        with (
            without_adapter(adapted) if is_wrapped else nullcontext(),
            _padded_as(self.base, self.tokenizer),
            _placed(self.base, self.moves[0]),
        ):
            yield self.base

    @contextmanager
    def tuned_alone(self) -> Iterator[torch.nn.Module]:
        """Give the fine-tuned model; an adapter is taken off the base model afterwards."""
        if self.tuned is not None:
            with _padded_as(self.tuned, self.tokenizer), _placed(self.tuned, self.moves[1]):
                yield self.tuned
            return
        with _padded_as(self.base, self.tokenizer), _restored(self.base):
            adapted = put_adapter(self.base, cast(Path, self.adapter), "tuned")
            with _placed(adapted, self.moves[0]):
                yield adapted


def open_models(base: Model, tuned: Model, tokenizer: Any = None) -> ModelPair:
    """Open what is given by its folder or hub name, and see that both take the same tokens.

    Both are held in the wider of their dtypes: what rounding alone turns would count as damage or gain. A model that is
    given loaded stays as it is.

    Args:
        tuned: The fine-tuned model, or an adapter: it goes on the base model, unless that is an adapter itself, for
            then each goes on the model that it was made for.
        tokenizer: The tokenizer of both; those beside the models by default.

    Raises:
        SettingError: If a model cannot be opened.
        DataError: If the tokenizers differ.
    """
    adapter = _find_adapter(tuned, "tuned") if _find_adapter(base, "base") is None else None
    if tokenizer is None:
        found = [_find_tokenizer(base, "base"), _find_tokenizer(adapter or tuned, "tuned", follows=adapter is None)]
        require_same_tokens(*found)
        tokenizer = found[0] or found[1]
    models = _open_alike({"base": base} if adapter else {"base": base, "tuned": tuned})
    if adapter is not None:  # refused now, not when the base model has predicted
        with _restored(models["base"]):
            put_adapter(models["base"], adapter, "tuned")
    return ModelPair(
        base=models["base"],
        tuned=models.get("tuned"),
        adapter=adapter,
        tokenizer=tokenizer,
        moves=(not isinstance(base, torch.nn.Module), not isinstance(tuned, torch.nn.Module)),
    )


def _open_alike(given: Mapping[str, Model]) -> dict[str, torch.nn.Module]:
    """Open models by what they are called, in one dtype."""
    models = {name: _open(model, name) for name, model in given.items()}
    widest = reduce(torch.promote_types, map(_dtype_of, models.values()))
    return {
        name: model if _dtype_of(model) == widest else _open(given[name], name, widest)
        for name, model in models.items()
    }


def _open(model: Model, name: str, dtype: Dtype = "auto") -> torch.nn.Module:
    return model if isinstance(model, torch.nn.Module) else open_model(model, name, dtype=dtype)


def _dtype_of(model: torch.nn.Module) -> torch.dtype:
    """The dtype of a model's first weights, as transformers tells it."""
    return next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.get_default_dtype())


def _find_adapter(model: Model, name: str) -> Path | None:
    return None if isinstance(model, torch.nn.Module) else find_adapter(model, name)


def _find_tokenizer(model: Model, name: str, follows: bool = True) -> Any:
    """The tokenizer beside a model, or beside the one that an adapter was made for; None where there is none."""
    if isinstance(model, torch.nn.Module):
        return None
    place, choices = locate(find_tokenizer_place(str(model), name) if follows else str(model), name)
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
def _padded_as(model: torch.nn.Module, tokenizer: Any) -> Iterator[None]:
    """Let a model take for padding what the tokenizer pads with, as training does, and put its own token back after."""
    config: Any = getattr(bare_model(model), "config", None)
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else None
    token = getattr(tokenizer, "pad_token_id", None)
    if text_config is None or token is None:
        yield
        return
    own = getattr(text_config, "pad_token_id", None)
    text_config.pad_token_id = token
    try:
        yield
    finally:
        text_config.pad_token_id = own


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
