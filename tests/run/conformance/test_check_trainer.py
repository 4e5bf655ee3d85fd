"""The conformance suite passes on every trainer that mixcd says it follows, and finds what is wrong with others."""

from pathlib import Path

import pytest
import torch
from transformers import Trainer

from mixcd.testing import CheckResult, check_trainer, require_conformance
from supported_trainers import KNOWN_FAULTS, TRAINERS, _family
from tiny_tasks import FAMILIES

SUPPORT = Path(__file__).parents[3] / "docs" / "support.md"


@pytest.mark.parametrize("name", TRAINERS)
def test_a_supported_trainer_conforms_and_the_matrix_says_so(name, tmp_path):
    make_trainer, make_prior, correctness = TRAINERS[name]()
    results = check_trainer(make_trainer, make_prior(), tmp_path, correctness=correctness)
    require_conformance([result for result in results if (name, result.name) not in KNOWN_FAULTS])
    marks = " | ".join("yes" if result.passed else "no" for result in results)
    assert f"| {name} | {marks} |" in SUPPORT.read_text("utf-8")


def test_the_matrix_names_no_other_trainer_and_tells_why_something_does_not_hold():
    page = SUPPORT.read_text("utf-8")
    assert sum(line.endswith("| yes |") for line in page.splitlines()) == len(TRAINERS)
    for fault in KNOWN_FAULTS.values():
        assert fault in page


class TwoForwards(Trainer):
    def compute_loss(self, model, inputs, *rest, **named):
        model(**inputs)
        return super().compute_loss(model, inputs, *rest, **named)


class Smaller(Trainer):
    def training_step(self, model, inputs, *rest, **named):
        return super().training_step(model, {name: value[:-1] for name, value in inputs.items()}, *rest, **named)


class Forgetful(Trainer):
    def training_step(self, model, inputs, *rest, **named):
        torch.manual_seed(int(torch.seed() % 2**31))
        with torch.no_grad():
            next(model.parameters()).add_(1e-4 * float(torch.rand(1)))
        return super().training_step(model, inputs, *rest, **named)


@pytest.mark.parametrize(
    ("kind", "check", "part"),
    [
        (TwoForwards, "one forward pass a micro-batch", "32 forward passes, 32 of them observed, in 16 micro-batches"),
        (Smaller, "the ids arrive", "`logits` of shape (7, 3) for labels of shape (8,)"),
        (Forgetful, "an interrupted run goes on as if it had not been", "has other values after resuming"),
    ],
)
def test_what_a_trainer_does_wrong_is_found(kind, check, part, tmp_path):
    make_trainer, make_prior, _ = _family("classification")

    def make(folder, changes):
        trainer = make_trainer(folder, changes)
        trainer.__class__ = kind
        return trainer

    found = {result.name: result for result in check_trainer(make, make_prior(), tmp_path)}
    assert part in found[check].fault
    with pytest.raises(AssertionError, match=f"Checks failed: .*{check}: "):
        require_conformance(list(found.values()))


def test_a_trainer_that_is_refused_fails_every_check(tmp_path):
    family = FAMILIES["classification"]

    def make(folder, changes):
        return family.make_trainer(family.make_model(), None, folder, **changes)

    results = check_trainer(make, family.make_rows(20, 3, "prior"), tmp_path)
    assert len(results) == 8
    assert not any(result.passed for result in results)


def test_results_that_hold_raise_nothing():
    require_conformance([CheckResult("one", "")])
