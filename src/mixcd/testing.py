"""The conformance suite, for mixcd's own tests and for authors of other trainers and estimators."""

from mixcd.run.conformance.check_estimator import check_estimator
from mixcd.run.conformance.check_result import CheckResult, require_conformance
from mixcd.run.conformance.check_trainer import MIX_RATIO, STEPS, MakeTrainer, check_trainer, measure_false_damage

__all__ = [
    "MIX_RATIO",
    "STEPS",
    "CheckResult",
    "MakeTrainer",
    "check_estimator",
    "check_trainer",
    "measure_false_damage",
    "require_conformance",
]
