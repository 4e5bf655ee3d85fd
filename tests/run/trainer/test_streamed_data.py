"""A stream as new data trains what map-style data in its order would, whoever reads it; and what can go wrong."""

import json
import logging
from contextlib import contextmanager
from dataclasses import replace

import pytest
from datasets import IterableDataset

import mixcd
from mixcd.run.trainer.trainer_seam import TrainerSeam
from mixcd.words.errors import DataError, ResumeError, SettingError, UnsupportedTrainerError
from processes import launch
from streams import CountingStream, OnceOnly, Stateful
from tiny import assert_same_weights, collate, make_model, make_trainer, record_blocks, weights_of
from tiny_sft import make_model as make_chat_model
from tiny_sft import make_rows as make_chats
from tiny_sft import make_sft_trainer
from tiny_tasks import FAMILIES

STEPS, ROW_COUNT = 10, 60
"""Ten steps of 8 rows at a mix ratio of a quarter need 60 new ones."""


@contextmanager
def taken_in_order():
    """Make rehearsal take map-style data in their order, as it takes a stream."""
    plan = TrainerSeam._plan

    def plan_rows(loop):
        for step in range(loop.steps_done, loop.plan.steps_per_epoch):
            yield from loop.block(step).tolist()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainerSeam, "_plan", lambda seam: replace(plan(seam), in_order=True))
        patch.setattr("mixcd.run.rehearsal_loop.plan_sampler._plan_stream", plan_rows)
        yield


@pytest.fixture
def train(base_weights, prior_data, tmp_path):
    """Return a function that trains the tiny classifier on some new data; all share one cache."""

    def train(data, name="run", resume=None, **settings):
        model = make_model()
        model.load_state_dict(base_weights)
        trainer = make_trainer(model, data, tmp_path / name, **{"max_steps": STEPS, **settings})
        rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, cache_dir=tmp_path / "cache", lag=8)
        blocks = record_blocks(rehearsal, STEPS)
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / name / f"checkpoint-{resume}"))
        return trainer, blocks

    return train


@pytest.fixture
def rows(new_data):
    return new_data.select(range(ROW_COUNT))


STREAMS = {
    "torch": CountingStream,
    "torch, with a state": Stateful,
    "datasets": lambda rows: rows.to_iterable_dataset(),
    "datasets, shards": lambda rows: rows.to_iterable_dataset(num_shards=4),
}


# --- the same draws and weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_trains_to_the_bit_as_map_style_data_in_its_order_do(kind, train, rows):
    with taken_in_order():
        listed, listed_blocks = train(rows, "listed")
    trainer, blocks = train(STREAMS[kind](rows), "streamed")
    assert blocks == listed_blocks
    new = [number for block in blocks.values() for number in block if number < ROW_COUNT]
    assert new == list(range(ROW_COUNT))
    assert_same_weights(weights_of(listed), weights_of(trainer))


WORKERS = {
    "one": {"dataloader_num_workers": 1},
    "two": {"dataloader_num_workers": 2},
    "persistent": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
    "spawned": {"dataloader_num_workers": 2, "dataloader_multiprocessing_context": "spawn"},
}


@pytest.mark.parametrize("workers", [*list(WORKERS)[:-1], pytest.param("spawned", marks=pytest.mark.slow)])
def test_workers_change_nothing_before_and_after_a_restart(workers, train, rows):
    whole, blocks = train(rows.to_iterable_dataset(num_shards=4), "whole")
    settings = {**WORKERS[workers], "save_strategy": "steps", "save_steps": 4}
    read, read_blocks = train(rows.to_iterable_dataset(num_shards=4), "read", **settings)
    assert read_blocks == blocks
    assert_same_weights(weights_of(whole), weights_of(read))
    for more in ({}, WORKERS[workers]):  # a checkpoint of a worker's state serves the training process, too
        resumed, _ = train(rows.to_iterable_dataset(num_shards=4), "read", resume=4, **more)
        assert_same_weights(weights_of(whole), weights_of(resumed))


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_restart_at_any_step_goes_on_bit_for_bit(step, train, rows):
    whole, blocks = train(Stateful(rows), "run", save_strategy="steps", save_steps=step)
    stream = Stateful(rows)
    resumed, later = train(stream, "run", resume=step)
    assert later == {number: block for number, block in blocks.items() if number >= step}
    assert_same_weights(weights_of(whole), weights_of(resumed))
    assert stream.opened_at[-1] == 6 * step  # by its state


