import pytest
from datasets import Dataset, DatasetDict, IterableDatasetDict

import mixcd
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.matter.prior_and_new_data.split_choice import choose_held_out, choose_rehearsed
from mixcd.words.errors import DataError
from tiny import collate, make_rows, make_trainer

ROWS = Dataset.from_dict({"x": [1]})


def splits(*names, kind=DatasetDict):
    return kind(dict.fromkeys(names, ROWS))


@pytest.mark.parametrize(
    ("given", "rehearsed", "held_out"),
    [
        (("train", "validation", "test"), ["train"], ["validation", "test"]),
        (("train", "dev", "eval", "val", "valid"), ["train"], ["dev", "eval", "val", "valid"]),
        (
            ("train", "validation_matched", "test_mismatched"),
            ["train"],
            ["validation_matched", "test_mismatched"],
        ),
        (("train_sft", "test_sft", "train_gen"), ["train_sft", "train_gen"], ["test_sft"]),
        (("train.clean.100", "test.clean", "Test2"), ["train.clean.100"], ["test.clean", "Test2"]),
        (("train", "unsupervised", "test"), ["train", "unsupervised"], ["unsupervised", "test"]),
    ],
)
def test_splits_for_evaluation_are_not_rehearsed_and_those_for_training_not_measured_on(given, rehearsed, held_out):
    assert list(choose_rehearsed(splits(*given), "prior_data")) == rehearsed
    assert list(choose_held_out(splits(*given), "held_out")) == held_out


@pytest.mark.parametrize("given", [("test",), ("en", "de"), ("train", "more"), ("test", "more"), ("train", "latest")])
def test_nothing_is_left_out_where_only_one_kind_of_split_is_there(given, caplog):
    assert list(choose_rehearsed(splits(*given), "prior_data")) == list(given)
    assert list(choose_held_out(splits(*given), "held_out")) == list(given)
    assert not caplog.text


def test_a_plain_dict_and_rows_are_taken_whole(caplog):
    for data in (splits("train", "test", kind=dict), ROWS, [{"x": 1}]):
        assert choose_rehearsed(data, "prior_data") is data
        assert choose_held_out(data, "held_out") is data
    assert not caplog.text


def test_what_is_left_out_is_named_with_the_way_to_use_it(caplog):
    choose_rehearsed(splits("train", "validation", "test"), "prior_data")
    assert (
        "`prior_data` has `validation`, `test` beside `train`: splits for evaluation are not rehearsed. Pass "
        "`dict(prior_data)` to rehearse every split."
    ) in caplog.text
    choose_held_out(splits("train", "test"), "held_out")
    assert (
        "`held_out` has `train` beside `test`: splits for training may be rehearsed, so nothing is measured on them. "
        "Pass `dict(held_out)` to measure on every split."
    ) in caplog.text


def test_streamed_splits_are_refused_by_name():
    streamed = IterableDatasetDict(train=ROWS.to_iterable_dataset(), test=ROWS.to_iterable_dataset())
    with pytest.raises(DataError, match=r"`prior_data\['train'\]` is a IterableDataset, which has no length"):
        PriorDataset(choose_rehearsed(streamed, "prior_data"))


@pytest.fixture
def prior():
    parts = {"train": (40, 1), "validation": (10, 2), "test": (15, 3)}
    return DatasetDict({name: make_rows(count, seed, "prior") for name, (count, seed) in parts.items()})


def test_every_way_to_rehearse_leaves_the_evaluation_splits_out(base_model, new_data, prior, tmp_path, caplog):
    trainer = make_trainer(base_model, new_data, tmp_path / "run")
    rehearsal = mixcd.attach(trainer, prior, mix_ratio=0.25, held_out=prior)
    assert rehearsal.predictions.sample_count == 40
    evaluation = rehearsal.evaluate()
    assert evaluation.prior.sample_count == 25
    assert {name: one.sample_count for name, one in evaluation.prior_sets.items()} == {"validation": 10, "test": 15}
    predicted = mixcd.predict_prior(base_model, prior, tmp_path / "predicted", collate_fn=collate)
    by_hand = mixcd.rehearse(
        base_model, new_data, prior, tmp_path / "hand", mix_ratio=0.25, batch_size=8, collate_fn=collate
    )
    assert predicted.sample_count == by_hand.predictions.sample_count == 40
    assert caplog.text.count("`prior_data` has `validation`, `test` beside `train`") == 3
    whole = mixcd.predict_prior(base_model, dict(prior), tmp_path / "whole", collate_fn=collate)
    assert whole.sample_count == 65
