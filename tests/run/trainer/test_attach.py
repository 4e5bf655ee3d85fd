import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from scipy.stats import binom
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import Dataset
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast, Trainer, TrainerCallback

import mixcd
from mixcd.edge.bench.rival_estimators import ScoredSamples
from mixcd.ideas.collateral_damage_estimator import CountEstimator, DriftEstimator, FactoredEstimator
from mixcd.ideas.lift import permute_bins
from mixcd.ideas.partition_strategy import ByColumn, ByFeatures, ByPriorLoss
from mixcd.ideas.probe import Probe, choose_probed
from mixcd.ideas.sampling_scheduler import Draw
from mixcd.matter.correctness import RightClass
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.rehearsal_loop.rehearsal_loop import _Planned
from mixcd.run.trainer.trainer_predictions import inference_of, predict_now
from mixcd.run.trainer.trainer_seam import TrainerSeam
from mixcd.words.errors import (
    AlreadyAttachedError,
    CacheError,
    DataError,
    PlanError,
    ResumeError,
    SettingError,
    UnsupportedTrainerError,
)
from mixcd.words.vocabulary import Partition, PartitionStrategy
from tiny import StopAt, assert_same_weights, make_model, make_rows, make_trainer, record_blocks, weights_of

MIX_RATIO = 0.25


def attach(trainer, prior_data, **settings):
    return mixcd.attach(trainer, prior_data, **{"mix_ratio": MIX_RATIO, **settings})


def count_forwards(model):
    forwards = []
    model.register_forward_hook(
        lambda _module, args, kwargs, _out: forwards.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return forwards


def step_losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def trainer(base_model, new_data, tmp_path):
    return make_trainer(base_model, new_data, tmp_path)


# --- what a step does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_makes_one_forward_per_micro_batch(base_model, new_data, prior_data, tmp_path, accumulation):
    trainer = make_trainer(base_model, new_data, tmp_path, gradient_accumulation_steps=accumulation)
    rehearsal = attach(trainer, prior_data)
    forwards = count_forwards(base_model)
    trainer.train()
    assert forwards == [8] * 10 * accumulation
    assert rehearsal.forward_count == len(forwards)


def test_every_step_holds_the_mix_ratio(trainer, prior_data):
    rehearsal = attach(trainer, prior_data)
    blocks = record_blocks(rehearsal)
    trainer.train()
    for step in range(10):
        assert sum(row >= 240 for row in blocks[step]) == 2
    assert rehearsal.counts.observed_count.sum() == 20


def test_the_model_sees_the_planned_rows_with_their_own_labels(trainer, prior_data, new_data):
    rehearsal = attach(trainer, prior_data)
    blocks = record_blocks(rehearsal)
    seen = []
    trainer.model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(dict(kwargs)), with_kwargs=True)
    trainer.train()
    for step, batch in enumerate(seen):
        rows = [prior_data[row - 240] if row >= 240 else new_data[row] for row in blocks[step]]
        assert batch["labels"].tolist() == [row["label"] for row in rows]
        assert batch["input_ids"][:, 0].tolist() == [row["input_ids"][0] for row in rows]
        assert "mixcd_sample_ids" not in batch


def test_counts_are_what_the_forward_pass_shows(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    rehearsal = attach(trainer, prior_data, partition=ByColumn("topic"))
    blocks = record_blocks(rehearsal)
    logits = []
    trainer.model.register_forward_hook(lambda _m, _a, out: logits.append(out["logits"].detach()))
    trainer.train()
    observed = np.zeros(rehearsal.partition.bin_count)
    damaged = observed.copy()
    for step, output in enumerate(logits):
        for row, scores in zip(blocks[step], output, strict=True):
            if row >= 240:
                sample = row - 240
                bin_id = rehearsal.partition.bin_ids[sample]
                observed[bin_id] += 1
                was_right = rehearsal.predictions.correct[sample]
                damaged[bin_id] += was_right and int(scores.argmax()) != prior_data[int(sample)]["label"]
    np.testing.assert_array_equal(rehearsal.counts.observed_count, observed)
    np.testing.assert_array_equal(rehearsal.counts.damaged_count, damaged)


def test_label_smoothing_and_an_own_compute_loss_are_observed(base_model, new_data, prior_data, tmp_path):
    class PositionalLoss(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(inputs["input_ids"], attention_mask=inputs["attention_mask"])
            loss = torch.nn.functional.cross_entropy(outputs.logits, labels)
            return (loss, outputs) if return_outputs else loss

    for settings in ({"label_smoothing_factor": 0.1}, {"trainer_class": PositionalLoss}):
        model = make_model()
        model.load_state_dict(base_model.state_dict())
        trainer = make_trainer(model, new_data, tmp_path, **settings)
        rehearsal = attach(trainer, prior_data)
        trainer.train()
        assert rehearsal.counts.observed_count.sum() == 20


def test_only_the_first_forward_of_a_step_is_read(base_model, new_data, prior_data, tmp_path):
    class TwoForwards(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            with torch.no_grad():
                model(**inputs)
            first, second = model(**inputs), model(**inputs)
            return first.loss + second.loss

    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=TwoForwards)
    rehearsal = attach(trainer, prior_data)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 20


# --- identities ----------------------------------------------------------------------------------------------------


def run_blocks(base_weights, new_data, prior_data, folder, steps=14, **settings):
    model = make_model()
    model.load_state_dict(base_weights)
    attach_settings = {
        name: settings.pop(name) for name in ("partition", "estimator", "lag", "seed", "probe") if name in settings
    }
    trainer = make_trainer(model, new_data, folder, max_steps=steps, **settings)
    rehearsal = attach(trainer, prior_data, cache_dir=folder / "cache", **attach_settings)
    blocks = record_blocks(rehearsal, steps)
    trainer.train()
    return blocks, weights_of(trainer), rehearsal


def test_one_bin_is_uniform_draw_for_draw(base_weights, new_data, prior_data, tmp_path):
    uniform, weights, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, estimator="uniform")
    one_bin, same_weights, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, partition=ByPriorLoss(1))
    ten_bins, _, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, partition=ByPriorLoss(10))
    assert one_bin == uniform
    assert_same_weights(weights, same_weights)
    assert ten_bins != uniform


def test_a_plan_without_prior_rows_is_plain_training(base_weights, new_data, prior_data, tmp_path):
    order = np.random.default_rng(0).permutation(240)[:80]
    plain_model, model = make_model(), make_model()
    plain_model.load_state_dict(base_weights)
    model.load_state_dict(base_weights)
    plain = make_trainer(
        plain_model,
        new_data.select(order),
        tmp_path,
        train_sampling_strategy="sequential",
        logging_steps=1,
        logging_strategy="steps",
    )
    plain.train()
    trainer = make_trainer(model, new_data, tmp_path, logging_steps=1, logging_strategy="steps")
    rehearsal = attach(trainer, prior_data)
    loop = rehearsal._loop

    def block_without_prior_rows(step):
        nothing, rows = Draw(np.array([], dtype=np.int64), np.array([])), order[8 * step : 8 * step + 8]
        loop._planned[step] = _Planned(nothing, rows, loop.state.mixture, observed_count=8)
        return rows

    loop.block = block_without_prior_rows
    trainer.train()
    assert step_losses(trainer) == step_losses(plain)
    assert_same_weights(weights_of(trainer), weights_of(plain))


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 1), (0, 2), (2, 2)])
def test_an_interrupted_run_continues_bit_for_bit(base_weights, new_data, prior_data, tmp_path, workers, accumulation):
    settings = {
        "dataloader_num_workers": workers,
        "gradient_accumulation_steps": accumulation,
        "save_strategy": "steps",
        "save_steps": 5,
        "lag": 9,
    }
    blocks, weights, whole = run_blocks(base_weights, new_data, prior_data, tmp_path, steps=10, **settings)

    model = make_model()
    model.load_state_dict(base_weights)
    del settings["lag"]
    trainer = make_trainer(model, new_data, tmp_path, max_steps=10, **settings)
    rehearsal = attach(trainer, prior_data, cache_dir=tmp_path / "cache", lag=9)
    assert rehearsal.predictions.forward_count == 0
    resumed_blocks = record_blocks(rehearsal, 10)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert resumed_blocks == {step: blocks[step] for step in range(5, 10)}
    assert_same_weights(weights_of(trainer), weights)
    np.testing.assert_array_equal(rehearsal.counts.damaged_count, whole.counts.damaged_count)


