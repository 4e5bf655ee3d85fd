import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import pack_dataset

from mixcd.matter.prior_and_new_data.packed_rows import (
    count_samples,
    count_tokens,
    join_rows,
    measure_samples,
    split_lengths,
    unpack_rows,
)

LISTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=12)


class Rows:
    """A map-style dataset that is no `datasets.Dataset`."""

    def __init__(self, rows):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, number):
        return self._rows[number]


@given(LISTS)
@settings(deadline=None, max_examples=30)
def test_tokens_are_counted_alike_off_columns_and_off_rows(lists):
    rows = [{"input_ids": one, "text": "x"} for one in lists]
    found = [count_tokens(data).tolist() for data in (Dataset.from_list(rows), rows, Rows(rows))]
    assert found == [[len(one) for one in lists]] * 3


@given(LISTS)
@settings(deadline=None, max_examples=30)
def test_padding_inside_rows_is_not_counted(lists):
    rows = [{"input_ids": [5] * len(one), "attention_mask": [value % 2 for value in one]} for one in lists]
    expected = [max(1, sum(value % 2 for value in one)) for one in lists]
    assert count_tokens(Dataset.from_list(rows)).tolist() == count_tokens(rows).tolist() == expected


def test_tokens_of_rows_in_another_order_are_in_that_order():
    data = Dataset.from_list([{"input_ids": [1] * length} for length in range(1, 50)])
    order = np.random.default_rng(0).permutation(49)
    assert count_tokens(data.select(order)).tolist() == (order + 1).tolist()
    assert count_tokens(data.select(order).shuffle(seed=1)).sum() == sum(range(1, 50))


def test_rows_without_tokens_count_one_and_choices_together():
    assert count_tokens([{"pixel_values": [0.1]}]).tolist() == [1]
    choices = [{"input_ids": [[1, 2], [3]]}]
    assert count_tokens(choices).tolist() == count_tokens(Dataset.from_list(choices)).tolist() == [3]


@pytest.mark.parametrize(
    ("row", "lengths"),
    [
        ({"input_ids": [1, 2]}, None),
        ({"input_ids": [1, 2], "position_ids": [0, 1]}, [2]),
        ({"input_ids": [1, 2], "position_ids": [0, 0]}, [1, 1]),
        ({"input_ids": [1, 2, 3], "position_ids": [1, 1, 0]}, None),  # padded on the left
        ({"input_ids": [1, 2, 3], "position_ids": [0, 0, 1], "attention_mask": [0, 1, 1]}, None),
        ({"input_ids": [1, 2, 3], "seq_lengths": [1, 2]}, [1, 2]),
        ([1, 2], None),
    ],
)
def test_rows_say_what_they_hold(row, lengths):
    assert split_lengths(row) == lengths
    assert count_samples(row) == len(lengths or [0])


def test_joining_undoes_unpacking_of_rows_that_trl_packed():
    rows = [{"input_ids": [n] * n, "labels": [-100] * n} for n in (5, 3, 4, 2, 6, 1)]
    packed = pack_dataset(Dataset.from_list(rows), 8, "bfd")
    alone = unpack_rows(packed)
    assert sorted(row["input_ids"] for row in alone) == sorted(row["input_ids"] for row in rows)
    counts, longest = measure_samples(packed)
    again = []
    for count in counts:
        again.append(join_rows(alone[: int(count)]))
        alone = alone[int(count) :]
    assert again == list(packed)
    assert longest.tolist() == [max(row["seq_lengths"]) for row in packed]
    assert [one.tolist() for one in measure_samples(list(packed))] == [counts.tolist(), longest.tolist()]
