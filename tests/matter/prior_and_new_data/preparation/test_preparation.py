import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.matter.prior_and_new_data.preparation.preparation import split_held_out
from mixcd.words.errors import DataError, SettingError


def hold_out(count, share, seed=0, text="a"):
    rows = Dataset.from_dict({"x": list(range(count)), "text": [text] * count})
    kept, held_out = split_held_out(rows, share, seed=seed, name="new")
    return kept["x"][:], held_out["x"][:]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.floats(0.001, 0.95), st.integers(0, 2**64 - 1), st.text(max_size=3))
def test_parts_add_up_in_order_and_depend_on_data_and_seed_alone(count, share, seed, text):
    wanted = max(1, round(share * count))
    if wanted >= count:
        with pytest.raises(DataError):
            hold_out(count, share, seed, text)
        return
    kept, held_out = hold_out(count, share, seed, text)
    assert len(held_out) == wanted
    assert sorted(kept + held_out) == list(range(count))
    assert (kept, held_out) == (sorted(kept), sorted(held_out))
    assert (kept, held_out) == hold_out(count, share, seed, text)


def test_another_seed_or_other_data_hold_out_other_rows():
    parts = [tuple(hold_out(200, 0.5, *key)[1]) for key in ((0, "a"), (1, "a"), (0, "b"))]
    assert len(set(parts)) == 3


def test_every_row_is_held_out_equally_often():
    counts = np.bincount(np.concatenate([hold_out(10, 0.3, seed)[1] for seed in range(200)]), minlength=10)
    assert counts.sum() == 600
    assert np.abs(counts - 60).max() < 4 * np.sqrt(200 * 0.3 * 0.7)


def test_a_share_of_zero_holds_nothing_out():
    data = Dataset.from_dict({"x": [1]})
    assert split_held_out(data, 0, seed=0, name="new") == (data, None)


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (3, 0.9), (3, 1)])
def test_holding_out_every_row_is_refused(count, share):
    with pytest.raises(DataError, match=rf"`new` has {count} row\(s\), and holding out a share of {share} leaves none"):
        hold_out(count, share)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(SettingError, match=f"share of `new` to hold out is {share}, but a share is from 0 to 1"):
        hold_out(3, share)
