"""Trainers that are refused by their class, and what is none. Classes of packages that are not installed stand in."""

import pytest
import torch
import trl
from transformers import Trainer

import mixcd
from mixcd.words.errors import UnsupportedTrainerError

UNTOLD = (
    " instead of inputs with `labels`, so rehearsal cannot tell what the model gets right about a prior sample. It "
    "follows `SFTTrainer` and transformers' own trainers. Rehearse "
)


def refuse(trainer):
    with pytest.raises(UnsupportedTrainerError) as failure:
        mixcd.attach(trainer, [], mix_ratio=0.25)
    return str(failure.value)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("DPOTrainer", "a chosen and a rejected answer"),
        ("RewardTrainer", "a chosen and a rejected answer"),
        ("KTOTrainer", "answers that are liked or not"),
        ("GRPOTrainer", "answers that the model makes, with rewards"),
        ("RLOOTrainer", "answers that the model makes, with rewards"),
    ],
)
def test_trainers_of_trl_whose_samples_have_no_target_are_refused_by_what_is_missing(name, instead):
    kind = getattr(trl, name)
    own = type("Own", (kind,), {})
    for refused in (kind, own):
        message = refuse(refused.__new__(refused))
        assert message == f"The samples of `{name}` hold {instead}{UNTOLD}in a stage of supervised fine-tuning."


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        ("sentence_transformers.trainer", "SentenceTransformerTrainer", "texts that the loss compares by their"),
        ("sentence_transformers.sparse_encoder.trainer", "SparseEncoderTrainer", "texts that the loss compares by"),
        ("sentence_transformers.cross_encoder.trainer", "CrossEncoderTrainer", "pairs of texts that the loss itself"),
        ("sentence_transformers.multi_vector.trainer", "MultiVectorTrainer", "something else instead"),
    ],
)
def test_trainers_of_sentence_transformers_are_refused_by_what_their_samples_have(module, name, instead):
    base = type("BaseTrainer", (Trainer,), {"__module__": "sentence_transformers.base.trainer"})
    kind = type(name, (base,), {"__module__": module})
    own = type("Own", (kind,), {})
    for refused in (kind, own):
        message = refuse(refused.__new__(refused))
        assert message.startswith(f"The samples of `{name}` hold {instead}")
        assert message.endswith(f"{UNTOLD}while a classifier of the texts is trained by transformers' `Trainer`.")


def test_setfit_which_has_a_trainer_of_its_own_is_refused_by_name():
    kind = type("Trainer", (), {"__module__": "setfit.trainer"})
    assert refuse(kind()).startswith("The samples of `setfit.Trainer` hold texts that are compared by")


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (None, "a `NoneType`"),
        ("model", "a `str`"),
        (torch.nn.Linear(1, 1), "a `torch.Linear`"),
        (Trainer, "the class `Trainer`"),
        (type("Trainer", (), {"__module__": "lightning.pytorch.trainer.trainer"})(), "a `lightning.Trainer`"),
    ],
    ids=["nothing", "text", "model", "class", "lightning"],
)
def test_what_is_no_trainer_is_refused_by_what_it_is(given, what):
    assert refuse(given) == (
        f"`trainer` is {what}, but `attach` follows a `transformers.Trainer`, built with its model and data. Pass one. "
        "In a training loop of your own, also Accelerate's or Lightning's, use `mixcd.rehearse`."
    )
