from types import SimpleNamespace

import pytest
import torch

from mixcd.matter.prior_and_new_data.label_names import match_labels, number_labels
from mixcd.words.errors import DataError


def make_model(*names):
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace(id2label=dict(enumerate(names)), num_labels=len(names))
    return model


@pytest.mark.parametrize(
    ("base", "tuned", "numbers"),
    [
        (("no", "yes"), ("no", "yes"), None),
        (("no", "yes"), ("No", "YES"), None),
        (("a", "b", "c"), ("c", "A", "b"), [1, 2, 0]),
        (("no", "yes"), ("LABEL_0", "LABEL_1"), None),
    ],
)
def test_labels_are_matched_by_name(base, tuned, numbers):
    found = match_labels(make_model(*base), make_model(*tuned))
    assert (None if found is None else found.tolist()) == numbers


def test_models_without_a_config_are_taken_as_they_are():
    assert match_labels(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)) is None


def test_labels_that_only_one_model_has_are_named():
    with pytest.raises(DataError) as refused:
        match_labels(make_model("no", "yes"), make_model("no", "maybe", "perhaps"))
    assert str(refused.value) == (
        "The models know other labels: only the base model has `yes`; only the fine-tuned model has `maybe`, "
        "`perhaps`. They are compared on the same labels. Name models of the same task."
    )
    with pytest.raises(DataError, match="only the fine-tuned model has none of its own"):
        match_labels(make_model("no", "yes"), make_model("no"))


def test_another_number_of_labels_without_names_is_refused():
    with pytest.raises(DataError, match="The base model has 2 labels, but the fine-tuned model 3"):
        match_labels(make_model("LABEL_0", "LABEL_1"), make_model("LABEL_0", "LABEL_1", "LABEL_2"))


@pytest.mark.parametrize("label2id", [None, {}, {"no": 0, "yes": 1}])
def test_a_model_that_names_its_labels_by_number_alone_has_numbers_by_name(label2id):
    config = SimpleNamespace(id2label={0: "no", 1: "yes"}, label2id=label2id)
    assert number_labels(config) == {"no": 0, "yes": 1}
    assert number_labels(SimpleNamespace(id2label=None, label2id=None)) == {}
