import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import tiny_sft
from command import at_step, call, contents, record, send
from mixcd.edge.config.config import AdapterConfig
from mixcd.edge.model import adapter
from mixcd.edge.model.adapter import add_adapter
from mixcd.edge.stages.lineage import trace_lineage
from mixcd.edge.task_kind import Classification
from mixcd.edge.train import training_run
from task_workspace import TASK_WORKSPACES
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


TIED = (*TRAIN, "--set", 'adapter.target_modules=["q_proj", "embed_tokens"]', "--set", "adapter.alpha=32")


def make_tied_model():
    config = tiny_sft.make_model().config
    return LlamaForCausalLM(LlamaConfig(**{**config.to_dict(), "tie_word_embeddings": True}))


@pytest.fixture
def tied_workspace(tmp_path, monkeypatch):
    """A user's folder of conversations whose base model uses one matrix for the words that it reads and says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-datasets")
    tied = replace(TASK_WORKSPACES["text-generation"], make_model=make_tied_model)
    shutil.move(tied.train_base(tmp_path, "text-generation"), tmp_path / "trained-base")
    shutil.rmtree(tmp_path / "base")
    tied.write(tmp_path, "text-generation", tmp_path / "trained-base")
    return tmp_path


def say(model, tokenizer, folder):
    rows = [json.loads(line) for line in (folder / "prior.jsonl").read_text("utf-8").splitlines()[:40]]
    texts = [tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False) for row in rows]
    with torch.no_grad():
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        return model.eval()(**batch).logits[batch["attention_mask"].bool()]


@pytest.mark.parametrize("why", ["weights that are shared", "outputs that would differ"])
def test_what_merging_would_change_is_kept_as_an_adapter(tied_workspace, monkeypatch, capfd, why):
    folder, trained = tied_workspace, []
    if why == "outputs that would differ":
        monkeypatch.setattr(adapter, "find_shared", lambda _: [])
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    keep = training_run.merge_adapter
    monkeypatch.setattr(
        training_run,
        "merge_adapter",
        lambda *given: trained.append(say(given[0].model, tokenizer, folder)) or keep(*given),
    )
    assert call(*TIED) == 0
    told = capfd.readouterr().out
    assert "`run/model` holds the adapter, not a whole model, because merging would change what was trained: " in told
    assert "Open it on the base model `base`." in told
    assert not (folder / "run" / "model" / "config.json").exists()
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    torch.testing.assert_close(
        say(PeftModel.from_pretrained(base, folder / "run" / "model"), tokenizer, folder), trained[0]
    )
    assert call("evaluate", "run", "--output", "again") == 0
    assert (folder / "again" / "evaluation.json").read_text() == (folder / "run" / "evaluation.json").read_text()


def test_a_run_that_keeps_its_adapter_is_resumed_at_its_end(tied_workspace, monkeypatch):
    folder = tied_workspace
    assert call(*TIED, "--set", "run=whole") == 0
    for name in ("save_tuned", "take_adapter"):  # before and after the adapter is written
        with monkeypatch.context() as patch:
            patch.setattr(training_run, name, lambda *_: send(signal.SIGTERM)())
            assert call(*TIED, "--set", f"run={name}") == 143
        assert call(*TIED, "--set", f"run={name}", "--resume") == 0
        for file in ("model/adapter_model.safetensors", "evaluation.json"):
            assert (folder / name / file).read_bytes() == (folder / "whole" / file).read_bytes()


def test_the_adapter_of_a_checkpoint_is_a_base_model_that_learns_the_new_task(workspace):
    assert call(*TRAIN, "--set", "training.max_steps=7") == 0
    checkpoint = "run/checkpoints/checkpoint-7"
    assert not os.path.exists(f"{checkpoint}/config.json")
    assert call("train", "config.toml", "--set", f"model.path={checkpoint}", "--set", "run=next") == 0
    found = record("next")
    assert [stage["run"] for stage in found["lineage"]] == ["run"]
    before, after = (load_file(workspace / name / "model" / "model.safetensors") for name in ("run", "next"))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert call("predict", "config.toml", "--set", f"model.path={checkpoint}", "--set", "run=seen") == 0
    assert contents_of_cache("seen") == contents_of_cache("next")
    assert call("predict", "config.toml", "--set", "model.path=run/model", "--set", "run=merged") == 0
    assert contents_of_cache("merged") == contents_of_cache("next")


def contents_of_cache(run):
    return {path.name: path.read_bytes() for path in sorted(Path(run, "cache").rglob("*.parquet"))}


def test_an_adapter_is_put_on_an_adapter(workspace):
    assert call(*TRAIN, "--set", "training.max_steps=7") == 0
    checkpoint = "run/checkpoints/checkpoint-7"
    settings = ("--set", f"model.path={checkpoint}", "--set", "run=next")
    assert call(*TRAIN, *settings) == 0
    upper = Path("next/checkpoints/checkpoint-28")
    assert json.loads((upper / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"] == checkpoint
    assert call("compare", str(upper), "run/model", "--data", "prior.csv") == 0
    assert [stage["run"] for stage in trace_lineage(str(upper))] == ["run", "next"]
    moved = shutil.copytree(upper, "moved")
    assert [stage["run"] for stage in trace_lineage(str(moved))] == ["run"]
