from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.words.errors import DataError, RehearsalError, UnknownSampleError
from mixcd.words.vocabulary import (
    UNCACHED_BIN,
    DamageCounts,
    Observation,
    Partition,
    PriorTable,
    count_damage,
    require_finite_losses,
)

PARTITION = Partition(np.array([0, 0, 1, UNCACHED_BIN]), ("easy", "hard"))


def observe(sample_ids, correct):
    return Observation(np.array(sample_ids, dtype=np.int64), np.array(correct, dtype=bool), np.zeros(len(sample_ids)))


def test_bin_sizes_count_every_bin_and_leave_uncached_samples_out():
    partition = Partition(np.array([2, 0, 2, UNCACHED_BIN, UNCACHED_BIN], dtype=np.int32), tuple("abcd"))
    assert partition.bin_count == 4
    assert partition.bin_sizes.tolist() == [1, 0, 2, 0]
    assert partition.bin_sizes.dtype == np.int64


def test_bin_sizes_are_those_of_all_chunks(monkeypatch):
    monkeypatch.setattr("mixcd.words.vocabulary._CHUNK", 3)
    assert Partition(np.array([0, 1, UNCACHED_BIN, 1, 1, 0, UNCACHED_BIN]), ("a", "b")).bin_sizes.tolist() == [2, 3]


def test_a_prior_table_has_no_columns_unless_given():
    assert dict(PriorTable(np.zeros(2)).columns) == {}


@pytest.mark.parametrize(
    ("value", "name"),
    [(PARTITION, "bin_ids"), (observe([0], [True]), "correct"), (PriorTable(np.zeros(1)), "loss")],
)
def test_shared_values_are_frozen(value, name):
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, np.zeros(1))


def test_counts_add_bin_by_bin_and_leave_their_operands_alone():
    a = DamageCounts(np.array([3.0, 1.0]), np.array([1.0, 0.0]))
    b = DamageCounts(np.array([2.0, 5.0]), np.array([2.0, 4.0]))
    total = a + b
    assert total.observed_count.tolist() == [5.0, 6.0]
    assert total.damaged_count.tolist() == [3.0, 4.0]
    assert (a.observed_count.tolist(), b.damaged_count.tolist()) == ([3.0, 1.0], [2.0, 4.0])


def test_counts_of_a_step_are_observed_and_damaged_samples_by_bin():
    counts = count_damage(PARTITION, np.ones(4, dtype=bool), observe([0, 1, 2], [True, False, False]))
    assert counts.observed_count.tolist() == [2.0, 1.0]
    assert counts.damaged_count.tolist() == [1.0, 1.0]
    assert counts.observed_count.dtype == counts.damaged_count.dtype == np.float64


def test_only_samples_that_the_base_model_got_right_can_be_damaged():
    base_correct = np.array([True, False, False, True])
    counts = count_damage(PARTITION, base_correct, observe([0, 1, 2], [False, False, False]))
    assert counts.observed_count.tolist() == [2.0, 1.0]
    assert counts.damaged_count.tolist() == [1.0, 0.0]


def test_uncached_samples_are_never_counted():
    counts = count_damage(PARTITION, np.ones(4, dtype=bool), observe([3, 3], [False, False]))
    assert counts.observed_count.tolist() == counts.damaged_count.tolist() == [0.0, 0.0]


def test_a_sample_rehearsed_twice_in_a_step_counts_twice():
    counts = count_damage(PARTITION, np.ones(4, dtype=bool), observe([1, 1], [True, False]))
    assert counts.observed_count.tolist() == [2.0, 0.0]
    assert counts.damaged_count.tolist() == [1.0, 0.0]


def test_an_empty_observation_counts_nothing():
    counts = count_damage(PARTITION, np.ones(4, dtype=bool), observe([], []))
    assert counts.observed_count.tolist() == counts.damaged_count.tolist() == [0.0, 0.0]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30), st.lists(st.booleans(), min_size=4, max_size=4)
)
@settings(deadline=None, max_examples=60)
def test_counts_match_a_count_sample_by_sample(seen, base_correct):
    counts = count_damage(
        PARTITION, np.array(base_correct), observe([i for i, _ in seen], [right for _, right in seen])
    )
    for bin_id in (0, 1):
        rows = [(i, right) for i, right in seen if PARTITION.bin_ids[i] == bin_id]
        assert counts.observed_count[bin_id] == len(rows)
        assert counts.damaged_count[bin_id] == sum(base_correct[i] and not right for i, right in rows)


@pytest.mark.parametrize(("unknown", "named"), [([4], "4"), ([-1], "-1"), (range(4, 11), "4, 5, 6, 7, 8 and 2 more")])
def test_an_unknown_sample_is_named_with_what_the_partition_covers(unknown, named):
    ids = [0, *unknown]
    with pytest.raises(UnknownSampleError) as failure:
        count_damage(PARTITION, np.ones(4, dtype=bool), observe(ids, [True] * len(ids)))
    assert str(failure.value) == (
        f"`observation` names sample {named}, but the partition covers samples 0 to 3. "
        "Build the partition from the same prior dataset that training draws from."
    )
    assert isinstance(failure.value, RehearsalError)
    assert isinstance(failure.value, LookupError)


def test_losses_that_are_not_finite_are_refused_by_sample_id():
    with pytest.raises(DataError) as failure:
        require_finite_losses(np.array([10, 20, 30, 40]), np.array([1.0, np.nan, np.inf, -np.inf]))
    assert str(failure.value) == (
        "The base model's loss is NaN or infinite on prior sample 20, 30, 40. Every prior sample needs a finite loss. "
        "Check these samples' inputs and labels, and that the model's weights are finite."
    )
    assert isinstance(failure.value, ValueError)


def test_only_the_first_five_broken_losses_are_spelled_out():
    with pytest.raises(DataError, match="sample 0, 1, 2, 3, 4 and 7 more"):
        require_finite_losses(np.arange(12), np.full(12, np.nan))


def test_finite_losses_of_any_sign_and_width_are_accepted():
    assert require_finite_losses(np.arange(3), np.array([0.0, -1.0, 6e4], dtype=np.float16)) is None
