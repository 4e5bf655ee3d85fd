import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Trainer

from mixcd.edge.bench.sweep.find_task import load_function
from mixcd.edge.bench.sweep.sweep_method import BUILT_IN, Method, ProbeSettings
from mixcd.edge.bench.sweep.sweep_results import RESULTS_SCHEMA
from mixcd.edge.bench.sweep.sweep_run import (
    Judge,
    RunSpec,
    make_plain_trainer,
    require_task,
    run_once,
    trainer_arguments,
)
from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.ideas.partition_strategy import ByPriorLoss
from mixcd.matter.correctness import RightClass
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.trainer_predictions import predict_now
from mixcd.words.errors import DataError, SettingError
from tiny_tasks import FAMILIES, collate
from toy_sweep import without_times, write_toy

NAMED = {"task": "toy", "method": "x", "settings": "{}"}


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, f"{folder / write_toy(folder)}.py"


@pytest.fixture(scope="module")
def task(module):
    folder, file = module
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        return load_function(f"{file}:toy")(0, folder)


@pytest.fixture(scope="module")
def judge(task, module):
    return Judge(task, module[0])


@pytest.fixture
def run(task, judge, tmp_path):
    def run(method, mix_ratio=0.5, seed=0, features=4, make_trainer=make_plain_trainer, of=task, folder=tmp_path):
        method = BUILT_IN[method] if isinstance(method, str) else method
        mix_ratio = mix_ratio if method.estimator else 0.0
        rows = run_once(of, RunSpec(method, mix_ratio, seed, features), folder, judge, make_trainer)
        return rows if method.wise_ft else rows[0]

    return run


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_method_makes_a_whole_row(run, name):
    row = run(name)
    assert {**NAMED, **row}.keys() == set(RESULTS_SCHEMA.names)
    assert row["wise_ft"] == 1.0
    assert row["prior_before_test"] > 0.9
    if name == "none":
        assert (row["mix_ratio"], row["observed_count"], row["lift"]) == (0.0, 0, None)
        assert row["prior_after_test"] < row["prior_before_test"]
        assert row["new_after_test"] > row["new_before_test"]
    else:
        assert row["observed_count"] == 4 * row["steps"]
    if name in ("unbiased", "candidate-scoring"):
        assert row["extra_compute"] > 0
        assert row["is_charged"]
        assert row["steps"] == int(12 / (1 + row["extra_compute"])) < 12
    else:
        assert row["steps"] == 12
    assert row["is_charged"] == (not name.startswith("oracle"))


def test_the_row_counts_forward_passes_by_kind(run):
    plain, again, oracle = run("counts"), run("counts"), run("oracle-hard")
    assert plain["prior_pass_forward_count"] > 0
    assert again["prior_pass_forward_count"] == 0  # the cache is shared
    assert plain["forward_count"] == again["forward_count"] == 12
    assert oracle["forward_count"] == 12 + 4  # one probing of 240 rows, in batches of 64


def test_a_charged_probe_costs_steps_and_an_uncharged_one_none(run):
    probe = ProbeSettings(samples_a_draw=3)  # 3 · 4 forwards of a step's 3 · 8
    charged = run(replace(BUILT_IN["counts"], probe=probe))
    uncharged = run(replace(BUILT_IN["counts"], probe=replace(probe, is_charged=False)))
    assert charged["extra_compute"] == uncharged["extra_compute"] == pytest.approx(0.5)
    assert (charged["steps"], uncharged["steps"]) == (8, 12)
    assert (charged["is_charged"], uncharged["is_charged"]) == (True, False)
    assert charged["forward_count"] == 2 * 8


def test_tokens_are_what_a_probe_costs(task, run):
    rows = [{**row, "input_ids": [1] * (30 if number % 2 else 10)} for number, row in enumerate(task.prior)]
    longer = replace(task, prior=rows, collate_fn=collate_features)
    row = run(replace(BUILT_IN["counts"], probe=ProbeSettings(sample_count=6, every=2)), of=longer)
    step_tokens = 8 * (0.5 * 20 + 0.5 * 1)
    assert row["extra_compute"] == pytest.approx(6 * 20 / (3 * 2 * step_tokens))