def test_a_shuffled_stream_is_the_same_in_a_worker(train, new_data):
    def shuffled():
        return new_data.to_iterable_dataset(num_shards=4).shuffle(seed=5, buffer_size=50).with_format("numpy")

    whole, _ = train(shuffled(), "whole")
    read, _ = train(shuffled(), "read", dataloader_num_workers=1)
    assert_same_weights(weights_of(whole), weights_of(read))


AGAIN = {
    "A resumed run reads the rows again that were trained on": CountingStream,
    "is not brought back by the checkpoint's state: its rows are read again": (
        lambda rows: rows.to_iterable_dataset(num_shards=2).shuffle(seed=5, buffer_size=20)
    ),
}


@pytest.mark.parametrize("said", AGAIN)
def test_without_a_state_that_helps_a_restart_reads_again_and_says_so_once(said, train, new_data, caplog):
    whole, _ = train(AGAIN[said](new_data), save_strategy="steps", save_steps=4)
    with caplog.at_level(logging.INFO):
        resumed, _ = train(AGAIN[said](new_data), resume=4)
    assert_same_weights(weights_of(whole), weights_of(resumed))
    assert caplog.text.count(said) == 1


def test_a_resumed_run_that_skips_no_data_goes_on_in_the_stream_all_the_same(train, rows):
    stream = CountingStream(rows)
    _, blocks = train(CountingStream(rows), save_strategy="steps", save_steps=4)
    _, later = train(stream, resume=4, ignore_data_skip=True)
    assert later == {step: block for step, block in blocks.items() if step >= 4}
    assert stream.counts[-1] == ROW_COUNT


def test_training_twice_reads_the_stream_from_its_start_each_time(base_model, prior_data, rows, tmp_path):
    stream = CountingStream(rows)
    trainer = make_trainer(base_model, stream, tmp_path)
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    blocks = record_blocks(rehearsal)
    trainer.train()
    first = {step: [number for number in block if number < ROW_COUNT] for step, block in blocks.items()}
    trainer.train()
    assert first == {step: [number for number in block if number < ROW_COUNT] for step, block in blocks.items()}
    assert stream.counts[-2:] == [ROW_COUNT, ROW_COUNT]  # no row too many


def test_a_run_can_be_made_longer_on_resume(train, new_data):
    whole, _ = train(new_data.to_iterable_dataset(), "whole")
    train(new_data.to_iterable_dataset(), "grown", max_steps=4, save_strategy="steps", save_steps=4)
    grown, _ = train(new_data.to_iterable_dataset(), "grown", resume=4)
    assert_same_weights(weights_of(whole), weights_of(grown))


def test_several_workers_are_named_and_read_as_far_ahead_as_all_would(train, rows, caplog):
    with caplog.at_level(logging.WARNING):
        trainer, _ = train(rows.to_iterable_dataset(), dataloader_num_workers=3, dataloader_prefetch_factor=2)
    assert "`dataloader_num_workers=3` are asked for, but one reads the stream" in caplog.text
    args = trainer.args
    assert (args.dataloader_num_workers, args.dataloader_prefetch_factor) == (3, 2)  # for evaluation, as they were


