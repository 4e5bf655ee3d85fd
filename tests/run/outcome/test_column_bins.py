import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.column_bins import MOST_VALUES, bin_column, is_flat, is_nearly_unique

VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=80),
    st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=1, max_size=80),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=1, max_size=80),
    st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=1, max_size=200),
)


def column(values):
    return pa.chunked_array([pa.array(values)])


@given(VALUES)
@settings(deadline=None)
def test_every_sample_has_one_bin_and_every_bin_samples(values):
    bins = bin_column("c", column(values))
    assert len(bins.bin_ids) == len(values)
    assert bins.bin_sizes.min() > 0
    assert len(set(bins.bin_names)) == bins.bin_count


@given(VALUES, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_bins_do_not_depend_on_the_order_of_the_rows(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    bins, shuffled = bin_column("c", column(values)), bin_column("c", column([values[row] for row in order]))
    assert bins.bin_names == shuffled.bin_names
    assert bins.bin_ids[order].tolist() == shuffled.bin_ids.tolist()


@given(st.lists(st.integers(0, 120), min_size=1, max_size=300))
@settings(deadline=None)
def test_equal_values_share_a_bin_and_the_most_frequent_have_their_own(values):
    bins = bin_column("c", column(values))
    own = [name for name in bins.bin_names if name.startswith("c=")]
    assert len(own) == min(len(set(values)), MOST_VALUES)
    for value in set(values):
        assert len({bins.bin_ids[row] for row, one in enumerate(values) if one == value}) == 1
    least_own = min(bins.bin_sizes[: len(own)])
    others = [values.count(value) for value in set(values) if f"c={value}" not in own]
    assert all(count <= least_own for count in others)


def test_thousands_of_values_leave_fifty_and_other():
    values = [str(number) for number in range(3000)] + [f"often {number}" for number in range(60) for _ in range(5)]
    bins = bin_column("author", column(values))
    assert bins.bin_count == MOST_VALUES + 1
    assert bins.bin_names[0] == "author=often 0"
    assert bins.bin_names[-1] == "author: 3,010 other values"
    assert bins.bin_sizes[-1] == 3000 + 10 * 5


def test_fractions_of_many_values_are_cut_into_ranges_of_equal_size():
    numbers = np.random.default_rng(0).random(1000).tolist()
    bins = bin_column("score", column([*numbers, None, float("nan")]))
    assert bins.bin_sizes.tolist() == [100] * 10 + [2]
    assert bins.bin_names[-1] == "score missing"
    assert bins.bin_names[0].startswith("score 0.00")


def test_few_fractions_are_values():
    assert bin_column("x", column([0.5, 0.5, float("nan"), None])).bin_names == ("x=0.5", "x missing")


def test_class_numbers_go_by_their_names():
    assert bin_column("label", column([1, 0, 1]), {0: "no", 1: "yes"}).bin_names == ("label=yes", "label=no")


@pytest.mark.parametrize("values", [pa.nulls(3), pa.array(["a", "a", "b"]).dictionary_encode()])
def test_columns_without_values_and_of_categories_are_read(values):
    names = bin_column("c", pa.chunked_array([values])).bin_names
    assert names in {("c missing",), ("c=a", "c=b")}


def test_categories_are_counted_like_the_values_that_they_stand_for():
    assert not is_nearly_unique(pa.chunked_array([pa.array(["a", "a", "b"]).dictionary_encode()]))
    assert is_nearly_unique(pa.chunked_array([pa.array(["a", "c", "b"]).dictionary_encode()]))
    assert not is_nearly_unique(pa.chunked_array([pa.nulls(3)]))


@pytest.mark.parametrize("part", ["a", b"a", [1], {"x": 1}])
def test_lists_are_no_values(part):
    assert is_flat(column([part])) == (part == "a")


def test_a_sorted_column_is_judged_as_a_whole():
    texts = ["a"] * 5000 + [str(number) for number in range(20_000)]
    assert is_nearly_unique(column(texts[::-1]))
    assert not is_nearly_unique(column(texts))
    assert not is_nearly_unique(column([0.1, 0.2, 0.3]))


def test_prior_data_of_any_kind_give_their_columns():
    rows = [{"topic": "a", "n": np.int64(1)}, {"topic": "b", "n": 2}]
    for data in (rows, Dataset.from_list([{"topic": "a", "n": 1}, {"topic": "b", "n": 2}])):
        prior = PriorDataset(data)
        assert prior.arrow_column("topic").to_pylist() == ["a", "b"]
        assert prior.arrow_column("n").to_pylist() == [1, 2]
    both = PriorDataset({"one": rows, "two": Dataset.from_list([{"topic": 3, "n": 4}])})
    assert both.arrow_column("topic").to_pylist() == ["a", "b", "3"]
    assert both.arrow_column("prior_set").to_pylist() == ["one", "one", "two"]
    mixed = PriorDataset([{"x": "a"}, {"x": 1}, {"x": None}])
    assert mixed.arrow_column("x").to_pylist() == ["a", "1", None]