def test_a_run_resumes_inside_a_later_epoch(base_weights, prior_data, tmp_path):
    new_data = make_rows(20, seed=2, task="new")  # four steps an epoch
    settings = {"save_strategy": "steps", "save_steps": 6, "lag": 3}
    blocks, weights, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, steps=12, **settings)
    model = make_model()
    model.load_state_dict(base_weights)
    trainer = make_trainer(model, new_data, tmp_path, max_steps=12)
    rehearsal = attach(trainer, prior_data, cache_dir=tmp_path / "cache", lag=3)
    resumed_blocks = record_blocks(rehearsal, 12)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed_blocks == {step: blocks[step] for step in range(6, 12)}
    assert_same_weights(weights_of(trainer), weights)


def test_ignore_data_skip_resumes_with_the_same_draws(base_weights, prior_data, tmp_path):
    new_data = make_rows(20, seed=2, task="new")
    settings = {"save_strategy": "steps", "save_steps": 6}
    blocks, _, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, steps=12, **settings)
    model = make_model()
    model.load_state_dict(base_weights)
    trainer = make_trainer(model, new_data, tmp_path, max_steps=12, ignore_data_skip=True)
    rehearsal = attach(trainer, prior_data, cache_dir=tmp_path / "cache")
    resumed_blocks = record_blocks(rehearsal, 12)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed_blocks == {step: blocks[step] for step in range(6, 12)}


def test_draws_do_not_depend_on_the_number_of_workers(base_weights, new_data, prior_data, tmp_path):
    none, weights, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, dataloader_num_workers=0)
    two, same_weights, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, dataloader_num_workers=2)
    assert none == two
    assert_same_weights(weights, same_weights)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "dataloader_num_workers": 1,
            "dataloader_persistent_workers": True,
            "dataloader_multiprocessing_context": "spawn",
        },
        {"dataloader_drop_last": True},
        {"gradient_checkpointing": True},
        {"auto_find_batch_size": True},
    ],
    ids=lambda settings: next(reversed(settings)),
)
def test_other_settings_draw_the_same(base_weights, new_data, prior_data, tmp_path, settings):
    plain, weights, _ = run_blocks(base_weights, new_data, prior_data, tmp_path)
    blocks, same_weights, rehearsal = run_blocks(base_weights, new_data, prior_data, tmp_path, **settings)
    assert blocks == plain
    assert_same_weights(weights, same_weights)
    assert rehearsal.counts.observed_count.sum() == 28


def test_a_batch_size_that_was_too_large_is_found_again(base_model, new_data, prior_data, tmp_path):
    class OutOfMemory(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            if len(inputs["input_ids"]) > 20:
                raise RuntimeError("CUDA out of memory. (pretended)")
            return super().training_step(model, inputs, num_items_in_batch)

    trainer = make_trainer(
        base_model, new_data, tmp_path, trainer_class=OutOfMemory, auto_find_batch_size=True,
        per_device_train_batch_size=32,
    )  # fmt: skip
    rehearsal = attach(trainer, prior_data)
    trainer.train()
    assert rehearsal._loop.plan.block_size <= 20
    assert rehearsal.counts.observed_count.sum() == pytest.approx(
        10 * MIX_RATIO * rehearsal._loop.plan.block_size, abs=1
    )


def test_few_new_rows_are_repeated_within_a_large_block(base_model, prior_data, tmp_path):
    trainer = make_trainer(base_model, make_rows(10, 2, "new"), tmp_path, per_device_train_batch_size=64)
    rehearsal = attach(trainer, prior_data)
    blocks = record_blocks(rehearsal, 10)
    trainer.train()
    new_rows = [row for row in blocks[0] if row < 10]
    assert len(new_rows) == 48
    assert {new_rows.count(row) for row in range(10)} <= {4, 5}


def test_fewer_prior_samples_than_draws_are_repeated(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, per_device_train_batch_size=32)
    rehearsal = attach(trainer, prior_data.select(range(5)))
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 80


def test_draws_follow_the_seed(base_weights, new_data, prior_data, tmp_path):
    first, _, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, seed=1)
    again, _, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, seed=1)
    other, _, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, seed=2)
    assert first == again
    assert first != other


# --- against the truth ---------------------------------------------------------------------------------------------


def test_rates_lie_around_a_full_scan_of_a_fixed_model(base_weights, new_data, prior_data, tmp_path):
    model = make_model(dropout=0.0)
    model.load_state_dict(base_weights)
    trainer = make_trainer(model, new_data, tmp_path, max_steps=300, learning_rate=0.0)
    rehearsal = attach(trainer, prior_data, partition=ByColumn("topic") * ByPriorLoss(2))
    with torch.no_grad():
        torch.manual_seed(1)
        model.classifier.weight.add_(0.6 * torch.randn_like(model.classifier.weight))
    scan = trainer.predict(prior_data)
    right_now = scan.predictions.argmax(-1) == scan.label_ids
    damaged = rehearsal.predictions.correct & ~right_now
    trainer.train()
    bins, counts = rehearsal.partition.bin_ids, rehearsal.counts
    assert 0.1 < damaged.mean() < 0.9
    confidence = 1 - 0.01 / rehearsal.partition.bin_count  # Bonferroni
    for bin_id in range(rehearsal.partition.bin_count):
        truth = damaged[bins == bin_id].mean()
        low, high = binom.interval(confidence, int(counts.observed_count[bin_id]), truth)
        assert low <= counts.damaged_count[bin_id] <= high, rehearsal.partition.bin_names[bin_id]


def test_the_draws_follow_the_damage(base_weights, new_data, prior_data, tmp_path):
    settings = {"steps": 200, "partition": ByColumn("topic"), "learning_rate": 5e-3}
    uniform_blocks, _, _ = run_blocks(base_weights, new_data, prior_data, tmp_path, estimator="uniform", **settings)
    blocks, _, rehearsal = run_blocks(base_weights, new_data, prior_data, tmp_path, **settings)

    def share_at_risk(blocks):
        drawn = [row - 240 for block in blocks.values() for row in block if row >= 240]
        return np.mean([prior_data[sample]["input_ids"][0] >= 20 for sample in drawn])

    assert share_at_risk(blocks) > 1.3 * share_at_risk(uniform_blocks)
    assert rehearsal.vitals().lift > 1.2