def collate_features(rows):
    return {
        "features": torch.from_numpy(np.stack([row["features"] for row in rows])),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def test_a_methods_own_batch_size_is_the_probes_too(run):
    method = replace(
        BUILT_IN["counts"],
        probe=ProbeSettings(samples_a_draw=3),
        training={"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2},
    )
    row = run(method)
    assert row["extra_compute"] == pytest.approx(0.5)
    assert row["observed_count"] == 16 * 8


def test_a_probe_that_leaves_no_step_is_refused(run):
    with pytest.raises(SettingError) as failure:
        run(replace(BUILT_IN["counts"], probe=ProbeSettings(sample_count=1000)))
    assert str(failure.value) == (
        "The method's probe costs 41.7 times the training, so none of 12 steps is left. Probe fewer samples, or less "
        "often."
    )


def test_the_same_run_gives_the_same_numbers_whatever_ran_before(run, tmp_path):
    first = [run(name, folder=tmp_path) for name in ("none", "counts", "oracle-soft", "drift")]
    other = [run(name, folder=tmp_path) for name in ("drift", "none", "oracle-soft", "counts")]
    for row in (*first, *other):
        del row["prior_pass_forward_count"]  # the first run makes the pass
    named = [
        [{**row, "method": name} for name, row in zip(names, rows, strict=True)]
        for names, rows in (
            (("none", "counts", "oracle-soft", "drift"), first),
            (("drift", "none", "oracle-soft", "counts"), other),
        )
    ]
    assert without_times(named[0]) == without_times(named[1])


def test_another_seed_gives_other_numbers(run):
    assert run("counts", seed=1)["prior_after_test"] != run("counts", seed=2)["prior_after_test"] or (
        run("counts", seed=1)["damaged_count"] != run("counts", seed=2)["damaged_count"]
    )


def test_a_run_leaves_the_tasks_model_as_it_was(task, run):
    before = {name: weight.clone() for name, weight in task.model.state_dict().items()}
    run("counts")
    assert all(torch.equal(weight, before[name]) for name, weight in task.model.state_dict().items())


def test_averages_with_the_base_model_are_rows_of_their_own(run, judge):
    rows = run(replace(BUILT_IN["none"], wise_ft=(0.001, 0.5, 0.999)))
    assert [row["wise_ft"] for row in rows] == [1.0, 0.001, 0.5, 0.999]
    tuned, base, middle, almost = rows
    for half in ("validation", "test"):
        for task in ("prior", "new"):
            assert base[f"{task}_after_{half}"] == base[f"{task}_before_{half}"]
            assert almost[f"{task}_after_{half}"] == pytest.approx(tuned[f"{task}_after_{half}"], abs=0.05)
        assert base[f"damaged_{half}"] == 0
    assert middle["prior_after_test"] >= tuned["prior_after_test"]
    shared = ("steps", "forward_count", "observed_count", "seconds", "provenance", "seed")
    assert all(row[key] == tuned[key] for row in rows for key in shared)


def test_scores_are_of_both_halves_and_both_tasks(task, judge, tmp_path):
    trainer = Trainer(**trainer_arguments(task, tmp_path, {}, 12, 0))
    trainer.train()
    scores = judge.judge(trainer)
    base = Trainer(**trainer_arguments(task, tmp_path, {}, 1, 0))
    for name, data in (("prior", task.held_out_prior), ("new", task.held_out_new)):
        before, after = (predict_now(one, PriorDataset(data), RightClass())["correct"] for one in (base, trainer))
        middle = len(data) // 2
        for half, part in (("validation", slice(middle)), ("test", slice(middle, None))):
            assert scores[f"{name}_before_{half}"] == pytest.approx(before[part].mean())
            assert scores[f"{name}_after_{half}"] == pytest.approx(after[part].mean())
            if name == "prior":
                assert scores[f"damaged_{half}"] == pytest.approx((before & ~after)[part].mean())


def test_rows_tell_where_they_come_from(run):
    told = json.loads(run("counts")["provenance"])
    assert {"started", "versions", "platform", "processors", "threads", "device", "sources"} == told.keys()
    assert set(told["sources"]) == {"model", "settings", "tokenizer", "data", "preprocessing", "rule"}
    assert told["versions"]["torch"] == torch.__version__
    assert json.loads(run("none")["provenance"])["sources"] == {}


def test_a_trainer_of_ones_own_is_told_its_settings_and_its_rehearsal(module, run):
    made = []

    def make(task, settings, arguments):
        made.append(load_function(f"{module[1]}:make_told_trainer")(task, settings, arguments))
        return made[-1]

    run(replace(BUILT_IN["uniform"], trainer="x.py:make", trainer_settings={"a": 1}), make_trainer=make)
    assert made[0].told == {"a": 1}
    assert made[0].rehearsal.counts.observed_count.sum() == 48
    run(replace(BUILT_IN["none"], trainer="x.py:make"), make_trainer=make)
    assert made[1].rehearsal is None


def test_trainers_of_other_settings_have_caches_of_their_own(run, tmp_path):
    for settings in ({}, {"rank": 1}, {"rank": 2}):
        method = replace(BUILT_IN["uniform"], trainer="x.py:make", trainer_settings=settings)
        run(method, make_trainer=lambda task, settings, arguments: Trainer(**arguments))
    run("uniform")
    assert len(list(tmp_path.glob("cache-make-*"))) == 3
    assert len(list(tmp_path.glob("cache-plain-4"))) == 1


def test_settings_without_a_trainer_that_takes_them_are_refused(task):
    with pytest.raises(SettingError) as failure:
        make_plain_trainer(task, {"strength": 1}, {})
    assert str(failure.value) == (
        "`trainer_settings` are {'strength': 1}, but the method names no `trainer` that takes them. Name it, or remove "
        "them."
    )


def test_a_methods_training_settings_change_the_tasks(task, tmp_path):
    args = trainer_arguments(task, tmp_path, {"learning_rate": 0.5, "weight_decay": 0.1}, 7, 3)["args"]
    assert (args.learning_rate, args.weight_decay, args.max_steps, args.seed) == (0.5, 0.1, 7, 3)
    assert args.per_device_train_batch_size == 8
    assert args.save_strategy == "no"


def test_the_lag_floor_and_partition_are_the_methods(run, monkeypatch):
    seen = {}

    def spy(trainer, prior, **settings):
        seen.update(settings)
        raise SettingError("enough")

    monkeypatch.setattr("mixcd.edge.bench.sweep.sweep_run.attach", spy)
    with pytest.raises(SettingError, match="enough"):
        run(Method("counts", partition=ByPriorLoss(3), floor=0.2, lag=4), seed=5)
    assert (seen["partition"], seen["floor"], seen["lag"], seen["seed"]) == (ByPriorLoss(3), 0.2, 4, 5)


# --- tasks ----------------------------------------------------------------------------------------------------------


def test_a_task_is_accepted(task):
    require_task(task)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"training": {"num_train_epochs": 1}},
            SettingError,
            "The task's `training` sets no `max_steps`, but a sweep compares methods at equal compute. Set it.",
        ),
        ({"training": {"max_steps": 0}}, SettingError, "The task's `training` sets no `max_steps`"),
        (
            {"held_out_prior": [{"features": np.zeros(6, np.float32), "label": 0}]},
            DataError,
            "The task's `held_out_prior` has fewer than 2 rows, but choices are made on one half of them and results "
            "reported on the other. Hold out more.",
        ),
        ({"held_out_new": []}, DataError, "`held_out_new` is empty"),
    ],
)
def test_a_task_that_no_run_can_be_made_of_is_refused(task, change, kind, message):
    with pytest.raises(kind) as failure:
        require_task(replace(task, **change))
    assert message in str(failure.value)


