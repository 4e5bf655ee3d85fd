import logging
import pickle

import datasets
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.batch_plan import BatchPlan, count_new_rows
from mixcd.matter.prior_and_new_data.streamed_rows import FIRST_ROWS, StreamedRows, StreamPlace, is_stream
from mixcd.words.errors import DataError
from streams import CountingStream, OnceOnly, Shuffled, Stateful

ROWS = [{"x": number, "text": f"row {number}"} for number in range(300)]
STEPS = 10


def make_plan(steps=STEPS, mix_ratio=0.25, micro_batch_size=4, micro_batch_count=2):
    new_count = count_new_rows(steps, mix_ratio, micro_batch_size * micro_batch_count)
    return BatchPlan(new_count, 50, mix_ratio, micro_batch_size, micro_batch_count, seed=0, in_order=True)


def make(stream, plan=None):
    rows = StreamedRows(stream, "new_data")
    rows.plan = plan or make_plan()
    return rows


def read(rows, step):
    """Read the rows of a step."""
    rows.read_step(step)
    return rows.__getitems__(range(rows.plan.new_rows_before(step), rows.plan.new_rows_before(step + 1)))


def streamed(rows=ROWS, shards=4):
    return Dataset.from_list(rows).to_iterable_dataset(num_shards=shards)


def keep_even(row):
    return row["x"] % 2 == 0


def double(batch):
    return {"x": [x for x in batch["x"] for _ in range(2)], "text": [text for text in batch["text"] for _ in range(2)]}


def test_streams_are_told_from_data_with_numbers():
    assert is_stream(CountingStream(ROWS))
    assert is_stream(streamed())
    assert not is_stream(ROWS)
    assert not is_stream(Dataset.from_list(ROWS))


def test_iterable_datasets_are_streams_whether_or_not_torch_knows_them():
    assert is_stream(datasets.IterableDataset(streamed()._ex_iterable))


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0.15, 0.8),
    st.integers(1, 5),
    st.integers(2, 5),
    st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=STEPS, unique=True).map(sorted),
)
def test_row_i_is_the_ith_of_the_stream_whichever_steps_are_read(mix_ratio, size, count, steps):
    if not 1 <= mix_ratio * size * count <= size * count - 1:
        return
    stream = CountingStream(ROWS)
    rows = make(stream, make_plan(STEPS, mix_ratio, size, count))
    plan = rows.plan
    for step in steps:
        first, last = plan.new_rows_before(step), plan.new_rows_before(step + 1)
        assert read(rows, step) == ROWS[first:last]
        assert (rows.place.row, rows.place.is_short) == (last, False)
        assert stream.counts[-1] == plan.new_rows_before(min(step + 2, STEPS))  # a step ahead, and never beyond the run


def test_attaching_takes_nothing_from_the_stream():
    stream = CountingStream(ROWS)
    rows = make(stream)
    assert rows.first_rows == ROWS[:FIRST_ROWS]
    assert max(stream.counts) == FIRST_ROWS
    assert read(rows, 0) == ROWS[:6]


def test_a_copy_for_a_worker_opens_the_stream_itself():
    rows = make(streamed())
    read(rows, 3)
    copy = pickle.loads(pickle.dumps(rows))  # noqa: S301
    assert read(copy, 2) == ROWS[12:18]
    assert read(rows, 4) == ROWS[24:30]


def test_rewinding_begins_again():
    rows = make(CountingStream(ROWS))
    read(rows, 5)
    rows.rewind()
    assert read(rows, 0) == ROWS[:6]


@pytest.mark.parametrize(
    "make_stream",
    [
        pytest.param(streamed, id="plain"),
        pytest.param(lambda: streamed().filter(keep_even), id="filtered"),
        pytest.param(lambda: streamed().map(double, batched=True, batch_size=7), id="mapped in batches"),
        pytest.param(lambda: datasets.concatenate_datasets([streamed(), streamed()]), id="concatenated"),
        pytest.param(
            lambda: datasets.interleave_datasets([streamed(), streamed()], probabilities=[0.3, 0.7], seed=3),
            id="interleaved",
        ),
        pytest.param(lambda: streamed().repeat(2), id="repeated"),
        pytest.param(lambda: streamed().skip(5).take(150), id="part"),
        pytest.param(lambda: streamed().with_format("numpy"), id="formatted"),
        pytest.param(lambda: Stateful(ROWS), id="torch"),
    ],
)
def test_a_state_brings_the_stream_back_to_the_same_rows(make_stream):
    whole, again = make(make_stream()), make(make_stream())
    assert whole.keeps_state
    expected = [read(whole, step) for step in range(6)]
    place = whole.place
    again.rewind(place)
    for step in (6, 7):
        assert str(read(again, step)) == str(read(whole, step)) not in map(str, expected)


