"""Fine-tune a model on a new task without losing what it already knows, at no extra compute."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixcd.edge.compare.compare import compare as compare
    from mixcd.edge.compare.comparison import Comparison as Comparison
    from mixcd.edge.compare.page import write_report as write_report
    from mixcd.edge.compare.verdict import judge_damage as judge_damage
    from mixcd.edge.compare.verdict import judge_rehearsal as judge_rehearsal
    from mixcd.edge.stages.ledger import Ledger as Ledger
    from mixcd.edge.stages.ledger import make_ledger as make_ledger
    from mixcd.ideas.collateral_damage_estimator import CountEstimator as CountEstimator
    from mixcd.ideas.collateral_damage_estimator import Counts as Counts
    from mixcd.ideas.collateral_damage_estimator import Drift as Drift
    from mixcd.ideas.collateral_damage_estimator import DriftEstimator as DriftEstimator
    from mixcd.ideas.collateral_damage_estimator import Factored as Factored
    from mixcd.ideas.collateral_damage_estimator import FactoredEstimator as FactoredEstimator
    from mixcd.ideas.collateral_damage_estimator import Paper as Paper
    from mixcd.ideas.collateral_damage_estimator import Uniform as Uniform
    from mixcd.ideas.partition_strategy import ByColumn as ByColumn
    from mixcd.ideas.partition_strategy import ByFeatures as ByFeatures
    from mixcd.ideas.partition_strategy import ByPriorLoss as ByPriorLoss
    from mixcd.ideas.partition_strategy import Combined as Combined
    from mixcd.ideas.probe import Probe as Probe
    from mixcd.matter.base_model.prior_predictions import predict_prior as predict_prior
    from mixcd.matter.correctness import EachToken as EachToken
    from mixcd.matter.correctness import NearTarget as NearTarget
    from mixcd.matter.correctness import RightClass as RightClass
    from mixcd.matter.correctness import RightLabels as RightLabels
    from mixcd.matter.correctness import RightSpan as RightSpan
    from mixcd.matter.correctness import RightTokens as RightTokens
    from mixcd.run.own_loop.rehearse import rehearse as rehearse
    from mixcd.run.trainer.attach import attach as attach
    from mixcd.words.errors import RehearsalError as RehearsalError
    from mixcd.words.version import __version__ as __version__
    from mixcd.words.vocabulary import CollateralDamageEstimator as CollateralDamageEstimator
    from mixcd.words.vocabulary import EstimatorSettings as EstimatorSettings
    from mixcd.words.vocabulary import PartitionStrategy as PartitionStrategy

_NAMES = {
    "edge.compare.compare": ["compare"],
    "edge.compare.comparison": ["Comparison"],
    "edge.compare.page": ["write_report"],
    "edge.compare.verdict": ["judge_damage", "judge_rehearsal"],
    "edge.stages.ledger": ["Ledger", "make_ledger"],
    "ideas.collateral_damage_estimator.count_estimator": ["CountEstimator", "Counts", "Paper", "Uniform"],
    "ideas.collateral_damage_estimator.drift_estimator": ["Drift", "DriftEstimator"],
    "ideas.collateral_damage_estimator.factored_estimator": ["Factored", "FactoredEstimator"],
    "ideas.partition_strategy": ["ByColumn", "ByFeatures", "ByPriorLoss", "Combined"],
    "ideas.probe": ["Probe"],
    "matter.base_model.prior_predictions": ["predict_prior"],
    "matter.correctness": ["EachToken", "NearTarget", "RightClass", "RightLabels", "RightSpan", "RightTokens"],
    "run.own_loop.rehearse": ["rehearse"],
    "run.trainer.attach": ["attach"],
    "words.errors": ["RehearsalError"],
    "words.version": ["__version__"],
    "words.vocabulary": ["CollateralDamageEstimator", "EstimatorSettings", "PartitionStrategy"],
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `mixcd --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mixcd' has no attribute {name!r}")
    return getattr(import_module(f"mixcd.{_HOMES[name]}"), name)
