import binascii
import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mixcd.ideas.lift import DrawSums, LiftSums
from mixcd.run.rehearsal_loop.rehearsal_health import DamageHistory, Seen, empty_history
from mixcd.words.state_json import decode, encode
from mixcd.words.vocabulary import DamageCounts

FEW = settings(deadline=None, max_examples=80)
# every bit pattern: NaN with any payload, infinities, -0.0, subnormal numbers
ARRAYS = hnp.arrays(np.uint64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)).map(lambda a: a.view(np.float64))


@dataclass(frozen=True)
class Moments:
    step_count: int
    counts: DamageCounts
    rows: tuple[np.ndarray, ...]


def through_json(like, value):
    return decode(like, json.loads(json.dumps(encode(value), allow_nan=False)))


def same_bits(a, b):
    return a.dtype == b.dtype == np.float64 and a.shape == b.shape and a.tobytes() == b.tobytes()


@given(ARRAYS)
@FEW
def test_an_array_comes_back_bit_for_bit(array):
    assert same_bits(through_json(np.zeros(0), array), array)


def test_special_numbers_come_back_bit_for_bit():
    array = np.array([[np.nan, np.inf, -np.inf], [-0.0, 0.0, 5e-324]])
    back = through_json(np.zeros(1), array)
    assert same_bits(back, array)
    assert np.signbit(back[1]).tolist() == [True, False, False]


@given(st.integers(0, 10**9), ARRAYS, ARRAYS, st.lists(ARRAYS, max_size=3))
@FEW
def test_nested_dataclasses_and_tuples_come_back_as_what_they_were(step_count, observed, damaged, rows):
    like = Moments(0, DamageCounts(np.zeros(1), np.zeros(1)), tuple(np.zeros(1) for _ in rows))
    back = through_json(like, Moments(step_count, DamageCounts(observed, damaged), tuple(rows)))
    assert type(back) is Moments
    assert type(back.counts) is DamageCounts
    assert type(back.rows) is tuple
    assert back.step_count == step_count
    assert same_bits(back.counts.observed_count, observed)
    assert same_bits(back.counts.damaged_count, damaged)
    assert all(same_bits(a, b) for a, b in zip(back.rows, rows, strict=True))


def test_a_damage_history_comes_back():
    counts = [DamageCounts(np.array([k + 0.1, 2.0]), np.array([k / 3, 0.0])) for k in range(3)]
    draws = [DrawSums(k + 0.1, 2.0, 1 / 3, k / 7, 0.7, 0.3, 0.2, k / 9, 0.1) for k in range(3)]
    seen = [Seen(one, sums, one.damaged_count**2) for one, sums in zip(counts, draws, strict=True)]
    back = through_json(empty_history(2), DamageHistory(7, *seen, LiftSums(9.0, 0.1, 1 / 3, 2.0)))
    assert type(back) is DamageHistory
    assert back.step_count == 7
    assert back.closed_windows == LiftSums(9.0, 0.1, 1 / 3, 2.0)
    assert [one.counts.damaged_count.tolist() for one in (back.total, back.recent, back.earlier)] == [
        c.damaged_count.tolist() for c in counts
    ]
    assert [one.draws for one in (back.total, back.recent, back.earlier)] == draws


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.arange(10.0)[::3], np.arange(3.0).astype(">f8")])
def test_neither_the_order_in_memory_nor_the_byte_order_matters(array):
    assert encode(array) == encode(np.ascontiguousarray(array, dtype="<f8"))
    assert through_json(np.zeros(1), array).tolist() == array.tolist()


def test_a_decoded_array_is_free_of_the_text_it_came_from():
    stored = encode(np.array([1.0, 2.0]))
    first = decode(np.zeros(1), stored)
    first[0] = 9.0
    assert decode(np.zeros(1), stored).tolist() == [1.0, 2.0]


def test_canary_the_stored_form_is_the_one_that_checkpoints_hold():
    assert encode(DamageCounts(np.array([1.5]), np.array([[0.0, -2.0]]))) == {
        "observed_count": {"shape": [1], "float64": "AAAAAAAA+D8="},
        "damaged_count": {"shape": [1, 2], "float64": "AAAAAAAAAAAAAAAAAAAAwA=="},
    }
    assert encode((3, "text", 0.5)) == [3, "text", 0.5]


def test_a_tuple_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        decode((np.zeros(1),), encode((np.zeros(1), np.zeros(1))))


def test_a_missing_field_is_refused():
    stored = encode(DamageCounts(np.zeros(1), np.zeros(1)))
    del stored["damaged_count"]
    with pytest.raises(KeyError, match="damaged_count"):
        decode(DamageCounts(np.zeros(1), np.zeros(1)), stored)


def test_text_that_is_not_base64_is_refused():
    with pytest.raises(binascii.Error):
        decode(np.zeros(1), {"shape": [1], "float64": "AAAA*AAAA+D8="})


def test_an_array_shorter_than_its_shape_is_refused():
    stored = {**encode(np.zeros(3)), "shape": [4]}
    with pytest.raises(ValueError, match="reshape"):
        decode(np.zeros(1), stored)