# --- several processes ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--batch=1", "--mix-ratio=0.5"), ("--workers=2",)])
def test_two_processes_train_as_one_with_accumulation_and_resume(options, tmp_path):
    (alone,) = launch(1, tmp_path / "one", "--accumulation=2", *options, worker="stream_worker.py")
    first, second = launch(2, tmp_path / "two", "--accumulation=1", *options, worker="stream_worker.py")
    assert first["blocks"] == second["blocks"] == alone["blocks"]
    assert first["trained"] == alone["trained"][::2]  # each its micro-batches, of the same rows
    assert second["trained"] == alone["trained"][1::2]
    resumed, other = launch(2, tmp_path / "two", "--accumulation=1", "--resume=6", *options, worker="stream_worker.py")
    assert (resumed["weights"], other["weights"]) == (first["weights"], second["weights"])
    if not any("workers" in option for option in options):
        needed = first["new_count"]
        assert (alone["read"], first["read"], second["read"]) == (needed, needed, needed)  # all of it, everywhere


@pytest.mark.slow
def test_on_two_processes_an_early_end_stops_both_after_the_same_step(tmp_path):
    ranks = launch(2, tmp_path, "--accumulation=1", "--rows=40", worker="stream_worker.py")
    for rank in ranks:
        assert rank["error"].startswith("DataError: `trainer.train_dataset` ended after 40 rows")
        assert rank["steps_done"] == 6
    assert (tmp_path / "checkpoint-6").is_dir()


@pytest.mark.slow
def test_a_stream_split_over_processes_is_refused_on_all(tmp_path):
    for rank in launch(2, tmp_path, "--accumulation=1", "--split", worker="stream_worker.py"):
        assert "yields other rows on one process than on another" in rank["error"]


