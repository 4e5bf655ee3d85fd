"""Every task but classification through `mixcd train`, `predict` and `evaluate`; classification has its own tests."""

import json
import signal

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM

from command import at_step, call, contents, record, send
from task_workspace import TASK_WORKSPACES

TRAIN = ("train", "config.toml")
MODEL_CLASSES = {
    "question-answering": AutoModelForQuestionAnswering,
    "sequence-to-sequence": AutoModelForSeq2SeqLM,
    "text-generation": AutoModelForCausalLM,
}
ADAPTER = ("--set", "adapter.rank=4", "--set", "training.learning_rate=1e-2")
WAYS = [(task, adapter) for task in TASK_WORKSPACES for adapter in ((), ADAPTER)]


@pytest.mark.parametrize(("task", "adapter"), WAYS)
def test_a_run_trains_goes_on_after_an_interruption_and_is_judged_again(task_workspace, capfd, task, adapter):
    folder = task_workspace(task)
    assert call("predict", "config.toml", "--set", "run=whole", *adapter) == 0
    assert "prior samples: " in capfd.readouterr().out
    assert call(*TRAIN, "--set", "run=whole", *adapter) == 0, capfd.readouterr().err
    whole = contents(folder / "whole")
    assert record("whole")["task"] == task
    assert record("whole")["counters"]["prior_pass_forward_count"] == 0  # `predict` made it
    steps = pq.read_table(folder / "whole" / "steps.parquet").to_pydict()
    assert steps["observed"] == [2] * 20
    scores = json.loads(whole["evaluation"])
    assert scores["prior"]["score_before"] > 0.5
    assert adapter or sum(steps["damaged"]) > 0
    assert adapter or scores["new"]["score_after"] > scores["new"]["score_before"]
    assert whole["weights"] != (folder / "base" / "model.safetensors").read_bytes()
    _, report = MODEL_CLASSES[task].from_pretrained(folder / "whole" / "model", output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not (folder / "whole" / "model" / "adapter_config.json").exists()

    with at_step(9, send(signal.SIGTERM)):
        assert call(*TRAIN, *adapter) == 128 + signal.SIGTERM
    assert (folder / "run" / "checkpoints" / "checkpoint-10" / "adapter_config.json").exists() == bool(adapter)
    assert call("train", "run/config.toml", "--resume") == 0, capfd.readouterr().err
    assert contents(folder / "run") == whole

    assert call("evaluate", "run", "--output", "again") == 0, capfd.readouterr().err
    assert json.loads((folder / "again" / "evaluation.json").read_text()) == scores
