import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from torch.utils.data import IterableDataset

import mixcd
from mixcd.ideas.partition_strategy import ByColumn
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset, column_names_of
from mixcd.words.errors import DataError
from mixcd.words.vocabulary import PriorTable
from tiny import make_trainer

ROWS = [{"x": number, "name": f"row {number}"} for number in range(6)]


def test_rows_keep_their_number_as_handed_over():
    prior = PriorDataset(ROWS)
    assert len(prior) == 6
    assert prior[4] == ROWS[4]
    assert prior.rows([5, 0, 5]) == [ROWS[5], ROWS[0], ROWS[5]]
    assert prior.__getitems__([1, 2]) == ROWS[1:3]


def test_a_dict_is_one_dataset_with_a_column_of_names():
    prior = PriorDataset(DatasetDict(a=Dataset.from_list(ROWS[:2]), b=Dataset.from_list(ROWS[2:])))
    assert prior.rows([3, 0, 2, 1]) == [ROWS[3], ROWS[0], ROWS[2], ROWS[1]]
    assert prior.column("prior_set").tolist() == ["a", "a", "b", "b", "b", "b"]
    assert prior.column("x").tolist() == list(range(6))
    assert prior.column_names == ("x", "name", "prior_set")


def test_columns_come_from_any_kind_of_data():
    for data in (ROWS, Dataset.from_list(ROWS), Dataset.from_list(ROWS).with_format("torch")):
        np.testing.assert_array_equal(PriorDataset(data).column("x"), np.arange(6))


def test_a_key_that_only_later_rows_of_a_list_have_is_a_column_with_gaps():
    prior = PriorDataset([{"x": 1}, {"x": 2, "topic": "a"}])
    assert prior.column_names == ("x", "topic")
    assert prior.column("topic").tolist() == prior.arrow_column("topic").to_pylist() == [None, "a"]
    assert prior.read_column("topic", np.array([0, 1]), prior.rows([0, 1])).tolist() == [None, "a"]
    assert ByColumn("topic").assign(PriorTable(np.zeros(2), {"topic": prior.column("topic")})).bin_names == (
        "topic=a",
        "topic missing",
    )


def test_rows_that_are_no_mappings_have_no_columns():
    assert column_names_of([torch.zeros(2)]) == ()


def test_a_missing_column_is_named_with_those_that_exist():
    with pytest.raises(DataError, match="`prior_data` has no column `label`.* `x`, `name`. Name one of these"):
        PriorDataset(ROWS).column("label")


def test_data_that_cannot_be_indexed_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(ROWS)

        def __len__(self):
            return 6

    for data in (Stream(), iter(ROWS), 3, "prior.csv", Dataset.from_list(ROWS).to_iterable_dataset()):
        with pytest.raises(DataError, match="has no length or cannot be indexed.*Pass a map-style dataset"):
            PriorDataset(data)


def test_empty_data_are_refused_by_name():
    with pytest.raises(DataError, match="`prior_data` is empty"):
        PriorDataset([])
    with pytest.raises(DataError, match=r"`held_out\['b'\]` is empty"):
        PriorDataset({"a": ROWS, "b": []}, "held_out")


def test_sets_with_other_columns_are_refused():
    with pytest.raises(DataError, match="`a` and `b` have different columns: `name`"):
        PriorDataset({"a": ROWS, "b": [{"x": 1}]})


def test_the_kept_column_name_is_refused():
    with pytest.raises(DataError, match="has a column `prior_set`.*Rename the column"):
        PriorDataset({"a": [{"prior_set": 1}]})


@pytest.mark.parametrize("value", [{"a": 1}, ["a"]])
def test_a_column_of_several_values_a_sample_is_no_bin(value):
    for data in ([{"x": value}] * 3, Dataset.from_list([{"x": value}] * 3)):
        with pytest.raises(DataError, match="The column `x` of `prior_data` holds a (dict|list) a sample, but a part"):
            PriorDataset(data).require_plain_column("x")
    PriorDataset({"one": [{"x": "a"}]}).require_plain_column("prior_set")


def test_a_partition_reads_a_column_that_the_format_hides(new_data, prior_data, base_model, tmp_path):
    hiding = prior_data.with_format(columns=["input_ids", "attention_mask", "label"])
    trainer = make_trainer(base_model, new_data, tmp_path)
    rehearsal = mixcd.attach(trainer, hiding, mix_ratio=0.25, partition=mixcd.ByColumn("topic"))
    assert "topic=topic 0" in rehearsal.partition.bin_names