# --- an early end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_ends_early_is_told_of_and_its_last_step_is_saved(workers, train, rows, tmp_path):
    short = rows.select(range(40)).to_iterable_dataset()
    with pytest.raises(DataError) as told:
        train(short, dataloader_num_workers=workers)
    assert str(told.value) == (
        "`trainer.train_dataset` ended after 40 rows, but `max_steps=10` needs 60 new rows; there are enough for 6 "
        "steps. Training saves a checkpoint there and stops. Set `max_steps=6`, or pass a longer stream, such as "
        "`stream.repeat(None)` of `datasets`, and resume."
    )
    state = json.loads((tmp_path / "run" / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["global_step"] == 6
    whole, _ = train(rows.to_iterable_dataset(), "whole")
    longer, _ = train(rows.to_iterable_dataset(), resume=6)
    assert_same_weights(weights_of(whole), weights_of(longer))
    train(rows.select(range(40)).to_iterable_dataset(), resume=6, max_steps=6)  # nothing is left to do


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_without_the_rows_of_one_step_trains_nothing(workers, train, rows, base_weights):
    with pytest.raises(DataError, match="ended after 4 rows.* enough for 0 steps"):
        train(rows.select(range(4)).to_iterable_dataset(), dataloader_num_workers=workers)


def test_what_a_stream_raises_while_a_worker_reads_it_reaches_the_caller(train, rows):
    def fail_late(row, number):
        if number == 40:
            raise OSError("the connection is gone")
        return row

    with pytest.raises(OSError, match="the connection is gone"):
        train(rows.to_iterable_dataset().map(fail_late, with_indices=True), dataloader_num_workers=2)


# --- refused -------------------------------------------------------------------------------------------------------


def test_a_stream_without_max_steps_is_refused(base_model, rows, prior_data, tmp_path):
    trainer = make_trainer(base_model, rows, tmp_path, max_steps=-1)
    trainer.train_dataset = rows.to_iterable_dataset()
    with pytest.raises(SettingError, match="is a stream, which has no length, but `max_steps` is not set"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25)


def test_a_stream_that_can_be_read_once_is_refused(train, rows):
    with pytest.raises(DataError, match="yields other rows when it is opened again"):
        train(OnceOnly(rows))


def test_another_stream_on_resume_is_refused(train, rows):
    train(rows.to_iterable_dataset(), save_strategy="steps", save_steps=4)
    with pytest.raises(ResumeError, match="written with a stream whose first rows were others"):
        train(rows.select(range(1, ROW_COUNT)).to_iterable_dataset(), resume=4)
    with pytest.raises(ResumeError, match="new sample count that of a stream, but this run has 60"):
        train(rows, resume=4)


@pytest.mark.parametrize("name", ["prior_data", "held_out"])
def test_streams_of_prior_data_are_refused_by_name(name, base_model, rows, prior_data, tmp_path):
    trainer = make_trainer(base_model, rows.to_iterable_dataset(), tmp_path)
    given = {"prior_data": prior_data, "held_out": prior_data, name: prior_data.to_iterable_dataset()}
    with pytest.raises(DataError, match=f"`{name}` is a IterableDataset, which has no length"):
        mixcd.attach(trainer, given.pop("prior_data"), mix_ratio=0.25, **given)


def test_packed_streams_are_refused_by_name(tmp_path):
    data = make_chats(60, "new", kind="text").to_iterable_dataset()
    trainer = make_sft_trainer(make_chat_model(), data, tmp_path, packing=True)
    with pytest.raises(UnsupportedTrainerError, match=r"packs the rows of a stream \(`packing=True`\)"):
        mixcd.attach(trainer, make_chats(20, "prior", kind="text"), mix_ratio=0.25)


def test_mixing_a_stream_by_tokens_is_refused(base_model, rows, prior_data, tmp_path):
    trainer = make_trainer(base_model, rows.to_iterable_dataset(), tmp_path)
    with pytest.raises(UnsupportedTrainerError, match="nobody knows how long the rows of a stream will be"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25, mix_unit="tokens")


def test_loops_of_ones_own_take_no_stream(base_model, rows, prior_data, tmp_path):
    with pytest.raises(DataError, match="`new_data` is a IterableDataset, which has no length"):
        mixcd.rehearse(
            base_model,
            rows.to_iterable_dataset(),
            prior_data,
            tmp_path,
            mix_ratio=0.25,
            batch_size=8,
            collate_fn=collate,
        )


def test_streamed_rows_are_compared_with_the_prior_data(base_model, rows, prior_data, tmp_path):
    stream = CountingStream([{**row, "label": 7} for row in rows])
    with pytest.raises(DataError, match="label"):
        mixcd.attach(make_trainer(base_model, stream, tmp_path), prior_data, mix_ratio=0.25)


# --- trainers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chat", "completion", "text"])
@pytest.mark.parametrize("workers", [0, 2])
def test_sft_streams_raw_rows_and_resumes(kind, workers, tmp_path):
    settings = {"assistant_only_loss": True} if kind == "chat" else {}

    def train(data, name, resume=None, **more):
        trainer = make_sft_trainer(make_chat_model(), data, tmp_path / name, **settings, **more)
        assert isinstance(trainer.train_dataset, IterableDataset) == isinstance(data, IterableDataset)
        rehearsal = mixcd.attach(
            trainer, make_chats(50, "prior", kind=kind), mix_ratio=0.25, cache_dir=tmp_path / "cache", seed=0
        )
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / name / f"checkpoint-{resume}"))
        return weights_of(trainer), rehearsal

    data = make_chats(60, "new", kind=kind)
    whole, rehearsal = train(
        data.to_iterable_dataset(num_shards=2),
        "run",
        save_strategy="steps",
        save_steps=5,
        dataloader_num_workers=workers,
    )
    assert rehearsal.counts.observed_count.sum() == 20
    resumed, _ = train(data.to_iterable_dataset(num_shards=2), "run", resume=5)
    assert_same_weights(whole, resumed)


def test_sequence_to_sequence_streams(tmp_path):
    family = FAMILIES["sequence to sequence"]
    base_weights, data, weights = family.make_model().state_dict(), family.make_rows(60, 2, "new"), []
    for stream in (CountingStream(data), data.to_iterable_dataset()):
        model = family.make_model()
        model.load_state_dict(base_weights)
        trainer = family.make_trainer(model, stream, tmp_path / "run")
        mixcd.attach(trainer, family.make_rows(50, 3, "prior"), mix_ratio=0.25, cache_dir=tmp_path / "cache")
        trainer.train()
        weights.append(weights_of(trainer))
    assert_same_weights(*weights)
