"""Fine-tune a model on a new task without losing what it already knows, at no extra compute."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixcd.collateral_damage_estimator import CountEstimator as CountEstimator
    from mixcd.collateral_damage_estimator import DriftEstimator as DriftEstimator
    from mixcd.collateral_damage_estimator import FactoredEstimator as FactoredEstimator
    from mixcd.comparison.comparison import Comparison as Comparison
    from mixcd.comparison.comparison_page import write_report as write_report
    from mixcd.comparison.comparison_verdict import judge_damage as judge_damage
    from mixcd.comparison.comparison_verdict import judge_rehearsal as judge_rehearsal
    from mixcd.comparison.model_comparison import compare as compare
    from mixcd.correctness_rule import NearTarget as NearTarget
    from mixcd.correctness_rule import RightClass as RightClass
    from mixcd.correctness_rule import RightLabels as RightLabels
    from mixcd.correctness_rule import RightSpan as RightSpan
    from mixcd.correctness_rule import RightTokens as RightTokens
    from mixcd.errors import RehearsalError as RehearsalError
    from mixcd.hand_rehearsal import rehearse as rehearse
    from mixcd.ledger import Ledger as Ledger
    from mixcd.ledger import make_ledger as make_ledger
    from mixcd.partition_strategy import ByColumn as ByColumn
    from mixcd.partition_strategy import ByFeatures as ByFeatures
    from mixcd.partition_strategy import ByPriorLoss as ByPriorLoss
    from mixcd.partition_strategy import Combined as Combined
    from mixcd.prior_predictions import predict_prior as predict_prior
    from mixcd.probe import Probe as Probe
    from mixcd.rehearsal import attach as attach

__version__ = "0.1.0"

_HOMES = {
    "ByColumn": "partition_strategy",
    "ByFeatures": "partition_strategy",
    "ByPriorLoss": "partition_strategy",
    "Combined": "partition_strategy",
    "Comparison": "comparison.comparison",
    "CountEstimator": "collateral_damage_estimator",
    "DriftEstimator": "collateral_damage_estimator",
    "FactoredEstimator": "collateral_damage_estimator",
    "Ledger": "ledger",
    "NearTarget": "correctness_rule",
    "Probe": "probe",
    "RehearsalError": "errors",
    "RightClass": "correctness_rule",
    "RightLabels": "correctness_rule",
    "RightSpan": "correctness_rule",
    "RightTokens": "correctness_rule",
    "attach": "rehearsal",
    "compare": "comparison.model_comparison",
    "judge_damage": "comparison.comparison_verdict",
    "judge_rehearsal": "comparison.comparison_verdict",
    "make_ledger": "ledger",
    "predict_prior": "prior_predictions",
    "rehearse": "hand_rehearsal",
    "write_report": "comparison.comparison_page",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `mixcd --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mixcd' has no attribute {name!r}")
    return getattr(import_module(f"mixcd.{_HOMES[name]}"), name)
