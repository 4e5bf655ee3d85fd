"""Which trainers rehearsal follows by their class; what they do with their rows is for `trainer_support` to see."""

from typing import Any

from transformers import Trainer

from mixcd.run.trainer.sft_trainer import is_sft_trainer
from mixcd.words.errors import UnsupportedTrainerError

_PAIRS = "a chosen and a rejected answer"
_REWARDED = "answers that the model makes, with rewards"
_COMPARED = "texts that the loss compares by their embeddings"
_INSTEAD = {
    "trl": {
        "DPOTrainer": _PAIRS,
        "KTOTrainer": "answers that are liked or not",
        "RewardTrainer": _PAIRS,
        "GRPOTrainer": _REWARDED,
        "RLOOTrainer": _REWARDED,
    },
    "sentence_transformers": {
        "SentenceTransformerTrainer": _COMPARED,
        "SparseEncoderTrainer": _COMPARED,
        "CrossEncoderTrainer": "pairs of texts that the loss itself tokenises and scores",
    },
    "setfit": {"Trainer": "texts that are compared by their embeddings, for a classifier that is fitted afterwards"},
}
"""What the samples of a package's trainers hold where rehearsal needs labels; those of its others, something else."""
_CURES = {
    "trl": "Rehearse in a stage of supervised fine-tuning",
    "sentence_transformers": "Rehearse while a classifier of the texts is trained by transformers' `Trainer`",
    "setfit": "Rehearse while an `AutoModelForSequenceClassification` is trained by transformers' `Trainer`",
}


def require_followed(trainer: Any) -> None:
    """Refuse what is no trainer of transformers, and trainers whose samples have no target to be right about.

    Raises:
        UnsupportedTrainerError: If it is one; says what its samples have instead, or what it is.
    """
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(trainer).__mro__]
    package, name = next((one for one in kinds if one[0] in _INSTEAD), ("", ""))
    if package and not is_sft_trainer(trainer):
        told = _INSTEAD[package]
        instead = next((told[kind] for one, kind in kinds if one == package and kind in told), "something else")
        shown = name if package != "setfit" else f"{package}.{name}"
        raise UnsupportedTrainerError(
            f"The samples of `{shown}` hold {instead} instead of inputs with `labels`, so rehearsal cannot tell what "
            "the model gets right about a prior sample. It follows `SFTTrainer` and transformers' own trainers. "
            f"{_CURES[package]}."
        )
    if not isinstance(trainer, Trainer):
        given = f"the class `{trainer.__name__}`" if isinstance(trainer, type) else f"a `{_full_name(type(trainer))}`"
        raise UnsupportedTrainerError(
            f"`trainer` is {given}, but `attach` follows a `transformers.Trainer`, built with its model and data. Pass "
            "one. In a training loop of your own, also Accelerate's or Lightning's, use `mixcd.rehearse`."
        )


def _full_name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
