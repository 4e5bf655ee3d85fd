"""Correctness rules: each says which samples a model gets right, by its forward pass."""

from mixcd.matter.correctness.choose_rule import RULES, choose_common_rule, choose_rule, require_one_target
from mixcd.matter.correctness.each_token import EachToken
from mixcd.matter.correctness.near_target import NearTarget
from mixcd.matter.correctness.reading import CorrectnessRule, Reading
from mixcd.matter.correctness.right_class import RightClass
from mixcd.matter.correctness.right_labels import RightLabels
from mixcd.matter.correctness.right_span import RightSpan
from mixcd.matter.correctness.right_tokens import RightTokens
from mixcd.matter.correctness.token_rule import TokenRule
from mixcd.matter.model_shape.model_kind import is_causal, is_multiple_choice, is_token_classifier

__all__ = [
    "RULES",
    "CorrectnessRule",
    "EachToken",
    "NearTarget",
    "Reading",
    "RightClass",
    "RightLabels",
    "RightSpan",
    "RightTokens",
    "TokenRule",
    "choose_common_rule",
    "choose_rule",
    "is_causal",
    "is_multiple_choice",
    "is_token_classifier",
    "require_one_target",
]
