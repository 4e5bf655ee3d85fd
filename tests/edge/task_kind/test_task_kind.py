"""Every task but classification through `mixcd train`, `predict` and `evaluate`; classification has its own tests."""

import json
import signal

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM

from command import at_step, call, contents, record, send
from mixcd.edge.bench.sweep.find_task import find_task
from mixcd.edge.bench.sweep.sweep_config import make_spec, read_sweep
from mixcd.edge.bench.sweep.sweep_run import Judge, make_plain_trainer, require_task, run_once
from task_workspace import TASK_WORKSPACES

TRAIN = ("train", "config.toml")
MODEL_CLASSES = {
    "question-answering": AutoModelForQuestionAnswering,
    "sequence-to-sequence": AutoModelForSeq2SeqLM,
    "text-generation": AutoModelForCausalLM,
}
LONGER = ("--set", "new.held_out=0.25", "--set", "training.max_steps=60")  # enough to see learning and damage
ADAPTER = ("--set", "adapter.rank=4", "--set", "training.learning_rate=1e-2")
WAYS = [(task, adapter) for task in TASK_WORKSPACES for adapter in ((), ADAPTER)]


@pytest.mark.parametrize(("task", "adapter"), WAYS)
def test_a_run_trains_goes_on_after_an_interruption_and_is_judged_again(task_workspace, capfd, task, adapter):
    folder = task_workspace(task)
    settings = (*LONGER, *adapter)
    assert call("predict", "config.toml", "--set", "run=whole", *settings) == 0
    assert "prior samples: " in capfd.readouterr().out
    assert call(*TRAIN, "--set", "run=whole", *settings) == 0, capfd.readouterr().err
    whole = contents(folder / "whole")
    assert record("whole")["task"] == task
    assert record("whole")["counters"]["prior_pass_forward_count"] == 0  # `predict` made it
    steps = pq.read_table(folder / "whole" / "steps.parquet").to_pydict()
    assert steps["observed"] == [2] * 60
    scores = json.loads(whole["evaluation"])
    prior, new = (scores[name].get("tokens", scores[name]) for name in ("prior", "new"))
    assert ("tokens" in scores["prior"]) == (task != "question-answering")
    assert prior["score_before"] > 0.5
    assert adapter or sum(steps["damaged"]) > 0
    assert adapter or new["score_after"] > new["score_before"]
    assert whole["weights"] != (folder / "base" / "model.safetensors").read_bytes()
    _, report = MODEL_CLASSES[task].from_pretrained(folder / "whole" / "model", output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not (folder / "whole" / "model" / "adapter_config.json").exists()

    with at_step(9, send(signal.SIGTERM)):
        assert call(*TRAIN, *settings) == 128 + signal.SIGTERM
    assert (folder / "run" / "checkpoints" / "checkpoint-10" / "adapter_config.json").exists() == bool(adapter)
    assert call("train", "run/config.toml", "--resume") == 0, capfd.readouterr().err
    assert contents(folder / "run") == whole

    assert call("evaluate", "run", "--output", "again") == 0, capfd.readouterr().err
    assert json.loads((folder / "again" / "evaluation.json").read_text()) == scores


@pytest.mark.parametrize(
    ("task", "part"),
    [
        (
            "question-answering",
            "has no trained weights for qa_outputs.bias, qa_outputs.weight, so it does not",
        ),
        ("text-generation", "has no trained weights for cls.predictions."),
        (
            "sequence-to-sequence",
            "is not one that `AutoModelForSeq2SeqLM` loads, but `task` is `sequence-to-sequence`. Name a model of this "
            "task, or set the `task` that it knows.",
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "predict"])
def test_a_classifier_is_no_model_of_another_task(workspace, capfd, command, task, part):
    assert call(command, "config.toml", "--set", f"task={task}") == 2
    line = capfd.readouterr().err
    assert line.startswith(f"The model `base` {part}")
    assert line.count("\n") == 1
    assert not (workspace / "run").exists()


def test_data_of_another_task_are_refused_by_their_columns(task_workspace, capfd):
    task_workspace("question-answering")
    assert call(*TRAIN, "--set", "new.columns.context=contxt") == 2
    told = "`new.path` has no column `contxt`; did you mean `context`? A context column is needed"
    assert told in capfd.readouterr().err
    assert call(*TRAIN, "--set", 'rehearsal.partition=["column:topik"]') == 2
    assert "`rehearsal.partition` names the column `topik`, but `prior.0.path` has" in capfd.readouterr().err


@pytest.mark.parametrize("task", TASK_WORKSPACES)
@pytest.mark.parametrize("adapter", ["", "\n[adapter]\nrank = 2\n"])
def test_a_config_of_every_task_is_the_task_of_a_sweep(task_workspace, task, adapter):
    folder = task_workspace(task)
    with (folder / "config.toml").open("a") as file:
        file.write(adapter)
    (folder / "sweep.toml").write_text(
        'name = "toy"\ntask = "config.toml"\nresults = "out.parquet"\nwork = "work"\n'
        'methods = ["none", "uniform", "counts"]\nmix_ratios = [0.25]\nseeds = [0]\nwise_ft = [0.5]\n'
    )
    sweep, place = read_sweep(folder / "sweep.toml"), folder / "work" / "seed-0"
    made = find_task(sweep.task)(0, place)
    require_task(made)
    place.mkdir(parents=True)
    judge, befores = Judge(made, place), set()
    for name, mix_ratio in (("none", 0.0), ("uniform", 0.25), ("counts", 0.25)):
        tuned, half = run_once(made, make_spec(sweep, (name, mix_ratio, 0)), place, judge, make_plain_trainer)
        assert tuned["forward_count"] == 20
        assert (tuned["wise_ft"], half["wise_ft"]) == (1.0, 0.5)
        befores.add(tuned["prior_before_test"])
    assert len(befores) == 1
    assert befores.pop() > 0.5


@pytest.mark.parametrize(("adapter", "kept"), [((), torch.float32), (ADAPTER, torch.bfloat16)])
def test_weights_that_are_trained_are_held_in_single_precision(task_workspace, adapter, kept):
    folder = task_workspace("question-answering")
    stored = AutoModelForQuestionAnswering.from_pretrained(folder / "base", dtype=torch.bfloat16)
    stored.save_pretrained(folder / "base")
    assert call(*TRAIN, "--set", "training.max_steps=2", *adapter) == 0
    weights = load_file(folder / "run" / "model" / "model.safetensors")
    assert weights["bert.encoder.layer.0.attention.self.query.weight"].dtype == kept


@pytest.mark.parametrize("task", ["sequence-to-sequence", "text-generation"])
def test_models_write_before_and_after_a_run_and_again_when_it_is_judged_again(task_workspace, capfd, task):
    folder = task_workspace(task)
    whole = () if task == "sequence-to-sequence" else ("--set", "rehearsal.least_share=1.0")
    settings = (*LONGER, *whole, "--set", "rehearsal.generate=10")
    assert call(*TRAIN, *settings) == 0, capfd.readouterr().err
    scores = json.loads((folder / "run" / "evaluation.json").read_text("utf-8"))
    assert {task: one["sample_count"] for task, one in scores["generation"].items()} == {"prior": 10, "new": 10}
    assert scores["generation"]["prior"]["exact_before"] > 3
    assert "written greedily: exact match " in capfd.readouterr().out
    html = (folder / "run" / "report.html").read_text("utf-8")
    assert "Written by itself</h2>" in html
    assert "<mark>" in html
    damaged = pq.read_table(folder / "run" / "damaged.parquet").to_pylist()
    assert all(one["answer"] and one["now"] for one in damaged)
    assert call("evaluate", "run", "--output", "again") == 0, capfd.readouterr().err
    assert json.loads((folder / "again" / "evaluation.json").read_text("utf-8")) == scores


def test_a_task_without_texts_to_write_is_told_so(task_workspace, capfd):
    task_workspace("question-answering")
    assert call(*TRAIN, "--set", "rehearsal.generate=10") == 2
    assert "`rehearsal.generate` lets a model write texts, which one of `question-answering` does not" in (
        capfd.readouterr().err
    )