def test_going_on_by_state_reads_no_row_again():
    rows = make(Stateful(ROWS))
    read(rows, 5)
    place = rows.place
    resumed = Stateful(ROWS)
    again = make(resumed)
    before = list(resumed.opened_at)
    again.rewind(place)
    assert read(again, 6) == ROWS[36:42]
    assert resumed.opened_at[len(before) :] == [36]


def test_without_a_state_rows_are_read_again():
    stream = CountingStream(ROWS)
    rows = make(stream)
    read(rows, 5)
    assert not rows.keeps_state
    assert rows.place.state is None
    again = make(stream)
    again.rewind(rows.place)
    assert read(again, 6) == ROWS[36:42]
    assert stream.counts[-1] == 48


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(Stateful(ROWS, off_by=1), id="off by one"),
        pytest.param(Stateful(ROWS, state={"place": torch.zeros(1)}), id="no JSON"),
    ],
)
def test_a_state_that_does_not_bring_the_stream_back_is_not_used(stream):
    rows = make(stream)
    assert not rows.keeps_state
    expected = [read(rows, step) for step in range(8)]
    again = make(stream)
    again.rewind(rows.place)
    assert [read(again, step) for step in (6, 7)] == expected[6:]


def test_a_shuffle_buffer_which_its_state_does_not_hold_is_filled_again_from_the_start(caplog):
    stream = streamed().shuffle(seed=3, buffer_size=20)
    rows = make(stream)
    read(rows, 5)
    place, expected = rows.place, [read(rows, step) for step in (6, 7)]
    rows.rewind(place)
    with caplog.at_level(logging.WARNING):
        assert [read(rows, step) for step in (6, 7)] == expected
    assert "is not brought back by the checkpoint's state: its rows are read again" in caplog.text


@pytest.mark.parametrize("state", [{"place": 3}, {"other": 1}])
def test_a_state_of_another_stream_is_warned_of_and_the_rows_are_read_again(state, caplog):
    rows = make(Stateful(ROWS))
    read(rows, 5)
    rows.rewind(StreamPlace(36, state, rows.place.next_prints))
    with caplog.at_level(logging.WARNING):
        assert read(rows, 6) == ROWS[36:42]
    assert "its rows are read again" in caplog.text


@pytest.mark.parametrize("kind", [OnceOnly, Shuffled])
def test_a_stream_that_yields_other_rows_on_a_second_look_is_refused(kind):
    with pytest.raises(DataError, match=r"`new_data` yields other rows when it is opened again: row 0 differs"):
        StreamedRows(kind(ROWS), "new_data")


def test_looking_leaves_random_numbers_as_they_were():
    before = torch.get_rng_state()
    with pytest.raises(DataError):
        StreamedRows(Shuffled(ROWS), "new_data")
    assert torch.equal(before, torch.get_rng_state())


def test_rows_that_change_before_training_are_a_fault():
    stream = CountingStream(ROWS)
    rows = make(stream)
    stream.rows[3] = {"x": -1}
    rows.read_step(0)
    assert rows.place.is_short
    assert "row 3 differs" in rows.place.fault


def test_rows_that_are_others_than_at_the_checkpoint_are_a_fault():
    rows = make(CountingStream(ROWS))
    read(rows, 5)
    other = make(CountingStream([*ROWS[:30], *ROWS[31:]]))
    other.rewind(rows.place)
    other.read_step(6)
    assert other.place.is_short
    assert "row 36 differs" in other.place.fault


def test_an_empty_stream_is_refused():
    with pytest.raises(DataError, match="`new_data` is an empty stream"):
        StreamedRows(CountingStream([]), "new_data")


def test_the_end_shows_a_step_before_its_rows_are_missing():
    rows = make(CountingStream(ROWS[:40]))
    assert read(rows, 4) == ROWS[24:30]
    assert not rows.place.fault
    assert read(rows, 5) == ROWS[30:36]
    assert not rows.place.is_short
    assert rows.place.fault == (
        "`new_data` ended after 40 rows, but `max_steps=10` needs 60 new rows; there are enough for 6 steps. Training "
        "saves a checkpoint there and stops. Set `max_steps=6`, or pass a longer stream, such as "
        "`stream.repeat(None)` of `datasets`, and resume."
    )
    rows.read_step(6)
    assert rows.place.is_short
    assert len(rows.__getitems__(range(36, 42))) == 6  # stand-ins, for a batch that says that it is none


def test_a_stream_that_ends_where_training_does_is_no_fault():
    rows = make(CountingStream(ROWS[:60]))
    assert [row for step in range(STEPS) for row in read(rows, step)] == ROWS[:60]
    assert not rows.place.fault