@pytest.mark.parametrize("permuted", [False, True])
def test_permuted_bins_show_no_lift_and_the_real_ones_do(base_weights, new_data, prior_data, tmp_path, permuted):
    class Topics(PartitionStrategy):
        column_names = ("topic",)

        def assign(self, table):
            partition = ByColumn("topic").assign(table)
            return permute_bins(partition, seed=11) if permuted else partition

    _, _, rehearsal = run_blocks(
        base_weights,
        new_data,
        prior_data,
        tmp_path,
        steps=200,
        partition=Topics(),
        learning_rate=2e-3,
        per_device_train_batch_size=32,
    )
    lift = rehearsal._loop.state.history.closed_windows.to_lift()
    assert (lift.low == 1) == permuted
    assert lift.high > 1


# --- the rest of a trainer's life ----------------------------------------------------------------------------------


def test_evaluation_in_mid_run_leaves_the_counts_alone(base_weights, new_data, prior_data, tmp_path):
    plain, _, _ = run_blocks(base_weights, new_data, prior_data, tmp_path)
    settings = {"eval_strategy": "steps", "eval_steps": 3, "eval_dataset": make_rows(40, seed=9, task="new")}
    evaluated, _, rehearsal = run_blocks(base_weights, new_data, prior_data, tmp_path, **settings)
    assert evaluated == plain
    assert rehearsal.counts.observed_count.sum() == 28


