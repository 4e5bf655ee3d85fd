"""`choose_rule`: which rule fits a model and its data."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from mixcd.matter.correctness.each_token import EachToken
from mixcd.matter.correctness.near_target import NearTarget
from mixcd.matter.correctness.reading import LABEL_KEYS, CorrectnessRule, find_target
from mixcd.matter.correctness.right_class import RightClass
from mixcd.matter.correctness.right_labels import RightLabels, is_label_set
from mixcd.matter.correctness.right_span import SPAN_KEYS, RightSpan
from mixcd.matter.correctness.right_tokens import RightTokens
from mixcd.matter.correctness.token_rule import TokenRule
from mixcd.matter.model_shape.fresh_adapter import bare_model, prepends_tokens
from mixcd.matter.model_shape.model_kind import (
    count_labels,
    find_shift,
    is_classifier,
    is_masked,
    is_multiple_choice,
)
from mixcd.words.errors import DataError, SettingError, UnsupportedTrainerError, end_sentence, nearest_name, shorten

RULES: Mapping[str, Callable[..., CorrectnessRule]] = {
    "right-class": RightClass,
    "right-labels": RightLabels,
    "right-span": RightSpan,
    "each-token": EachToken,
    "right-tokens": RightTokens,
    "near-target": NearTarget,
}
"""What makes each rule, by its name in `attach` and configs."""


def choose_rule(
    wanted: CorrectnessRule | str | None, model: torch.nn.Module, batch: Mapping[str, Any], data_name: str
) -> CorrectnessRule:
    """Choose when a sample is right: what the caller said, else what the labels and the model are made for.

    Args:
        wanted: The caller's rule, its name, or None.

    Raises:
        DataError: If the batch has no labels.
        SettingError: If the rule is none, or one of target tokens where labels are none, or shifted otherwise than
            the model; or if numbers are to be predicted and no tolerance is given.
        UnsupportedTrainerError: If the labels fit no task that is known.
    """
    labels = batch.get("labels")
    if isinstance(labels, torch.Tensor) and labels.ndim > 1:
        require_one_target({"labels": labels[0]}, model, data_name)
    if isinstance(wanted, str):
        wanted = _make_rule(wanted)
    if isinstance(wanted, TokenRule):
        _require_tokens(batch, data_name)
        return _settle_shift(wanted, model)
    if wanted is not None:
        if not isinstance(wanted, tuple(RULES.values())):  # type: ignore[arg-type]
            raise SettingError(
                f"`correctness` is {wanted!r}, which is no rule. Pass a name ({', '.join(RULES)}), or a rule such as "
                "`mixcd.RightTokens(0.7)`."
            )
        return wanted
    if all(key in batch for key in SPAN_KEYS):
        return RightSpan()
    labels = find_target(batch, LABEL_KEYS, data_name)
    if is_label_set(labels):
        return RightLabels()
    if labels.is_floating_point() or (count_labels(model) == 1 and not is_multiple_choice(model)):
        raise SettingError(
            f"The labels of `{data_name}` are numbers to be predicted (a regression), and how near is right is for you "
            "to say. Pass `correctness=mixcd.NearTarget(tolerance)`, in the unit of the labels; on the command line "
            "`mixcd compare --near`."
        )
    if labels.ndim == 2 and is_classifier(model):
        raise DataError(
            f"The labels of `{data_name}` are of shape {tuple(labels.shape)} and whole numbers, but a classifier of "
            "several labels a sample is trained on floats: 1.0 where a label holds, 0.0 where not. Cast the column, "
            'such as by `data.cast_column("labels", datasets.Sequence(datasets.Value("float32")))`.'
        )
    if labels.ndim == 2:
        _require_fixed_targets(model)
        return _settle_shift(EachToken(), model)
    return RightClass()


def _make_rule(name: str) -> CorrectnessRule:
    if name not in RULES:
        raise SettingError(end_sentence(f'`correctness` is "{name}", which is no rule{nearest_name(name, RULES)}'))
    if RULES[name] is NearTarget:
        raise SettingError(
            '`correctness` is "near-target", but how near is right is for you to say. Pass '
            "`mixcd.NearTarget(tolerance)`, in the unit of the labels."
        )
    return RULES[name]()


def choose_common_rule(
    wanted: CorrectnessRule | str | None,
    model: torch.nn.Module,
    new: tuple[str, Mapping[str, Any]],
    prior: tuple[str, Mapping[str, Any]],
) -> CorrectnessRule:
    """Choose, as `choose_rule` does, the rule that judges new and prior samples, which must be of one kind.

    Args:
        new: What messages call the new data, and a batch of them.
        prior: The same of the prior data.

    Raises:
        DataError: If labels are missing, or the two are of different tasks or with different model inputs.
    """
    rules = [choose_rule(wanted, model, batch, name) for name, batch in (new, prior)]
    for rule, (name, batch) in zip(rules, (new, prior), strict=True):
        rule.find_targets(batch, name)
    if rules[0] != rules[1]:
        raise DataError(
            f"`{new[0]}` and `{prior[0]}` are of different tasks by their labels: {rules[0].name}; {rules[1].name}. "
            f"One model learns both, so they must be of one kind. Prepare `{prior[0]}` exactly like `{new[0]}`."
        )
    different = set(new[1]) ^ set(prior[1])
    if different:
        raise DataError(
            f"The model would be given other inputs for prior than for new samples: "
            f"{shorten((f'`{name}`' for name in sorted(different)), 20)} comes from one of them only. Prepare "
            f"`{prior[0]}` exactly like `{new[0]}`."
        )
    return rules[0]


def require_one_target(row: Any, model: torch.nn.Module, data_name: str) -> None:
    """Refuse a row whose labels are several target sequences, where the model predicts tokens."""
    labels = row.get("labels") if isinstance(row, Mapping) else None
    if (
        labels is not None
        and _is_list(labels)
        and len(labels)
        and _is_list(labels[0])
        and find_shift(model) is not None
    ):
        raise DataError(
            f"The labels of a row of `{data_name}` are several target sequences, but a model is trained on one, and "
            "damage is counted on its tokens. Give every target a row of its own."
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _require_tokens(batch: Mapping[str, Any], data_name: str) -> None:
    labels = batch.get("labels")
    if labels is None or (labels.ndim == 2 and not labels.is_floating_point()):
        return
    raise SettingError(
        "The rule is to count target tokens, but the labels of "
        f"`{data_name}` are of shape {tuple(labels.shape)}, a row a sample, and no token numbers. Leave the rule out: "
        "it is for language models."
    )


def _settle_shift(rule: TokenRule, model: torch.nn.Module) -> TokenRule:
    """Return the rule with the shift that the model has; refused where they differ, or neither is known."""
    if prepends_tokens(model) and not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise UnsupportedTrainerError(
            "The model's adapter puts virtual tokens before the input (prompt tuning, P-tuning), so the model has more "
            "outputs than the batch has labels, and which of them predicts which label is not known. Use prefix tuning "
            "or LoRA, which keep the input as it is."
        )
    known, name = find_shift(model), type(bare_model(model)).__name__
    if rule.is_shifted is None and known is None:
        raise UnsupportedTrainerError(
            f"The labels are one number a token, but what a token of `{name}` predicts is not known: it is called "
            "neither a causal language model nor an encoder-decoder, nor for token classification. Pass "
            "`correctness=mixcd.EachToken(is_shifted=True)` if the output at position t predicts label t + 1, as in "
            "causal language models, or `mixcd.EachToken(is_shifted=False)` if it predicts label t."
        )
    if rule.is_shifted is None:
        return replace(rule, is_shifted=known)
    if known is not None and rule.is_shifted != known:
        meaning = "label t + 1" if known else "label t"
        raise SettingError(
            f"`correctness` has `is_shifted={rule.is_shifted}`, but `{name}` is trained to predict {meaning} at "
            f"position t. Judged otherwise, every figure would be wrong. Pass `is_shifted={known}`, or leave it out."
        )
    return rule


def _require_fixed_targets(model: torch.nn.Module) -> None:
    """Refuse models of masked tokens, whose targets may be others each time."""
    if is_masked(model):
        raise UnsupportedTrainerError(
            f"`{type(bare_model(model)).__name__}` predicts masked tokens, which are usually masked anew each time a "
            "row is read. Then what the base model was asked about a sample is not what training asks, and damage "
            "cannot be told. If the masks are made once, when the rows are prepared, pass "
            "`correctness=mixcd.EachToken(is_shifted=False)`."
        )
