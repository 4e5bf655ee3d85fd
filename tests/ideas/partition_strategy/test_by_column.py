import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.partition_strategy import ByColumn
from mixcd.words.errors import DataError
from mixcd.words.vocabulary import PriorTable


def assign(name, **columns):
    arrays = {key: np.asarray(values) for key, values in columns.items()}
    size = max((len(array) for array in arrays.values()), default=1)
    return ByColumn(name).assign(PriorTable(np.zeros(size), arrays))


def test_every_integer_value_is_a_bin_in_sorted_order():
    partition = assign("label", label=[10, 2, 10, -1])
    assert partition.bin_ids.tolist() == [2, 1, 2, 0]
    assert partition.bin_names == ("label=-1", "label=2", "label=10")


@pytest.mark.parametrize("dtype", [str, object])
def test_every_text_value_is_a_bin(dtype):
    partition = assign("language", language=np.array(["fr", "en", "fr"], dtype=dtype))
    assert partition.bin_ids.tolist() == [1, 0, 1]
    assert partition.bin_names == ("language=en", "language=fr")


@pytest.mark.parametrize("values", [["en", None, "en", None], [3, None, 3, None], [None, None, 0.5, None]])
def test_missing_values_share_a_bin_of_their_own(values):
    partition = assign("topic", topic=np.array(values, dtype=object))
    missing = partition.bin_ids[[value is None for value in values]]
    others = partition.bin_ids[[value is not None for value in values]]
    assert len(set(missing)) == 1
    assert missing[0] not in others
    assert partition.bin_names[missing[0]] == "topic missing"


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60)
def test_two_samples_share_a_bin_exactly_when_they_share_the_value(values):
    partition = assign("label", label=values)
    assert [partition.bin_names[i] for i in partition.bin_ids] == [f"label={value}" for value in values]
    assert partition.bin_count == len(set(values))
    assert partition.bin_sizes.min() >= 1
    assert partition.bin_sizes.sum() == len(values)


def test_the_strategy_reads_its_column_alone():
    assert ByColumn("label").column_names == ("label",)
    partition = assign("label", label=[0, 1], topic=[5, 6])
    assert partition.bin_names == ("label=0", "label=1")


def test_the_text_none_and_a_missing_value_are_told_apart():
    table = PriorTable(np.zeros(3), {"topic": np.array(["None", None, "x"], dtype=object)})
    partition = ByColumn("topic").assign(table)
    assert partition.bin_ids.tolist() == [0, 2, 1]
    assert partition.bin_names == ("topic=None", "topic=x", "topic missing")


def test_numbers_beside_missing_values_keep_their_order():
    table = PriorTable(np.zeros(4), {"topic": np.array([10, None, 9, float("nan")], dtype=object)})
    assert ByColumn("topic").assign(table).bin_ids.tolist() == [1, 2, 0, 2]


def test_a_missing_column_is_refused_with_the_columns_there_are():
    with pytest.raises(DataError) as failure:
        assign("lable", topic=[0], label=[1])
    assert str(failure.value) == (
        "`ByColumn` asks for column `lable`, but the prior data have `label`, `topic`. Name one of these."
    )
    assert isinstance(failure.value, ValueError)


def test_a_missing_column_is_refused_when_there_are_no_columns_at_all():
    with pytest.raises(DataError, match="`ByColumn` asks for column `label`, but the prior data have no columns"):
        assign("label")


def test_a_missing_column_spells_out_at_most_twenty_columns():
    with pytest.raises(DataError, match=r"`c19` and 3 more\. Name one of these"):
        assign("label", **{f"c{number:02d}": [0] for number in range(23)})