def test_load_best_model_at_end_works(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(
        base_model,
        new_data,
        tmp_path,
        eval_strategy="steps",
        eval_steps=5,
        save_strategy="steps",
        save_steps=5,
        load_best_model_at_end=True,
        eval_dataset=make_rows(40, seed=9, task="new"),
    )
    attach(trainer, prior_data)
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None


def test_an_epoch_sees_every_new_sample(base_model, new_data, prior_data, tmp_path, caplog):
    trainer = make_trainer(base_model, new_data, tmp_path, max_steps=-1, num_train_epochs=1.5)
    with caplog.at_level(logging.INFO, logger="mixcd"):
        rehearsal = attach(trainer, prior_data)
    assert "steps per epoch 30 → 40" in caplog.text
    blocks = record_blocks(rehearsal)
    trainer.train()
    assert trainer.state.global_step == 60
    first_epoch = [row for step in range(40) for row in blocks[step] if row < 240]
    assert sorted(first_epoch) == list(range(240))


def test_a_second_train_starts_afresh(trainer, prior_data):
    rehearsal = attach(trainer, prior_data)
    blocks = record_blocks(rehearsal)
    trainer.train()
    first = dict(blocks)
    trainer.train()
    assert blocks.keys() == first.keys()
    assert blocks[0] == first[0]
    assert rehearsal.counts.observed_count.sum() == 20


def test_an_early_epoch_stop_goes_on_with_the_next_step(base_model, new_data, prior_data, tmp_path):
    class StopEpoch(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_epoch_stop = state.global_step == 4

    trainer = make_trainer(
        base_model, new_data.select(range(36)), tmp_path, callbacks=[StopEpoch()], max_steps=-1, num_train_epochs=2
    )
    rehearsal = attach(trainer, prior_data)
    blocks = record_blocks(rehearsal, 10)
    trainer.train()
    assert trainer.state.global_step == 10  # 4 of 6 steps, then a whole epoch
    assert sorted(blocks) == list(range(10))
    assert rehearsal.counts.observed_count.sum() == 20


def test_an_interrupt_leaves_a_trainer_that_trains_again(base_model, new_data, prior_data, tmp_path):
    class Interrupt(TrainerCallback):
        armed = True

        def on_substep_end(self, args, state, control, **_):
            if self.armed and state.global_step == 3:
                raise KeyboardInterrupt

    interrupt = Interrupt()
    trainer = make_trainer(base_model, new_data, tmp_path, gradient_accumulation_steps=2, callbacks=[interrupt])
    rehearsal = attach(trainer, prior_data)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    interrupt.armed = False
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 40


@pytest.mark.parametrize("kind", ["list", "torch", "torch format", "keep columns"])
def test_other_kinds_of_data_draw_the_same(base_weights, new_data, prior_data, tmp_path, kind):
    class Rows(Dataset):
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, number):
            return self.rows[number]

    expected, weights, _ = run_blocks(base_weights, new_data, prior_data, tmp_path / "a")
    convert = {
        "list": lambda data: [dict(row) for row in data],
        "torch": lambda data: Rows([dict(row) for row in data]),
        "torch format": lambda data: data.with_format("torch"),
        "keep columns": lambda data: data,
    }[kind]
    settings = {"remove_unused_columns": kind != "keep columns"}
    found, same_weights, _ = run_blocks(
        base_weights, convert(new_data), convert(prior_data), tmp_path / "b", **settings
    )
    assert found == expected
    assert_same_weights(weights, same_weights)


def test_a_dict_of_prior_sets_is_a_column_to_partition_by(trainer, prior_data):
    parts = {"first": prior_data.select(range(200)), "rest": prior_data.select(range(200, 600))}
    rehearsal = attach(trainer, parts, partition=ByColumn("prior_set"))
    trainer.train()
    assert rehearsal.partition.bin_names == ("prior_set=first", "prior_set=rest")
    assert rehearsal.partition.bin_sizes.tolist() == [200, 400]


def test_a_partial_cache_draws_what_it_lacks_but_counts_no_damage_there(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, max_steps=60)
    collator = trainer.get_test_dataloader(prior_data).collate_fn
    mixcd.predict_prior(base_model, prior_data, tmp_path / "cache", collate_fn=collator, share=0.5, progress=False)
    rehearsal = attach(trainer, prior_data, cache_dir=tmp_path / "cache")
    blocks = record_blocks(rehearsal, 60)
    trainer.train()
    assert rehearsal.predictions.forward_count == 0
    drawn = np.array([row - 240 for block in blocks.values() for row in block if row >= 240])
    uncached = rehearsal.partition.bin_ids[drawn] == -1
    assert 0.3 < uncached.mean() < 0.7
    assert rehearsal.counts.observed_count.sum() == np.sum(~uncached)


def test_metrics_reach_every_tracker(base_model, new_data, prior_data, tmp_path):
    seen = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            seen.append((state.global_step, dict(logs)))

    trainer = make_trainer(
        base_model, new_data, tmp_path, logging_strategy="steps", logging_steps=5, callbacks=[Tracker()]
    )
    attach(trainer, prior_data)
    trainer.train()
    ours = [(step, logs) for step, logs in seen if "mixcd/yield" in logs]
    assert [step for step, _ in ours] == [5, 10]
    assert {"mixcd/damage_rate", "mixcd/effective_bins", "mixcd/top_1_percent_share"} <= ours[-1][1].keys()
    assert sum("loss" in logs for _, logs in seen) == 2
    assert any("mixcd/yield" in entry for entry in trainer.state.log_history)


def test_failure_signs_are_logged_once(base_weights, new_data, prior_data, tmp_path, caplog):
    class Shuffled(PartitionStrategy):
        column_names = ()

        def assign(self, table):
            bins = np.random.default_rng(3).integers(0, 2, table.loss.size)
            return Partition(bins, ("heads", "tails"))

    with caplog.at_level(logging.WARNING, logger="mixcd"):
        run_blocks(
            base_weights,
            new_data,
            prior_data,
            tmp_path,
            steps=150,
            partition=Shuffled(),
            learning_rate=3e-3,
            per_device_train_batch_size=32,
        )
    lines = [record.getMessage() for record in caplog.records if "No signal" in record.getMessage()]
    assert len(lines) == 1
    assert "Try another `partition`" in lines[0]


def test_detach_gives_the_trainer_back(trainer, prior_data):
    rehearsal = attach(trainer, prior_data)
    rehearsal.detach()
    assert not {"get_train_dataloader", "training_step"} & vars(trainer).keys()
    forwards = count_forwards(trainer.model)
    trainer.train()
    assert len(forwards) == 10
    assert rehearsal.counts.observed_count.sum() == 0
    attach(trainer, prior_data, cache_dir=Path(trainer.args.output_dir) / "after")


def test_other_trainers_are_not_touched(base_model, new_data, prior_data, tmp_path):
    before = {name: vars(Trainer)[name] for name in ("get_train_dataloader", "training_step")}
    attach(make_trainer(base_model, new_data, tmp_path), prior_data)
    assert {name: vars(Trainer)[name] for name in before} == before
    other = make_trainer(make_model(), new_data, tmp_path)
    assert len(other.get_train_dataloader()) == 30


def test_attach_leaves_the_random_state_alone(trainer, prior_data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    attach(trainer, prior_data)
    assert torch.equal(torch.get_rng_state(), before)


def test_state_lies_in_the_trainers_own_checkpoint(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, save_strategy="steps", save_steps=10)
    attach(trainer, prior_data)
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-10" / "trainer_state.json").read_text())
    stored = state["stateful_callbacks"]["RehearsalCallback"]["attributes"]
    assert stored["steps_done"] == 10
    assert stored["lag"] == 8
    assert sorted(map(int, stored["beliefs"])) == list(range(2, 11))


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_evaluation_compares_with_the_base_model(base_model, new_data, prior_data, tmp_path):
    held_out, new_test = make_rows(90, seed=7, task="prior"), make_rows(50, seed=8, task="new")
    trainer = make_trainer(base_model, new_data, tmp_path, eval_dataset=new_test, max_steps=40)
    rehearsal = attach(trainer, prior_data, held_out=held_out)
    before = trainer.predict(held_out)
    unchanged = rehearsal.evaluate()
    assert unchanged.prior.damaged_count == unchanged.prior.gained_count == 0
    trainer.train()
    found, after = rehearsal.evaluate(), trainer.predict(held_out)
    right_before = before.predictions.argmax(-1) == before.label_ids
    right_after = after.predictions.argmax(-1) == after.label_ids
    assert found.prior.score_before == pytest.approx(right_before.mean())
    assert found.prior.score_after == pytest.approx(right_after.mean())
    assert [sample.sample_id for sample in found.damaged] == np.flatnonzero(right_before & ~right_after).tolist()
    assert found.damaged[0].text == f"sample {found.damaged[0].sample_id}"
    assert found.damaged[0].bin_name.startswith("loss ")
    assert found.damaged[0].label == held_out[found.damaged[0].sample_id]["label"]
    assert found.new.sample_count == 50
    assert found.new.score_after > found.new.score_before


def test_evaluation_without_held_out_data_is_refused(trainer, prior_data):
    with pytest.raises(SettingError, match="Pass `held_out=` to `attach`"):
        attach(trainer, prior_data).evaluate()


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix_ratio", [0, 1, -0.1, 1.5, float("nan")])
def test_a_mix_ratio_outside_0_and_1_is_refused(trainer, prior_data, mix_ratio):
    with pytest.raises(SettingError, match="`mix_ratio` is .* strictly between 0 and 1"):
        attach(trainer, prior_data, mix_ratio=mix_ratio)
    assert not (Path(trainer.args.output_dir) / "_mixcd_cache").exists()


@pytest.mark.parametrize(("mix_ratio", "kind"), [(0.1, "prior"), (0.9, "new")])
def test_a_block_without_room_for_both_is_refused(trainer, prior_data, mix_ratio, kind):
    with pytest.raises(SettingError, match=f"leaves 0.8 {kind} rows a step"):
        attach(trainer, prior_data, mix_ratio=mix_ratio)
    assert not list(Path(trainer.args.output_dir).rglob("manifest.json"))


def test_empty_data_are_refused(trainer, prior_data, base_model, new_data, tmp_path):
    with pytest.raises(DataError, match="`prior_data` is empty"):
        attach(trainer, prior_data.select([]))
    with pytest.raises(DataError, match=r"`prior_data\['b'\]` is empty"):
        attach(trainer, {"a": prior_data, "b": prior_data.select([])})
    with pytest.raises(DataError, match=r"`trainer.train_dataset` is empty"):
        attach(make_trainer(base_model, new_data.select([]), tmp_path), prior_data)
    with pytest.raises(DataError, match=r"`trainer.train_dataset` is None"):
        attach(make_trainer(base_model, None, tmp_path), prior_data)


def test_iterable_prior_data_are_refused(trainer, prior_data):
    with pytest.raises(DataError, match="`prior_data` is a IterableDataset, which has no length"):
        attach(trainer, prior_data.to_iterable_dataset())


def test_missing_labels_are_refused(trainer, prior_data, base_model, new_data, tmp_path):
    def collate_without_labels(rows):
        return {"input_ids": torch.tensor([row["input_ids"][:1] for row in rows])}

    unlabelled = make_trainer(base_model, new_data, tmp_path, data_collator=collate_without_labels)
    with pytest.raises(DataError, match=r"`trainer.train_dataset` has no labels: its batches hold `input_ids`"):
        attach(unlabelled, prior_data)


def test_labels_outside_the_models_classes_are_refused(trainer, prior_data, base_model, new_data, tmp_path):
    def with_label_7(data):
        return data.map(lambda row, number: {"label": 7 if number == 5 else row["label"]}, with_indices=True)

    with pytest.raises(DataError, match="`prior_data` has label 7 on sample 5, but the model knows classes 0 to 2"):
        attach(trainer, with_label_7(prior_data))
    with pytest.raises(DataError, match=r"`trainer.train_dataset` has label 7 on sample 5"):
        attach(make_trainer(base_model, with_label_7(new_data), tmp_path / "b"), prior_data)


def name_labels(data, *names):
    return data.cast_column("label", ClassLabel(names=list(names)))


def test_label_names_in_another_order_are_refused(base_model, prior_data, new_data, tmp_path):
    named = name_labels(prior_data, "no", "yes", "maybe")
    other = name_labels(new_data, "Yes", "No", "Maybe")
    trainer = make_trainer(base_model, other, tmp_path / "data")
    with pytest.raises(DataError) as failure:
        attach(trainer, named)
    assert str(failure.value) == (
        "`prior_data` numbers its labels no, yes, maybe, from 0 on, but `trainer.train_dataset` Yes, No, Maybe. A "
        "number must mean the same label everywhere. Renumber the data's labels, with "
        "`datasets.Dataset.align_labels_with_mapping`."
    )
    model = copy.deepcopy(base_model)
    model.config.id2label = {0: "yes", 1: "no", 2: "maybe"}
    trainer = make_trainer(model, new_data, tmp_path / "model")
    with pytest.raises(DataError, match=r"`prior_data\['b'\]` numbers its labels no, yes, maybe, .* but the model yes"):
        attach(trainer, {"a": name_labels(prior_data, "Yes", "No", "Maybe"), "b": named})
    attach(trainer, name_labels(prior_data, "yes", "no", "maybe"))  # alike
    attach(make_trainer(model, other, tmp_path / "others"), name_labels(prior_data, "a", "b", "c"))  # cannot be told


def test_a_tokenizer_that_cannot_pad_is_refused(base_model, prior_data, new_data, tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    trainer = make_trainer(base_model, new_data, tmp_path, data_collator=DataCollatorWithPadding(tokenizer))
    with pytest.raises(DataError, match=r"has no padding token, .* such as `tokenizer.pad_token = tokenizer.eos_tok"):
        attach(trainer, prior_data)


def test_a_missing_partition_column_is_refused(trainer, prior_data):
    with pytest.raises(DataError, match="`prior_data` has no column `topics`.*`topic`"):
        attach(trainer, prior_data, partition=ByColumn("topics"))


def test_other_model_inputs_are_refused(trainer, prior_data):
    def collate_what_is_there(rows):
        batch = {"input_ids": torch.tensor([row["input_ids"][:1] for row in rows])}
        if "attention_mask" in rows[0]:
            batch["attention_mask"] = torch.tensor([row["attention_mask"][:1] for row in rows])
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    trainer.data_collator = collate_what_is_there
    with pytest.raises(DataError, match="other inputs for prior than for new samples: `attention_mask`"):
        attach(trainer, prior_data.remove_columns("attention_mask"))


def test_a_partition_of_other_samples_is_refused(trainer, prior_data):
    class TooFew(PartitionStrategy):
        column_names = ()

        def assign(self, table):
            return Partition(np.zeros(3, dtype=np.int32), ("all",))

    with pytest.raises(DataError, match="covers 3 samples, but the base model's predictions cover 600"):
        attach(trainer, prior_data, partition=TooFew())


def test_a_cache_of_other_samples_is_refused(trainer, prior_data, base_model, new_data, tmp_path):
    attach(trainer, prior_data)
    with pytest.raises(CacheError, match="covers 600 samples, but the prior data have 500"):
        attach(make_trainer(base_model, new_data, tmp_path), prior_data.select(range(500)))


def test_a_trainer_built_from_a_checkpoint_is_refused(base_weights, new_data, prior_data, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 5}
    run_blocks(base_weights, new_data, prior_data, tmp_path, steps=5, **settings)
    tuned = type(make_model()).from_pretrained(tmp_path / "checkpoint-5")
    with pytest.raises(
        CacheError, match="another model.*build the trainer from the base model, not from the checkpoint"
    ):
        attach(make_trainer(tuned, new_data, tmp_path), prior_data, cache_dir=tmp_path / "cache")


def test_an_unknown_estimator_is_refused(trainer, prior_data):
    with pytest.raises(
        SettingError, match='`estimator` is "magic", which is unknown .known: `auto`, `counts`, `shrunk`, `factored`'
    ):
        attach(trainer, prior_data, estimator="magic")
    assert not list(Path(trainer.args.output_dir).rglob("manifest.json"))


def test_a_lag_below_the_look_ahead_is_refused(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, dataloader_num_workers=2)
    with pytest.raises(SettingError, match="`lag` is 2, but the data loader reads 5 steps ahead"):
        attach(trainer, prior_data, lag=2)
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_base_model_that_knows_too_little_is_refused(trainer, prior_data):
    mislabelled = prior_data.map(lambda row: {"label": (row["label"] + 1) % 3})
    with pytest.raises(DataError, match="right on .* of the prior samples, but rehearsal needs at least 20%"):
        attach(trainer, mislabelled)
    assert not {"get_train_dataloader", "training_step"} & vars(trainer).keys()


def test_new_data_replaced_after_attaching_are_refused(trainer, prior_data, new_data):
    rehearsal = attach(trainer, prior_data)
    trainer.train_dataset = new_data.select(range(100))
    with pytest.raises(UnsupportedTrainerError, match="was replaced after `attach`"):
        trainer.train()
    rehearsal.detach()
    attach(trainer, prior_data)
    trainer.train()


def test_a_refused_trainer_is_left_as_it_was(trainer, prior_data):
    with pytest.raises(DataError, match="`held_out` is empty"):
        attach(trainer, prior_data, held_out=prior_data.select([]))
    assert not {"get_train_dataloader", "training_step"} & vars(trainer).keys()
    with pytest.raises(DataError, match="`held_out` has no column `topic`"):
        attach(trainer, prior_data, partition=ByColumn("topic"), held_out=prior_data.remove_columns("topic"))
    assert not {"get_train_dataloader", "training_step"} & vars(trainer).keys()
    attach(trainer, prior_data)


def test_an_own_estimator_is_built_from_the_bins(trainer, prior_data):
    rehearsal = attach(
        trainer,
        prior_data,
        estimator=lambda bins, predictions: CountEstimator(bins, predictions.base_correct, discount=0.9),
    )
    trainer.train()
    assert rehearsal._loop.estimator.discount == 0.9
    assert rehearsal.counts.observed_count.sum() == 20


def test_the_papers_rule_is_raw_and_without_a_floor(trainer, prior_data):
    rehearsal = attach(trainer, prior_data, estimator="paper")
    trainer.train()
    assert (rehearsal._loop.estimator.smoothing, rehearsal._loop.floor) == ("raw", 0.0)
    seen = rehearsal.counts.observed_count > 0
    rates = rehearsal._loop.state.beliefs[10][0]
    np.testing.assert_array_equal(
        rates[seen], (rehearsal.counts.damaged_count / np.maximum(rehearsal.counts.observed_count, 1))[seen]
    )
    assert (rates[~seen] == 0.5).all()


def test_attaching_twice_is_refused(trainer, prior_data):
    attach(trainer, prior_data)
    with pytest.raises(AlreadyAttachedError, match="already replaced on the instance"):
        attach(trainer, prior_data)


def resume(base_weights, new_data, prior_data, tmp_path, **settings):
    model = make_model()
    model.load_state_dict(base_weights)
    seed = settings.pop("draw_seed", None)
    trainer = make_trainer(model, new_data, tmp_path, **settings)
    attach(trainer, prior_data, cache_dir=tmp_path / "cache", seed=seed)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_a_resume_that_would_draw_otherwise_is_refused(base_weights, new_data, prior_data, tmp_path):
    run_blocks(base_weights, new_data, prior_data, tmp_path, steps=5, save_strategy="steps", save_steps=5)
    same = (base_weights, new_data, prior_data, tmp_path)
    with pytest.raises(ResumeError, match="written with block size 8, but this run has 16"):
        resume(*same, per_device_train_batch_size=16)
    with pytest.raises(ResumeError, match="written with seed 42, but this run has 1"):
        resume(*same, draw_seed=1)
    with pytest.raises(ResumeError, match="lag of 8 steps, but this run asks for 13"):
        resume(*same, dataloader_num_workers=3, dataloader_prefetch_factor=4)


def test_a_resume_without_rehearsal_state_is_refused(base_weights, new_data, prior_data, tmp_path):
    model = make_model()
    model.load_state_dict(base_weights)
    make_trainer(model, new_data, tmp_path, max_steps=5, save_strategy="steps", save_steps=5).train()
    with pytest.raises(ResumeError, match="checkpoint at step 5 holds no rehearsal state"):
        resume(base_weights, new_data, prior_data, tmp_path)


def test_a_model_init_that_builds_another_model_is_refused(new_data, prior_data, tmp_path):
    seeds = iter(range(9))
    trainer = make_trainer(None, new_data, tmp_path, model_init=lambda: make_model(seed=next(seeds)))
    attach(trainer, prior_data)
    with pytest.raises(UnsupportedTrainerError, match="`model_init` built another model"):
        trainer.train()


def test_a_model_init_that_repeats_itself_trains(new_data, prior_data, tmp_path):
    trainer = make_trainer(None, new_data, tmp_path, model_init=lambda: make_model())
    rehearsal = attach(trainer, prior_data)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 20


def test_running_through_the_loader_before_training_is_refused(trainer, prior_data):
    attach(trainer, prior_data)
    with pytest.raises(PlanError, match="Do not run through it outside `train\\(\\)`"):
        list(trainer.get_train_dataloader())


def test_a_batch_from_elsewhere_is_refused(trainer, prior_data, new_data):
    attach(trainer, prior_data)
    with pytest.raises(PlanError, match="without sample ids"):
        trainer.training_step(trainer.model, {"input_ids": torch.ones(1, 1, dtype=torch.long)})


def test_rows_that_never_reach_the_model_are_refused(base_model, new_data, prior_data, tmp_path):
    class DropsRows(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            return super().training_step(model, inputs, num_items_in_batch)

        def get_batch_samples(self, epoch_iterator, num_batches, device):
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
            return [{name: value[1:] for name, value in batch.items()} for batch in batches], count

    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=DropsRows)
    attach(trainer, prior_data)
    with pytest.raises(PlanError, match="trained on 8 planned rows, but its forward passes showed 7"):
        trainer.train()


def test_a_model_without_logits_is_refused(base_model, new_data, prior_data, tmp_path):
    class TupleOutput(type(base_model)):
        def forward(self, *args, **kwargs):
            return tuple(super().forward(*args, **kwargs).values())

    trainer = make_trainer(TupleOutput(base_model.config), new_data, tmp_path, remove_unused_columns=False)
    with pytest.raises(UnsupportedTrainerError, match="returned a tuple without `logits`"):
        attach(trainer, prior_data)


# --- stopping, records ------------------------------------------------------------------------------------------


def test_a_stop_that_is_asked_for_saves_and_resumes_bit_for_bit(base_weights, new_data, prior_data, tmp_path):
    def run(folder, stop_at=None, resume=None):
        model = make_model()
        model.load_state_dict(base_weights)
        trainer = make_trainer(model, new_data, tmp_path / folder, gradient_accumulation_steps=2)
        rehearsal = attach(trainer, prior_data)
        if stop_at is not None:
            trainer.add_callback(StopAt(rehearsal, stop_at))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run("whole")
    stopped = run("run", stop_at=4)
    assert stopped.state.global_step == 5
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]
    resumed = run("run", resume=True)
    assert resumed.state.global_step == 10
    assert_same_weights(weights_of(resumed), weights_of(whole))


def test_a_stop_does_not_outlive_the_training_it_was_asked_of(trainer, prior_data):
    rehearsal = attach(trainer, prior_data)
    callback = StopAt(rehearsal, 2)
    trainer.add_callback(callback)
    trainer.train()
    assert trainer.state.global_step == 3
    trainer.remove_callback(callback)
    trainer.train()
    assert trainer.state.global_step == 10


def test_the_last_step_is_told(trainer, prior_data):
    rehearsal = attach(trainer, prior_data)
    assert rehearsal.last_step is None
    trainer.train()
    last = rehearsal.last_step
    assert last.step == 10
    assert (last.prior_share, last.observed) == (0.25, 2)
    assert last.new_loss > 0
    assert last.prior_loss > 0
    assert 0 <= last.damaged <= 2


def test_more_columns_are_cached_when_asked_for(trainer, prior_data):
    rehearsal = attach(trainer, prior_data, partition=ByColumn("topic"), cache_columns=("label", "topic"))
    assert list(rehearsal.predictions.columns) == ["topic", "label"]


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_ways_of_splitting_the_model_are_warned_of_once(trainer, prior_data, caplog, name):
    setattr(trainer, f"is_{name}_enabled", True)
    attach(trainer, prior_data)
    warnings = [entry.message for entry in caplog.records if "untested" in entry.message]
    assert len(warnings) == 1
    assert name in warnings[0].lower()


# --- the drift estimator ----------------------------------------------------------------------------------------


def test_drift_needs_no_forward_pass_more(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    rehearsal = attach(trainer, prior_data, estimator="drift")
    forwards = count_forwards(base_model)
    trainer.train()
    assert len(forwards) == 10
    gram = rehearsal._loop.state.estimator_state.gram
    assert gram.shape == (17, 17)  # this model hands 16 numbers to its head
    assert gram[-1, -1] == pytest.approx(sum(2 * 0.98**step for step in range(10)))  # two rehearsed samples a step


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_drift_run_resumes_bit_for_bit(base_weights, new_data, prior_data, tmp_path, share):
    def run(folder, steps, resume=None):
        model = make_model()
        model.load_state_dict(base_weights)
        trainer = make_trainer(model, new_data, tmp_path / folder, max_steps=steps, save_strategy="steps", save_steps=7)
        cache = tmp_path / "cache"
        trainer_pass = inference_of(trainer, PriorDataset(prior_data), RightClass())
        mixcd.predict_prior(
            trainer.model,
            prior_data,
            cache,
            collate_fn=trainer_pass.collate_fn,
            share=share,
            features=64,
            progress=False,
        )
        rehearsal = attach(trainer, prior_data, estimator="drift", cache_dir=cache)
        blocks = record_blocks(rehearsal, steps)
        trainer.train(resume_from_checkpoint=resume)
        return weights_of(trainer), blocks, rehearsal._loop.state.estimator_state

    weights, blocks, state = run("whole", 14)
    again, later, restored = run("whole", 14, resume=str(tmp_path / "whole" / "checkpoint-7"))
    assert_same_weights(again, weights)
    assert later == {step: block for step, block in blocks.items() if step >= 7}
    for one, other in zip(vars(restored).values(), vars(state).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_drift_forecasts_which_samples_are_damaged(base_model, new_data, tmp_path):
    prior = make_rows(3000, seed=1, task="prior")
    trainer = make_trainer(base_model, new_data, tmp_path, max_steps=100, per_device_train_batch_size=32)
    rehearsal = attach(trainer, prior, mix_ratio=0.125, estimator="drift")  # too little to undo all damage
    trainer.train()
    loop, found = rehearsal._loop, predict_now(trainer, PriorDataset(prior), RightClass())
    damaged = rehearsal.predictions.correct & ~found["correct"]
    chance = loop.estimator.damage_probability(loop.state.beliefs[100], np.arange(3000))
    lift = chance[damaged].sum() / chance.sum() / damaged.mean()
    assert damaged.mean() > 0.2
    assert lift > 1.5  # 1.6 to 2.1 with other seeds


def test_logits_are_observed_only_when_the_estimator_reads_them(base_weights, new_data, prior_data, tmp_path):
    for estimator, reads in (("counts", False), ("drift", True)):
        seen = []
        model = make_model()
        model.load_state_dict(base_weights)
        trainer = make_trainer(model, new_data, tmp_path / estimator, max_steps=3)
        rehearsal = attach(trainer, prior_data, estimator=estimator, probe=Probe(4, use="estimate"))
        learn = rehearsal._loop.learn

        def spy(observation, share_belief, probed, learn=learn, seen=seen):
            seen.extend([observation, probed])
            return learn(observation, share_belief, probed)

        rehearsal._loop.learn = spy
        trainer.train()
        assert len(seen) == 6
        assert {one.logits is not None for one in seen} == {reads}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("probe", [None, Probe(8, use="estimate")])
def test_a_gpu_learns_before_the_weights_move_but_a_probe_sees_the_new_ones(
    base_weights, new_data, prior_data, tmp_path, accumulation, probe, monkeypatch
):
    rehearsals, seen = [], []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **_):
            seam = rehearsals[-1]._seam
            seen.append((seam.loop.steps_done - state.global_step, seam._learnt is not None))

    for is_on_gpu in (False, True):
        monkeypatch.setattr(TrainerSeam, "_is_on_gpu", is_on_gpu)
        model = make_model(dropout=0.0)
        model.load_state_dict(base_weights)
        settings = {"max_steps": 4, "gradient_accumulation_steps": accumulation, "callbacks": [Watch()]}
        trainer = make_trainer(model, new_data, tmp_path, **settings)
        rehearsals.append(attach(trainer, prior_data, probe=probe))
        trainer.train()
    assert seen == [(0, False)] * 4 + [(0, probe is None)] * 4
    states = [rehearsal._loop.to_json() for rehearsal in rehearsals]
    assert states[0] == states[1]
    assert states[0]["steps_done"] == 4


def test_a_checkpoint_from_before_the_weights_move_is_resumed(base_weights, new_data, prior_data, tmp_path):
    """Such are those that transformers saves on SIGTERM with `enable_jit_checkpoint`."""

    class SaveEarly(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **_):
            if state.global_step == 5:
                trainers[-1]._save_checkpoint(trainers[-1].model, trial=None)

    outcomes, trainers = [], []
    for resume in (None, str(tmp_path / "checkpoint-5")):
        model = make_model(dropout=0.0)
        model.load_state_dict(base_weights)
        trainers.append(
            make_trainer(model, new_data, tmp_path, max_steps=14, callbacks=[] if resume else [SaveEarly()])
        )
        rehearsal = attach(trainers[-1], prior_data)
        trainers[-1].train(resume_from_checkpoint=resume)
        outcomes.append((model.state_dict(), rehearsal.counts))
    (weights, counts), (resumed, same_counts) = outcomes
    assert_same_weights(resumed, weights)
    np.testing.assert_array_equal(same_counts.damaged_count, counts.damaged_count)


# --- the probe --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_probe_for_the_audit_leaves_training_as_it_was(base_weights, new_data, prior_data, tmp_path, accumulation):
    settings = {"gradient_accumulation_steps": accumulation}  # the model has dropout: the random state counts
    plain, weights, without = run_blocks(base_weights, new_data, prior_data, tmp_path / "a", **settings)
    probed, same_weights, rehearsal = run_blocks(
        base_weights, new_data, prior_data, tmp_path / "b", probe=Probe(50, every=3), **settings
    )
    assert probed == plain
    assert_same_weights(same_weights, weights)
    np.testing.assert_array_equal(rehearsal.counts.damaged_count, without.counts.damaged_count)
    assert rehearsal.forward_count == without.forward_count == 14 * accumulation
    assert without.probe_forward_count == 0
    assert rehearsal.probe_forward_count >= 5  # after steps 0, 3, 6, 9, 12
    assert rehearsal._loop.state.probed.step_count == 5


def test_a_probe_observes_its_samples_with_the_model_after_the_step(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, max_steps=7)
    rehearsal = attach(trainer, prior_data, partition=ByColumn("topic"), probe=Probe(100, every=2), seed=3)
    observed, damaged, after = [], [], []

    class Scan(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            after.append(predict_now(trainer, PriorDataset(prior_data), RightClass())["correct"])

    trainer.add_callback(Scan())
    trainer.train()
    bins, count = rehearsal.partition.bin_ids, rehearsal.partition.bin_count
    for step in (0, 2, 4, 6):
        ids = choose_probed(Probe(100, every=2), 600, 3, step)
        observed.append(np.bincount(bins[ids], minlength=count))
        lost = rehearsal.predictions.correct[ids] & ~after[step][ids]
        damaged.append(np.bincount(bins[ids], lost, minlength=count))
    probed = rehearsal._loop.state.probed.total.counts
    np.testing.assert_array_equal(probed.observed_count, np.sum(observed, axis=0))
    np.testing.assert_array_equal(probed.damaged_count, np.sum(damaged, axis=0))
    audit = rehearsal.audit()
    np.testing.assert_array_equal(audit.probed_count, probed.observed_count)
    np.testing.assert_array_equal(audit.free_count, rehearsal.counts.observed_count)


def test_a_probe_that_feeds_the_estimator_is_all_it_learns_from(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    rehearsal = attach(trainer, prior_data, estimator="counts", probe=Probe(30, every=4, use="estimate"))
    trainer.train()
    state, history = rehearsal._loop.state.estimator_state, rehearsal._loop.state
    np.testing.assert_array_equal(state.observed_count, history.probed.total.counts.observed_count)
    np.testing.assert_array_equal(state.damaged_count, history.probed.total.counts.damaged_count)
    assert state.observed_count.sum() == 90  # after steps 0, 4 and 8
    assert rehearsal.counts.observed_count.sum() == 20  # the free ones are still counted


def test_training_and_probing_agree_where_nothing_changes_the_model(base_weights, new_data, prior_data, tmp_path):
    model = make_model(dropout=0.0)
    model.load_state_dict(base_weights)
    trainer = make_trainer(model, new_data, tmp_path, max_steps=400, learning_rate=0.0, per_device_train_batch_size=32)
    rehearsal = attach(
        trainer, prior_data, mix_ratio=0.5, partition=ByPriorLoss(4), estimator="uniform", probe=Probe(16)
    )
    with torch.no_grad():
        torch.manual_seed(1)
        model.classifier.weight.add_(0.6 * torch.randn_like(model.classifier.weight))
    trainer.train()
    audit = rehearsal.audit()
    assert audit.error < 0.03
    assert abs(audit.bias) < 0.03


def test_an_audit_without_a_probe_is_refused(trainer, prior_data):
    rehearsal = attach(trainer, prior_data)
    with pytest.raises(SettingError) as failure:
        rehearsal.audit()
    assert str(failure.value) == (
        "`audit()` compares the free damage rates with those of extra inference, but `attach` was given no probe. Pass "
        "`probe=mixcd.Probe(64)`."
    )


def make_oracle(_, predictions):
    return ScoredSamples(predictions.loss, predictions.base_correct, "damaged")


def test_an_oracles_weights_are_the_true_damage(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, max_steps=20, learning_rate=2e-2)
    rehearsal = attach(trainer, prior_data, estimator=make_oracle, floor=0.0, probe=Probe(600, use="estimate"))
    damaged = []

    class Scan(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            now = predict_now(trainer, PriorDataset(prior_data), RightClass())["correct"]
            damaged.append(rehearsal.predictions.correct & ~now)

    trainer.add_callback(Scan())
    blocks = record_blocks(rehearsal, 20)
    trainer.train()
    loop = rehearsal._loop
    weights = loop.estimator.damage_probability(loop.state.beliefs[20], np.arange(600))
    np.testing.assert_array_equal(weights, damaged[19])
    assert damaged[19].any()
    for step in range(9, 20):  # a lag of 8: the belief after step - 8 steps
        truth = damaged[step - 8 - 1]
        assert truth.sum() >= 2
        assert all(truth[row - 240] for row in blocks[step] if row >= 240)
    assert 1 <= rehearsal.vitals().effective_bins <= 10


@pytest.mark.parametrize(
    ("estimator", "probe"),
    [
        ("counts", Probe(20, every=3)),
        ("counts", Probe(20, every=3, use="estimate")),
        (make_oracle, Probe(40, every=4, use="estimate")),
        ("drift", Probe(20, every=3, use="estimate")),
    ],
    ids=["audit", "estimate", "oracle", "drift"],
)
def test_a_run_with_a_probe_resumes_bit_for_bit(base_weights, new_data, prior_data, tmp_path, estimator, probe):
    settings = {"save_strategy": "steps", "save_steps": 8, "estimator": estimator, "probe": probe}
    blocks, weights, whole = run_blocks(base_weights, new_data, prior_data, tmp_path, **settings)
    model = make_model()
    model.load_state_dict(base_weights)
    trainer = make_trainer(model, new_data, tmp_path, max_steps=14)
    rehearsal = attach(trainer, prior_data, cache_dir=tmp_path / "cache", estimator=estimator, probe=probe)
    resumed = record_blocks(rehearsal, 14)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed == {step: blocks[step] for step in range(8, 14)}
    assert_same_weights(weights_of(trainer), weights)
    assert rehearsal._loop.to_json() == whole._loop.to_json()


def test_a_run_resumes_only_with_the_probe_that_its_belief_rests_on(base_weights, new_data, prior_data, tmp_path):
    settings = {"steps": 5, "save_strategy": "steps", "save_steps": 5}
    run_blocks(base_weights, new_data, prior_data, tmp_path, probe=Probe(20, use="estimate"), **settings)

    def resume_with(probe):
        model = make_model()
        model.load_state_dict(base_weights)
        trainer = make_trainer(model, new_data, tmp_path, max_steps=6)
        attach(trainer, prior_data, cache_dir=tmp_path / "cache", probe=probe)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))

    for probe, told in (
        (None, "training"),
        (Probe(20), "training"),
        (Probe(30, use="estimate"), "Probe(sample_count=30"),
    ):
        with pytest.raises(ResumeError) as failure:
            resume_with(probe)
        assert (
            "written with source of the belief Probe(sample_count=20, every=1, use='estimate'), but this run has "
            + told
        ) in str(failure.value)
    resume_with(Probe(20, use="estimate"))


def test_the_batch_in_training_is_told_by_sample_ids(base_model, new_data, prior_data, tmp_path):
    seen = []

    class Reader(Trainer):
        rehearsal = None

        def compute_loss(self, model, inputs, return_outputs=False, **rest):
            seen.append((self.rehearsal.batch_sample_ids.tolist(), inputs["labels"].tolist()))
            return super().compute_loss(model, inputs, return_outputs, **rest)

    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=Reader, gradient_accumulation_steps=2)
    trainer.rehearsal = rehearsal = attach(trainer, prior_data)
    blocks = record_blocks(rehearsal, 10)
    trainer.train()
    assert len(seen) == 20
    for step in range(10):
        rows = [row for ids, _ in seen[2 * step : 2 * step + 2] for row in ids]
        labels = [label for _, labels in seen[2 * step : 2 * step + 2] for label in labels]
        assert rows == [row - 240 if row >= 240 else -1 for row in blocks[step]]
        for sample, label in zip(rows, labels, strict=True):
            assert sample == -1 or label == prior_data[sample]["label"]


@pytest.mark.parametrize("floor", [0.0, 0.4])
def test_the_floor_is_the_schedulers(trainer, prior_data, floor):
    assert attach(trainer, prior_data, floor=floor)._loop.floor == floor


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"floor": 1.5}, "`floor` is 1.5, but it is a share of the draws"),
        ({"floor": float("nan")}, "`floor` is nan"),
        ({"features": -1}, "`features` is -1, but it is a number of features a sample"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_the_prior_pass(trainer, prior_data, settings, message):
    with pytest.raises(SettingError, match=message):
        attach(trainer, prior_data, **settings)
    assert not list(Path(trainer.args.output_dir).rglob("manifest.json"))


@pytest.mark.parametrize(("features", "width"), [(None, None), (0, None), (5, 5)])
def test_as_many_features_are_cached_as_asked_for(trainer, prior_data, features, width):
    arrays = attach(trainer, prior_data, estimator="counts", features=features).predictions.arrays
    assert (arrays["features"].shape[1] if arrays else None) == width


# --- what "auto" means ---------------------------------------------------------------------------------------------


def test_auto_forecasts_drift(trainer, prior_data):
    rehearsal = attach(trainer, prior_data)
    assert isinstance(rehearsal._loop.estimator, DriftEstimator)
    assert set(rehearsal.predictions.arrays) == {"logits", "features"}
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 20


@pytest.mark.parametrize("settings", [{"partition": ByPriorLoss(4)}, {"features": 0}])
def test_auto_counts_when_a_partition_is_named_or_no_features_are_wanted(trainer, prior_data, settings):
    rehearsal = attach(trainer, prior_data, **settings)
    assert isinstance(rehearsal._loop.estimator, CountEstimator)
    assert rehearsal._loop.estimator.smoothing == "beta"


def test_auto_counts_each_part_of_a_combined_partition(trainer, prior_data):
    rehearsal = attach(trainer, prior_data, partition=ByPriorLoss(4) * ByColumn("topic"))
    assert isinstance(rehearsal._loop.estimator, FactoredEstimator)
    assert rehearsal.predictions.arrays == {}
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 20


def test_auto_counts_when_the_cache_has_no_features(trainer, prior_data, tmp_path):
    attach(trainer, prior_data, estimator="counts", cache_dir=tmp_path / "cache").detach()
    rehearsal = attach(trainer, prior_data, cache_dir=tmp_path / "cache")
    assert isinstance(rehearsal._loop.estimator, CountEstimator)
    assert rehearsal.predictions.forward_count == 0


def test_clusters_of_features_can_be_evaluated(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, max_steps=40, learning_rate=5e-3)
    rehearsal = attach(trainer, prior_data, partition=ByFeatures(4), held_out=prior_data.select(range(100)))
    trainer.train()
    evaluation = rehearsal.evaluate()
    assert evaluation.prior.damaged_count == len(evaluation.damaged) > 0
    assert {sample.bin_name for sample in evaluation.damaged} == {""}


def test_attaching_after_training_says_what_the_base_model_is_then(base_model, new_data, prior_data, tmp_path, caplog):
    trainer = make_trainer(base_model, new_data, tmp_path, max_steps=2)
    trainer.train()
    with caplog.at_level("WARNING", "mixcd"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    assert (
        "This trainer has trained for 2 steps already. The model as it is now counts as the base model" in caplog.text
    )
    assert "call `attach` before `train()`" in caplog.text


def test_held_out_data_that_are_rehearsed_are_warned_of(base_model, new_data, prior_data, tmp_path, caplog):
    other = prior_data.select(range(len(prior_data) - 1))
    with caplog.at_level("WARNING", "mixcd"):
        trainer = make_trainer(base_model, new_data, tmp_path / "other")
        mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=other)
        assert "`held_out` holds the same rows" not in caplog.text
        trainer = make_trainer(base_model, new_data, tmp_path / "same")
        mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=prior_data)
    assert "`held_out` holds the same rows as `prior_data`, which are rehearsed." in caplog.text


def test_a_misspelt_partition_is_told_of_the_prior_data(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    with pytest.raises(DataError, match="`prior_data` has no column `topik`"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25, partition="column:topik", held_out=prior_data)