def test_what_is_no_task_is_refused():
    with pytest.raises(SettingError) as failure:
        require_task({"model": 1})
    assert str(failure.value) == "The task function returned a dict, but it must return a `SweepTask`."


def test_two_held_out_rows_are_enough(task, tmp_path):
    small = replace(task, held_out_prior=task.held_out_prior[:2], held_out_new=task.held_out_new[:2])
    require_task(small)
    judge = Judge(small, tmp_path)
    (row,) = run_once(small, RunSpec(BUILT_IN["none"], 0.0, 0, 0), tmp_path, judge, make_plain_trainer)
    assert row["prior_before_test"] in (0.0, 1.0)


def test_texts_are_scored_by_token(tmp_path):
    family = FAMILIES["causal language model"]
    task = SweepTask(
        model=family.make_model(),
        new=family.make_rows(40, 1, "new"),
        prior=family.make_rows(40, 2, "prior"),
        held_out_new=family.make_rows(30, 3, "new"),
        held_out_prior=family.make_rows(41, 4, "prior"),
        collate_fn=collate,
        training={"max_steps": 3, "per_device_train_batch_size": 8, "use_cpu": True, "learning_rate": 1e-2},
    )
    spec = RunSpec(BUILT_IN["uniform"], 0.25, 0, 0)
    (row,) = run_once(task, spec, tmp_path, judge := Judge(task, tmp_path), make_plain_trainer)
    was = judge._before["prior"].right_tokens
    trainer = make_plain_trainer(task, {}, trainer_arguments(task, tmp_path, {}, 3, 0))
    assert row["prior_before_validation"] == np.concatenate(was[:20]).mean()
    assert row["prior_before_test"] == np.concatenate(was[20:]).mean()
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(torch.randn(len(trainer.model.lm_head.weight), 1))
    scores = judge.judge(trainer)
    now = judge._predict(trainer)["prior"].right_tokens
    damage = [(one & ~two).sum() / max(one.sum(), 1) for one, two in zip(was[20:], now[20:], strict=True)]
    assert scores["damaged_test"] == pytest.approx(np.mean(damage))
    assert scores["prior_after_test"] == np.concatenate(now[20:]).mean()
