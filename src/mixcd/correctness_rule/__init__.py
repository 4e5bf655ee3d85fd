"""Correctness rules: each says which samples a model gets right, by its forward pass."""

from mixcd.correctness_rule.choose_rule import choose_common_rule, choose_rule
from mixcd.correctness_rule.model_kind import is_causal, is_multiple_choice, is_token_classifier
from mixcd.correctness_rule.near_target import NearTarget
from mixcd.correctness_rule.reading import CorrectnessRule, Reading
from mixcd.correctness_rule.right_class import RightClass
from mixcd.correctness_rule.right_labels import RightLabels
from mixcd.correctness_rule.right_span import RightSpan
from mixcd.correctness_rule.right_tokens import RightTokens

__all__ = [
    "CorrectnessRule",
    "NearTarget",
    "Reading",
    "RightClass",
    "RightLabels",
    "RightSpan",
    "RightTokens",
    "choose_common_rule",
    "choose_rule",
    "is_causal",
    "is_multiple_choice",
    "is_token_classifier",
]
