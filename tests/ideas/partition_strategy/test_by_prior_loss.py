import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mixcd.ideas.partition_strategy import ByPriorLoss
from mixcd.words.errors import DataError, SettingError
from mixcd.words.vocabulary import PriorTable

FINITE = st.floats(-1e6, 1e6, allow_nan=False)
TIED = st.sampled_from([0.0, 0.5, 1.0, 2.5, 4.0, 8.0])
LOSSES = st.lists(st.one_of(FINITE, TIED), min_size=1, max_size=80)


def assign(losses, bins):
    return ByPriorLoss(bins).assign(PriorTable(np.array(losses, dtype=np.float64)))


@given(sample_count=st.integers(1, 400), bins=st.integers(1, 40), seed=st.integers(0, 99))
@example(sample_count=100, bins=10, seed=0)
@example(sample_count=11, bins=10, seed=0)
@example(sample_count=1001, bins=10, seed=0)
@settings(deadline=None, max_examples=100)
def test_bins_of_distinct_losses_differ_in_size_by_one_at_most(sample_count, bins, seed):
    losses = np.random.default_rng(seed).permutation(sample_count) / 7
    sizes = assign(losses, bins).bin_sizes
    assert sizes.size == min(bins, sample_count)
    assert sizes.sum() == sample_count
    assert sizes.max() - sizes.min() <= 1


@given(LOSSES, st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_ties_alone_make_a_bin_larger_than_its_share(losses, bins):
    sizes = assign(losses, bins).bin_sizes
    most_ties = max(Counter(losses).values())
    assert sizes.sum() == len(losses)
    assert sizes.min() >= 1
    assert sizes.max() <= -(-len(losses) // bins) + most_ties - 1


@given(LOSSES, st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_bins_follow_the_losses_and_equal_losses_never_straddle_a_cut(losses, bins):
    partition = assign(losses, bins)
    order = np.argsort(losses, kind="stable")
    steps = np.diff(partition.bin_ids[order])
    ties = np.diff(np.array(losses)[order]) == 0
    assert np.isin(steps, (0, 1)).all()
    assert not steps[ties].any()
    assert (partition.bin_ids.min(), partition.bin_ids.max()) == (0, partition.bin_count - 1)


def test_ten_bins_are_the_default():
    assert ByPriorLoss().assign(PriorTable(np.arange(100.0))).bin_sizes.tolist() == [10] * 10


def test_one_bin_holds_every_sample():
    partition = assign([3.0, 1.0, 2.0], 1)
    assert partition.bin_ids.tolist() == [0, 0, 0]
    assert partition.bin_names == ("loss 1 to 3",)


def test_bin_names_state_the_lowest_and_highest_loss():
    assert assign([0.1, 2.0, 0.2, 3.0], 2).bin_names == ("loss 0.1 to 0.2", "loss 2 to 3")


def test_the_loss_is_the_only_thing_read():
    assert ByPriorLoss(2).column_names == ()


def test_fewer_distinct_losses_than_bins_are_merged_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING, "mixcd"):
        partition = assign([0.0, 0.0, 1.0, 1.0, 2.0, 2.0], 6)
    assert partition.bin_ids.tolist() == [0, 0, 1, 1, 2, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "`ByPriorLoss(6)` found only 3 bins: equal losses share a bin, so some were merged."
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_nothing_is_logged_when_every_bin_is_found(caplog):
    with caplog.at_level(logging.DEBUG, "mixcd"):
        assign([0.0, 1.0, 1.0, 2.0], 2)
    assert caplog.records == []


@pytest.mark.parametrize("bins", [0, -3])
def test_less_than_one_bin_is_refused(bins):
    with pytest.raises(SettingError) as failure:
        ByPriorLoss(bins)
    assert str(failure.value) == (
        f"`bins` is {bins}, but a partition needs at least 1 bin. Pass a whole number such as 10."
    )
    assert isinstance(failure.value, ValueError)


def test_an_empty_table_is_refused():
    with pytest.raises(DataError) as failure:
        assign([], 2)
    assert str(failure.value) == (
        "The prior table has no rows. A partition needs at least one. Pass prior data with samples."
    )


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_names_its_samples(broken):
    with pytest.raises(DataError) as failure:
        assign([0.5, broken, 1.0, broken], 2)
    assert "NaN or infinite on prior sample 1, 3." in str(failure.value)
    assert "Check these samples' inputs and labels" in str(failure.value)


def test_few_distinct_losses_get_a_bin_each():
    assert assign([0, 0, 1, 1, 1, 2], 5).bin_ids.tolist() == [0, 0, 1, 1, 1, 2]
