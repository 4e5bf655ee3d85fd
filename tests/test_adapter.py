import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from command import at_step, call, contents, record, send
from mixcd import training_run
from mixcd.adapter import add_adapter
from mixcd.config import AdapterConfig
from mixcd.task_kind import Classification
from tiny import make_model

TRAIN = ("train", "config.toml", "--set", "adapter.rank=4")


def adapt(seed, **settings):
    arguments, model = SimpleNamespace(seed=seed, gradient_checkpointing=False), make_model()
    before = torch.get_rng_state()
    adapted = add_adapter(AdapterConfig(**settings), Classification(), model, arguments)
    assert torch.equal(torch.get_rng_state(), before)
    return adapted


def test_an_adapter_is_that_of_its_seed_and_leaves_the_random_state_alone():
    one, same, other = (adapt(seed).state_dict() for seed in (1, 1, 2))
    names = [name for name in one if "lora_A" in name]
    assert names
    assert all(torch.equal(one[name], same[name]) for name in names)
    assert not all(torch.equal(one[name], other[name]) for name in names)


def test_the_settings_are_those_of_the_config():
    settings = adapt(0, rank=3, alpha=5, dropout=0.25, target_modules=["query"]).peft_config["default"]
    assert (settings.r, settings.lora_alpha, settings.lora_dropout) == (3, 5, 0.25)
    assert settings.target_modules == {"query"}


@pytest.mark.parametrize("wanted", [["nope"], "nope"])
def test_modules_that_are_not_there_are_refused(workspace, capfd, wanted):
    assert call(*TRAIN, "--set", f"adapter.target_modules={wanted!r}") == 2
    line = capfd.readouterr().err
    assert line.startswith("PEFT refuses the config's `adapter`: ")
    assert line.endswith('Set `adapter.target_modules` to modules of the model, or to "all-linear".\n')
    assert not (workspace / "run").exists()


def test_a_missing_package_is_named_with_what_to_install(workspace, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert call(*TRAIN) == 2
    line = capfd.readouterr().err
    assert "The config has an `adapter`, which is made by PEFT, but the package `peft` cannot be imported: " in line
    assert line.endswith(". Run `pip install peft`.\n")


def test_a_classifier_is_adapted_resumed_merged_and_judged(workspace, capfd):
    assert call(*TRAIN, "--set", "run=whole") == 0
    whole = contents(workspace / "whole")
    with at_step(9, send(signal.SIGTERM)):
        assert call(*TRAIN) == 143
    assert call("train", "run/config.toml", "--resume") == 0
    assert contents(workspace / "run") == whole
    assert call("evaluate", "run", "--output", "again") == 0
    assert (workspace / "again" / "evaluation.json").read_text() == whole["evaluation"]


@pytest.mark.parametrize("task", ["question-answering", "text-generation"])
def test_an_adapter_that_was_not_merged_before_a_kill_is_merged_after(task_workspace, monkeypatch, task):
    folder = task_workspace(task)
    assert call(*TRAIN, "--set", "run=whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_tuned", lambda *_: send(signal.SIGTERM)())
        assert call(*TRAIN) == 143
    assert not (folder / "run" / "model").exists()
    assert call(*TRAIN, "--resume") == 0
    assert contents(folder / "run") == contents(folder / "whole")
    assert record()["counters"]["forward_count"] == 20


def test_a_run_killed_while_evaluating_judges_the_merged_model(task_workspace):
    folder = task_workspace("text-generation")
    assert call(*TRAIN, "--set", "run=whole") == 0
    with at_step(19, send(signal.SIGTERM)):
        assert call(*TRAIN) == 143
    assert record()["state"] == "evaluating"
    assert call(*TRAIN, "--resume") == 0
    assert contents(folder / "run") == contents(folder / "whole")


def test_a_model_of_another_shape_is_not_judged(task_workspace, capfd):
    folder = task_workspace("text-generation")
    assert call("train", "config.toml", "--set", "training.max_steps=2") == 0
    shutil.copytree(folder / "base", folder / "other")
    from tiny_sft import make_model as make_chat_model

    model = make_chat_model()
    wide = type(model)(type(model.config)(**{**model.config.to_dict(), "intermediate_size": 48}))
    wide.save_pretrained(folder / "other")
    capfd.readouterr()
    assert call("evaluate", "run", "--model", "other") == 2
    line = capfd.readouterr().err
    assert line.startswith("`--model` is of another shape than the base model: ")
    assert line.endswith("Name a model that was fine-tuned from the run's base model.\n")
