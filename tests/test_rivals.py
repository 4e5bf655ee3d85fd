"""The rivals of `benchmarks/` that change the loss or the weights."""

import copy
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Trainer

import mixcd
from mixcd.edge.bench.sweep.find_task import load_function
from mixcd.edge.bench.sweep.sweep_method import BUILT_IN
from mixcd.edge.bench.sweep.sweep_run import Judge, RunSpec, run_once, trainer_arguments
from mixcd.words.errors import SettingError
from tiny import assert_same_weights, weights_of
from toy_sweep import write_toy

FILE = Path(__file__).parent.parent / "benchmarks" / "rivals.py"


@pytest.fixture(scope="module")
def rivals():
    spec = importlib.util.spec_from_file_location("rivals_of_mixcd", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        return load_function(f"{folder / write_toy(folder)}.py:toy")(0, folder)


@pytest.fixture
def arguments(task, tmp_path):
    return lambda **changes: trainer_arguments(task, tmp_path, changes, 12, 0)


def distance(trainer, task):
    """How far the weights moved."""
    base = task.model.state_dict()
    return float(sum((weight - base[name]).square().sum() for name, weight in weights_of(trainer).items()))


def first_batch(task):
    rows = task.new[:8]
    return {
        "features": torch.from_numpy(np.stack([row["features"] for row in rows])),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


# --- L2-SP and EWC --------------------------------------------------------------------------------------------------


def test_the_anchored_loss_is_the_trainers_own_plus_the_penalty(rivals, task, arguments):
    trainer = rivals.make_l2_sp_trainer(task, {"strength": 0.5}, arguments())
    batch = first_batch(task)
    plain = Trainer(**arguments()).compute_loss(copy.deepcopy(task.model), dict(batch))
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(plain.item())
    with torch.no_grad():
        trainer.model.classifier.bias.add_(2.0)  # three biases, each 2 away
    moved = Trainer(**arguments()).compute_loss(trainer.model, dict(batch)).item()
    loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    assert loss.item() == pytest.approx(moved + 0.25 * 3 * 4)
    assert outputs.logits.shape == (8, 3)


def test_no_strength_is_plain_training(rivals, task, arguments):
    plain, anchored = Trainer(**arguments()), rivals.make_l2_sp_trainer(task, {"strength": 0.0}, arguments())
    for trainer in (plain, anchored):
        trainer.train()
    assert_same_weights(weights_of(anchored), weights_of(plain))


@pytest.mark.parametrize("make", ["make_l2_sp_trainer", "make_ewc_trainer"])
def test_the_stronger_the_pull_the_nearer_the_weights_stay(rivals, task, arguments, make):
    distances = []
    for strength in (0.0, 10.0, 1000.0):
        trainer = getattr(rivals, make)(task, {"strength": strength}, arguments(learning_rate=0.01))
        trainer.train()
        distances.append(distance(trainer, task))
    assert distances[0] > distances[1] > distances[2]


def test_the_importance_is_the_mean_squared_gradient_over_prior_samples(rivals, task, arguments):
    trainer = rivals.make_ewc_trainer(task, {"strength": 1.0, "sample_count": 10**6}, arguments())
    model = copy.deepcopy(task.model).eval()
    expected = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for row in task.prior:
        model.zero_grad()
        model(torch.from_numpy(row["features"])[None], torch.tensor([row["label"]])).loss.backward()
        for name, weight in model.named_parameters():
            expected[name] += weight.grad.square() / len(task.prior)
    assert trainer._importance.keys() == expected.keys()
    for name, importance in trainer._importance.items():
        torch.testing.assert_close(importance, expected[name])
    assert trainer.model.training
    assert all(weight.grad is None or not weight.grad.any() for weight in trainer.model.parameters())


def test_the_importance_follows_the_seed_and_leaves_the_random_state_alone(rivals, task, arguments):
    trainer = rivals.make_l2_sp_trainer(task, {"strength": 1.0}, arguments())
    before = torch.get_rng_state()
    importance = []
    for seed in (0, 0, 1):
        trainer.args.seed = seed
        importance.append(rivals._estimate_fisher(trainer, task, 20))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_weights(importance[0], importance[1])
    assert not torch.equal(importance[0]["classifier.weight"], importance[2]["classifier.weight"])


# --- distillation ---------------------------------------------------------------------------------------------------


def attach(trainer, task, tmp_path, **settings):
    trainer.rehearsal = mixcd.attach(
        trainer,
        task.prior,
        mix_ratio=0.5,
        estimator="uniform",
        cache_dir=tmp_path / "cache",
        **{"features": 4, **settings},
    )
    return trainer


def test_the_distance_from_f_is_that_of_the_rehearsed_rows(rivals, task, arguments, tmp_path, monkeypatch):
    settings = {"strength": 3.0, "temperature": 2.0}
    trainer = attach(rivals.make_distilling_trainer(task, settings, arguments()), task, tmp_path)
    with torch.no_grad():
        trainer.model.classifier.weight.mul_(0.5)
    batch = first_batch(task)
    batch["features"][:2] = torch.from_numpy(np.stack([task.prior[5]["features"], task.prior[7]["features"]]))
    monkeypatch.setattr(trainer.rehearsal._seam, "batch_sample_ids", torch.tensor([5, 7, -1, -1, -1, -1, -1, -1]))
    plain = Trainer(**arguments()).compute_loss(trainer.model, dict(batch))
    base = functional.softmax(task.model(batch["features"][:2]).logits / 2.0, -1)
    now = functional.softmax(trainer.model(batch["features"][:2]).logits / 2.0, -1)
    expected = plain + 3.0 * 4.0 * (base * (base / now).log()).sum() / 8
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected.item(), rel=2e-3)
    monkeypatch.setattr(trainer.rehearsal._seam, "batch_sample_ids", torch.full((8,), -1))
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(plain.item())


def test_distillation_without_strength_is_plain_rehearsal(rivals, task, arguments, tmp_path):
    distilled = attach(rivals.make_distilling_trainer(task, {"strength": 0.0}, arguments()), task, tmp_path)
    plain = attach(Trainer(**arguments()), task, tmp_path)
    forwards = []
    distilled.model.register_forward_hook(lambda *_: forwards.append(1))
    for trainer in (distilled, plain):
        trainer.train()
    assert_same_weights(weights_of(distilled), weights_of(plain))
    assert len(forwards) == 12  # no forward pass more


def test_distillation_keeps_predictions_near_those_of_f(rivals, task, arguments, tmp_path):
    features = torch.from_numpy(np.stack([row["features"] for row in task.prior]))
    base, drifts = task.model(features).logits.detach().softmax(-1), []
    for strength in (0.0, 5.0):
        trainer = attach(rivals.make_distilling_trainer(task, {"strength": strength}, arguments()), task, tmp_path)
        trainer.train()
        now = trainer.model(features).logits.detach().softmax(-1)
        drifts.append(float((now - base).abs().mean()))
    assert drifts[1] < 0.8 * drifts[0]


def test_distillation_without_cached_logits_or_rehearsal_is_refused(rivals, task, arguments, tmp_path):
    unattached = rivals.make_distilling_trainer(task, {"strength": 1.0}, arguments())
    without_logits = attach(
        rivals.make_distilling_trainer(task, {"strength": 1.0}, arguments()), task, tmp_path, features=0
    )
    for trainer in (unattached, without_logits):
        with pytest.raises(SettingError, match="Distillation needs the base model's logits of the rehearsed samples"):
            trainer.train()


# --- LoRA -----------------------------------------------------------------------------------------------------------

LORA = {"rank": 2, "target_modules": ["hidden"], "modules_to_save": ["classifier"]}


def test_lora_trains_its_own_weights_and_the_heads_only(rivals, task, arguments, tmp_path):
    trainer = attach(rivals.make_lora_trainer(task, LORA, arguments()), task, tmp_path)
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name or "modules_to_save" in name for name in trained)
    before = weights_of(trainer)
    trainer.train()
    changed = {name for name, weight in weights_of(trainer).items() if not torch.equal(weight, before[name])}
    assert changed <= trained
    assert any("lora_" in name for name in changed)
    assert any("classifier" in name for name in changed)
    assert trainer.rehearsal.counts.observed_count.sum() == 48


# --- in a sweep -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "like", "settings"),
    [
        ("make_l2_sp_trainer", "none", {"strength": 0.01}),
        ("make_ewc_trainer", "uniform", {"strength": 1.0}),
        ("make_distilling_trainer", "drift", {"strength": 1.0, "temperature": 2.0}),
        ("make_lora_trainer", "counts", LORA),
    ],
)
def test_every_rival_runs_in_a_sweep_and_repeats_itself(rivals, task, tmp_path, name, like, settings):
    method = replace(BUILT_IN[like], trainer=f"rivals.py:{name}", trainer_settings=settings, wise_ft=(0.5,))
    spec = RunSpec(method, 0.5 if like != "none" else 0.0, 0, 4)
    judge = Judge(task, tmp_path)
    rows = [run_once(task, spec, tmp_path, judge, getattr(rivals, name)) for _ in range(2)]
    assert [row["wise_ft"] for row in rows[0]] == [1.0, 0.5]
    for first, again in zip(*rows, strict=True):
        assert first["forward_count"] == 12
        for key in first.keys() - {"seconds", "provenance", "prior_pass_forward_count"}:
            assert first[key] == again[key], key
