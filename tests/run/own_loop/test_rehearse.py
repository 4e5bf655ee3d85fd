"""Rehearsal in a loop of one's own: the same draws and counts as a trainer, exact resume, two processes."""

import json
import logging

import numpy as np
import pytest
import torch

import mixcd
from mixcd.ideas.probe import choose_probed
from mixcd.run.own_loop.rehearse import rehearse
from mixcd.words.errors import DataError, PlanError, ResumeError, SettingError, UnsupportedTrainerError
from mixcd.words.vocabulary import Partition, PartitionStrategy
from processes import launch
from tiny import assert_same_weights, collate, make_model, make_rows, make_trainer, record_blocks

SETTINGS = {"mix_ratio": 0.25, "batch_size": 8, "collate_fn": collate}


@pytest.fixture
def build(base_weights, new_data, prior_data, tmp_path):
    """Return model and rehearsal, from the tiny base model; dropout is off."""

    def make(**settings):
        model = make_model(dropout=0.0)
        model.load_state_dict(base_weights)
        wanted = {"new_data": new_data, "prior_data": prior_data, "cache_dir": tmp_path / "cache", **SETTINGS}
        return model, rehearse(model, **{**wanted, **settings})

    return make


def train(model, rehearsal, steps, *, learning_rate=5e-3, accumulation_steps=1, **loader):
    """Take some steps with plain SGD, which has no state; return the rehearsed samples of each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    model.train()
    drawn, batches = [], iter(rehearsal.loader(**loader))
    for _ in range(steps):
        ids = []
        for _ in range(accumulation_steps):
            batch = next(batches, None)
            if batch is None:
                batches = iter(rehearsal.loader(**loader))
                batch = next(batches)
            ids.append(batch["mixcd_sample_ids"])
            with rehearsal.observe(model, batch) as inputs:
                loss = model(**inputs).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rehearsal.commit()
        drawn.append(torch.cat(ids).tolist())
    return drawn


def test_a_loop_of_ones_own_draws_what_a_trainer_draws(build, base_weights, new_data, prior_data, tmp_path):
    model, by_hand = build(seed=42)
    blocks = record_blocks(by_hand)
    train(model, by_hand, 10, learning_rate=0.0)
    other = make_model(dropout=0.0)
    other.load_state_dict(base_weights)
    trainer = make_trainer(other, new_data, tmp_path / "run", learning_rate=0.0)
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, seed=42)
    theirs = record_blocks(rehearsal)
    trainer.train()
    assert {step: blocks[step] for step in range(10)} == {step: theirs[step] for step in range(10)}
    assert by_hand.counts.observed_count.tolist() == rehearsal.counts.observed_count.tolist()
    assert type(by_hand._loop.estimator) is type(rehearsal._loop.estimator)


def test_a_loop_of_ones_own_mixes_by_tokens_on_demand(build, new_data):
    model, rehearsal = build(mix_unit="tokens")
    train(model, rehearsal, 12)
    mixture = rehearsal._loop.state.mixture
    assert mixture.prior_tokens > 0
    assert abs(mixture.error(0.25)) <= rehearsal._loop.packed.packing.longest_row
    stored = rehearsal.state_dict()
    _, resumed = build(mix_unit="tokens")
    resumed.load_state_dict(stored)
    assert resumed._loop.block(12).tolist() == rehearsal._loop.block(12).tolist()


def test_what_is_observed_is_what_the_base_model_predicted_while_nothing_changes(build):
    model, rehearsal = build()
    drawn = train(model, rehearsal, 20, learning_rate=0.0)
    assert all(sum(number >= 0 for number in ids) == 2 for ids in drawn)
    assert rehearsal.counts.damaged_count.sum() == 0
    assert rehearsal.counts.observed_count.sum() == 40


def test_damage_is_counted(build):
    model, rehearsal = build()
    train(model, rehearsal, 60, learning_rate=0.5)
    assert rehearsal.counts.damaged_count.sum() > 0
    assert rehearsal.vitals().damage_rate > 0
    assert rehearsal.partition.bin_count == 10


def test_a_loop_goes_on_from_a_checkpoint_with_the_same_draws_and_weights(build):
    whole, rehearsal = build()
    drawn = train(whole, rehearsal, 50)
    assert rehearsal.steps_per_epoch == 40
    half, before = build()
    train(half, before, 17)
    stored = json.loads(json.dumps(before.state_dict()))
    _, after = build()
    after.load_state_dict(stored)
    assert train(half, after, 33) == drawn[17:]
    assert_same_weights(half.state_dict(), whole.state_dict())
    assert after.counts.damaged_count.tolist() == rehearsal.counts.damaged_count.tolist()


def test_one_pass_over_the_loader_is_what_is_left_of_the_epoch(build):
    model, rehearsal = build()
    assert len(rehearsal.loader()) == 40
    train(model, rehearsal, 37)
    assert len(rehearsal.loader()) == 3


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_draws_do_not_depend_on_workers_or_on_how_a_block_is_cut(build, accumulation_steps):
    model, plain = build(batch_size=8)
    expected = [sorted(ids) for ids in train(model, plain, 12)]
    model, cut = build(batch_size=8 // accumulation_steps, accumulation_steps=accumulation_steps)
    drawn = train(model, cut, 12, accumulation_steps=accumulation_steps, num_workers=2)
    if accumulation_steps == 1:
        assert [sorted(ids) for ids in drawn] == expected
    else:  # losses are summed over the batches of a step here, so weights differ; the first draws do not
        assert [sorted(ids) for ids in drawn[:8]] == expected[:8]


@pytest.mark.parametrize("rule", [mixcd.RightClass(), None])
def test_the_rule_may_be_said(build, rule):
    _, rehearsal = build(correctness=rule)
    assert rehearsal.predictions.sources["rule"] == mixcd.RightClass().name


def test_a_loss_rule_judges_by_the_base_models_losses(tmp_path):
    from tiny_tasks import FAMILIES
    from tiny_tasks import collate as collate_tokens

    family = FAMILIES["causal language model"]
    model = family.make_model()
    rehearsal = rehearse(
        model,
        family.make_rows(80, 2, "new"),
        family.make_rows(100, 3, "prior"),
        tmp_path,
        **{**SETTINGS, "collate_fn": collate_tokens},
        correctness=mixcd.RightTokens(loss_tolerance=0.1),
    )
    assert rehearsal.predictions.correct.all()
    train(model, rehearsal, 5, learning_rate=0.0)
    assert rehearsal.counts.damaged_count.sum() == 0
    train(model, rehearsal, 5, learning_rate=5.0)
    assert rehearsal.counts.damaged_count.sum() > 0


# --- what it kept and lost -------------------------------------------------------------------------------------------


def held_out_rows():
    return {"held_out": make_rows(150, seed=7, task="prior"), "new_held_out": make_rows(60, seed=8, task="new")}


def test_evaluation_is_a_trainers(build, base_weights, new_data, prior_data, tmp_path):
    model, by_hand = build(seed=42, **held_out_rows())
    untouched = by_hand.evaluate()
    assert (untouched.prior.damaged_count, untouched.prior.gained_count) == (0, 0)
    train(model, by_hand, 40, learning_rate=0.5)
    other = make_model(dropout=0.0)
    other.load_state_dict(base_weights)
    wanted = held_out_rows()
    trainer = make_trainer(other, new_data, tmp_path / "run", eval_dataset=wanted["new_held_out"])
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, seed=42, held_out=wanted["held_out"])
    other.load_state_dict(model.state_dict())
    found, theirs = by_hand.evaluate(), rehearsal.evaluate()
    assert found.prior.damaged_count > 0
    assert found.new is not None
    assert found == theirs


def test_held_out_predictions_are_cached_and_a_dict_is_told_apart(build):
    wanted = {"held_out": {"a": make_rows(50, seed=7, task="prior"), "b": make_rows(40, seed=9, task="prior")}}
    for forward_counts in ([True], [False]):
        _, rehearsal = build(**wanted)
        found = [one.before.forward_count > 0 for one in rehearsal._opened.held_out.values()]
        assert found == forward_counts
    sets = rehearsal.evaluate().prior_sets
    assert {name: one.sample_count for name, one in sets.items()} == {"a": 50, "b": 40}


def test_the_model_that_was_observed_last_is_evaluated_without_its_wrapper(build, base_weights):
    given, rehearsal = build(**held_out_rows())
    trained = make_model(dropout=0.0)
    trained.load_state_dict(base_weights)
    train(torch.nn.DataParallel(trained), rehearsal, 20, learning_rate=0.5)
    assert rehearsal._model is trained
    assert rehearsal.evaluate().prior.damaged_count > 0
    assert_same_weights(given.state_dict(), base_weights)


def test_columns_are_cached(build):
    _, rehearsal = build(cache_columns=["text"], partition=mixcd.ByColumn("topic"))
    assert list(rehearsal.predictions.columns) == ["topic", "text"]


def test_a_report_is_written(build, tmp_path):
    model, rehearsal = build(**held_out_rows())
    train(model, rehearsal, 40, learning_rate=0.5)
    assert [line["step"] for line in rehearsal._log()] == [10, 20, 30, 40]
    rehearsal.report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    for expected in ("Fine-tuning with rehearsal", "Damage by bin", "While it trained", "new task", "mix ratio"):
        assert expected in text
    with pytest.raises(SettingError, match="exists already"):
        rehearsal.report(tmp_path / "report.html")
    rehearsal.report(tmp_path / "report.html", overwrite=True)


def test_a_report_without_held_out_data_shows_the_steps(build, tmp_path):
    model, rehearsal = build()
    train(model, rehearsal, 20)
    rehearsal.report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "Damage was not measured" in text
    assert "While it trained" in text


def test_the_last_step_and_the_forward_passes_are_known(build):
    model, rehearsal = build(batch_size=4, accumulation_steps=2)
    assert rehearsal.last_step is None
    train(model, rehearsal, 3, accumulation_steps=2)
    assert (rehearsal.last_step.step, rehearsal.last_step.observed, rehearsal.last_step.prior_share) == (3, 2, 0.25)
    assert rehearsal.forward_count == 6


def test_failure_signs_are_logged_once(build, caplog):
    class Shuffled(PartitionStrategy):
        column_names = ()

        def assign(self, table):
            return Partition(np.random.default_rng(3).integers(0, 2, table.loss.size), ("heads", "tails"))

    model, rehearsal = build(partition=Shuffled(), batch_size=32)
    with caplog.at_level(logging.WARNING, logger="mixcd"):
        train(model, rehearsal, 150, learning_rate=0.3)
    assert sum("No signal" in line for line in caplog.messages) == 1


# --- the probe ------------------------------------------------------------------------------------------------------


def test_a_probe_asks_the_model_after_the_step_and_leaves_training_as_it_was(build, prior_data):
    model, plain = build(seed=3)
    drawn = train(model, plain, 7)
    probed_model, probed = build(seed=3, probe=mixcd.Probe(100, every=2))
    lost = []
    commit = probed.commit

    def scan():
        commit()
        found = probed._opened.infer(probed._opened.prior).predict_all()["correct"]
        lost.append(probed.predictions.correct & ~found)

    probed.commit = scan
    assert train(probed_model, probed, 7) == drawn
    assert_same_weights(probed_model.state_dict(), model.state_dict())
    assert (plain.probe_forward_count, probed.probe_forward_count >= 4) == (0, True)
    audit = probed.audit()
    assert audit.probed_count.sum() == 4 * 100
    expected = sum(lost[step][choose_probed(mixcd.Probe(100, every=2), 600, 3, step)].sum() for step in (0, 2, 4, 6))
    assert probed._loop.state.probed.total.counts.damaged_count.sum() == expected
    np.testing.assert_array_equal(audit.free_count, probed.counts.observed_count)


@pytest.mark.parametrize("estimator", ["counts", "drift"])
def test_a_probe_feeds_the_estimator_and_a_run_goes_on(build, estimator):
    settings = {"estimator": estimator, "probe": mixcd.Probe(30, every=4, use="estimate")}
    whole, rehearsal = build(**settings)
    drawn = train(whole, rehearsal, 14)
    half, before = build(**settings)
    train(half, before, 9)
    _, after = build(**settings)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert train(half, after, 5) == drawn[9:]
    assert after.state_dict() == rehearsal.state_dict()
    assert rehearsal._loop.state.probed.total.counts.observed_count.sum() == 4 * 30


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_batch_that_is_not_rehearsals_is_refused(build):
    model, rehearsal = build()
    with (
        pytest.raises(PlanError, match="The batch carries no sample ids, so it does not come from rehearsal's loader"),
        rehearsal.observe(model, {"input_ids": torch.ones(1, 1)}),
    ):
        pass


def test_a_step_with_unobserved_batches_is_refused(build):
    model, rehearsal = build(batch_size=4, accumulation_steps=2)
    with rehearsal.observe(model, next(iter(rehearsal.loader()))) as inputs:
        model.train()(**inputs)
    with pytest.raises(PlanError, match="planned with 8 rows, but `observe` saw 4.*Check `accumulation_steps`"):
        rehearsal.commit()


def test_steps_that_are_not_committed_run_out_of_beliefs(build):
    _, rehearsal = build()
    with pytest.raises(PlanError, match="needs a belief that is not there"):
        list(rehearsal.loader())


def test_a_loader_that_reads_further_ahead_than_the_lag_is_refused(build):
    _, rehearsal = build(lag=2)
    with pytest.raises(SettingError, match="`lag` is 2, but the data loader reads 5 steps ahead"):
        rehearsal.loader(num_workers=2)


def test_evaluation_without_held_out_data_and_an_audit_without_a_probe_are_refused(build):
    _, rehearsal = build()
    with pytest.raises(SettingError) as failure:
        rehearsal.evaluate()
    assert str(failure.value) == (
        "`evaluate()` needs held-out prior data, but `rehearse` was given none. Damage must be measured on samples "
        "that are never rehearsed. Pass `held_out=` to `rehearse`."
    )
    with pytest.raises(SettingError, match=r"but `rehearse` was given no probe. Pass `probe=mixcd.Probe\(64\)`"):
        rehearsal.audit()
    with pytest.raises(SettingError, match="`new_held_out` is given, but `held_out` is not.*Pass prior samples"):
        build(new_held_out=held_out_rows()["new_held_out"])


def test_held_out_data_without_the_column_of_the_partition_are_refused_before_the_prior_pass(build, tmp_path):
    with pytest.raises(DataError, match="`held_out`.*`topic`"):
        build(partition=mixcd.ByColumn("topic"), held_out=make_rows(50, seed=7, task="prior").remove_columns(["topic"]))
    assert not (tmp_path / "cache").exists()


def test_a_model_that_computes_otherwise_now_is_refused(build):
    model, rehearsal = build(**held_out_rows())
    model.to(torch.bfloat16)
    with pytest.raises(UnsupportedTrainerError, match="The base model predicted with other settings.*weights"):
        rehearsal.evaluate()


def test_prior_data_of_other_inputs_and_foreign_checkpoints_are_refused(build, prior_data):
    def without_mask(rows):
        batch = collate(rows)
        return batch if rows[0]["text"] != prior_data[0]["text"] else {**batch, "extra": batch["labels"]}

    with pytest.raises(DataError, match="other inputs for prior than for new samples: `extra`"):
        build(collate_fn=without_mask, new_data=make_rows(20, seed=5, task="new").map(lambda row: {"text": "other"}))
    _, rehearsal = build()
    with pytest.raises(SettingError, match="is not what `state_dict\\(\\)` returned"):
        rehearsal.load_state_dict({"weights": 1})
    stored = rehearsal.state_dict()
    _, other = build(batch_size=16)
    with pytest.raises(ResumeError, match="written with block size 8, but this run has 16"):
        other.load_state_dict(stored)


# --- accelerate -----------------------------------------------------------------------------------------------------


def test_base_model_evaluation_and_probe_compute_in_the_precision_of_the_accelerator(build):
    class Coarse:
        num_processes, process_index, device = 1, 0, "cpu"
        autocast_count = 0

        def autocast(self):
            Coarse.autocast_count += 1
            return torch.autocast("cpu", torch.bfloat16)

        def wait_for_everyone(self):
            pass

    model, rehearsal = build(accelerator=Coarse(), probe=mixcd.Probe(10), **held_out_rows())
    assert '"autocast": "bfloat16"' in rehearsal.predictions.sources["settings"]
    before = Coarse.autocast_count
    train(model, rehearsal, 1)
    assert Coarse.autocast_count == before + 1  # the probe's
    rehearsal.evaluate()


@pytest.mark.slow
def test_two_processes_of_accelerate_draw_and_learn_as_one(tmp_path):
    (alone,) = launch(1, tmp_path / "one", "--accumulation=2", worker="hand_worker.py")
    first, second = launch(2, tmp_path / "two", "--accumulation=1", worker="hand_worker.py")
    assert first["beliefs"] == second["beliefs"]
    assert first["blocks"] == second["blocks"] == alone["blocks"]
    assert first["observed_count"] == second["observed_count"] == alone["observed_count"]
    assert np.sum(first["observed_count"]) == 12 * 2
    assert first["probed_count"] == second["probed_count"] == alone["probed_count"]
    assert np.sum(first["probed_count"]) == 4 * 100
    assert first["evaluation"] == second["evaluation"]
    assert first["evaluation"]["before"] == alone["evaluation"]["before"]
    assert first["report_is_there"]
