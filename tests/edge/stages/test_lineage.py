"""Stages: what one run fine-tuned is the base model of the next, and their records say so."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from command import call, record
from mixcd.edge.stages import run_ledger
from mixcd.edge.stages.lineage import trace_lineage
from mixcd.edge.stages.run_ledger import read_ledger
from mixcd.run.outcome.evaluation import compare_correctness
from mixcd.run.outcome.run_folder import RunFolder, change_to_json
from mixcd.words.vocabulary import TokenChange
from task_workspace import make_questions, write_rows

STAGE = """\
run = "runs/{name}"
task = "question-answering"
model = {{ path = "{model}" }}
new = {{ path = "{name}.jsonl", held_out = 0.2 }}
rehearsal = {{ mix_ratio = 0.25 }}
{priors}
[training]
use_cpu = true
max_steps = {steps}
per_device_train_batch_size = 8
learning_rate = 2e-3
save_strategy = "no"
dataloader_pin_memory = false
"""
PRIOR = '[[prior]]\nname = "{0}"\npath = "{0}.jsonl"\nheld_out = 0.2\n'


def train_stage(folder, name, model, priors, steps=20):
    text = STAGE.format(name=name, model=model, priors="".join(PRIOR.format(one) for one in priors), steps=steps)
    (folder / f"{name}.toml").write_text(text)
    assert call("train", f"{name}.toml") == 0
    return json.loads((folder / "runs" / name / "evaluation.json").read_text())


def test_three_stages_of_question_answering_know_their_lineage_and_make_a_matrix(task_workspace, capfd):
    folder = task_workspace("question-answering")
    shutil.copy(folder / "prior.jsonl", folder / "zero.jsonl")
    for number, name in enumerate(("one", "two", "three")):
        write_rows(folder / f"{name}.jsonl", make_questions(120, number + 2, "new" if number % 2 else "prior"))
    first = train_stage(folder, "one", "base", ["zero"])
    second = train_stage(folder, "two", "runs/one/model", ["zero", "one"])
    third = train_stage(folder, "three", "runs/two/model", ["zero", "one", "two"])

    assert record("runs/one")["lineage"] == []
    stages = record("runs/three")["lineage"]
    assert stages == [*record("runs/two")["lineage"], stages[-1]]
    assert [stage["started"] for stage in stages] == [record(f"runs/{name}")["started"] for name in ("one", "two")]
    assert [{key: value for key, value in stage.items() if key != "started"} for stage in stages] == [
        {
            "run": "runs/one",
            "task": "question-answering",
            "model": "base",
            "new": "one.jsonl",
            "prior": [{"name": "zero", "path": "zero.jsonl"}],
        },
        {
            "run": "runs/two",
            "task": "question-answering",
            "model": "runs/one/model",
            "new": "two.jsonl",
            "prior": [{"name": "zero", "path": "zero.jsonl"}, {"name": "one", "path": "one.jsonl"}],
        },
    ]

    assert "prior_sets" not in first
    assert list(second["prior_sets"]) == ["zero", "one"]
    assert list(third["prior_sets"]) == ["zero", "one", "two"]
    for scores in (second, third):
        for count in ("sample_count", "right_before", "damaged_count", "gained_count"):
            assert sum(one[count] for one in scores["prior_sets"].values()) == scores["prior"][count]
    assert "\n  zero: score 0." in capfd.readouterr().out
    # what a stage starts with is what the stage before it ended with, on the same held-out rows of the first set
    for name in ("zero", "one"):
        assert third["prior_sets"][name]["score_before"] == second["prior_sets"][name]["score_after"]
    # also when a stage's new data are prior data of the next
    assert second["prior_sets"]["one"]["score_before"] == first["new"]["score_after"]

    ledger = read_ledger(Path("runs/three"))
    assert ledger.task_names == ("zero", "one", "two", "three")
    expected = [
        [first["prior"]["score_before"]],
        [first["prior"]["score_after"], first["new"]["score_after"]],
        [*(second["prior_sets"][name]["score_after"] for name in ("zero", "one")), second["new"]["score_after"]],
        [*(third["prior_sets"][name]["score_after"] for name in ("zero", "one", "two")), third["new"]["score_after"]],
    ]
    assert [row[: len(wanted)] for row, wanted in zip(ledger.scores.tolist(), expected, strict=True)] == expected
    capfd.readouterr()
    assert call("ledger", "runs/three", "--format", "json") == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["scores"][1] == [*expected[1], None, None]
    assert shown["average"] == pytest.approx(np.mean(expected[3]))
    assert shown["forgetting"] == ledger.forgetting
    assert call("ledger", "runs/three") == 0
    table = capfd.readouterr().out
    assert re.search(rf"^ *the base model +{100 * expected[0][0]:.1f} *$", table, re.M)
    assert f"backward transfer: {100 * ledger.backward_transfer:.1f}" in table
    refused_ledgers(capfd)


def refused_ledgers(capfd):
    def refuse(*arguments):
        capfd.readouterr()
        assert call("ledger", *arguments) == 2
        told = capfd.readouterr().err
        assert told.count("\n") == 1
        return told

    assert "`nowhere` holds no run. Name the folder of a run" in refuse("nowhere")
    assert "`--format` is `jsn`, which is not a format, did you mean `json`?" in refuse("runs/three", "--format", "jsn")
    evaluation = Path("runs/two/evaluation.json")
    whole = json.loads(evaluation.read_text())
    del whole["prior_sets"]["one"]
    evaluation.write_text(json.dumps(whole))
    assert "The run `runs/two` did not measure `one.jsonl`, but a ledger needs every" in refuse("runs/three")
    evaluation.unlink()
    assert "The evaluation `runs/two/evaluation.json` cannot be read" in refuse("runs/three")
    Path("runs/three/config.toml").unlink()
    assert "The config of the run `runs/three` cannot be read, so its tasks are not known" in refuse("runs/three")


def test_a_merged_adapter_is_the_base_model_of_the_next_stage(task_workspace):
    folder = task_workspace("question-answering")
    (folder / "zero.jsonl").write_text((folder / "prior.jsonl").read_text())
    for name in ("one", "two"):
        write_rows(folder / f"{name}.jsonl", make_questions(60, 5, "new"))
    (folder / "config.toml").write_text((folder / "config.toml").read_text() + "\n[adapter]\nrank = 2\n")
    assert call("train", "config.toml", "--set", "training.max_steps=4") == 0
    train_stage(folder, "two", "run/model", ["zero"], steps=4)
    (stage,) = record("runs/two")["lineage"]
    assert (stage["run"], stage["model"]) == ("run", "base")


def test_old_and_foreign_records_are_read_as_far_as_they_go(task_workspace):
    folder = task_workspace("question-answering")
    assert call("train", "config.toml", "--set", "training.max_steps=2") == 0
    old = record()
    for key in ("lineage", "task"):
        del old[key]
    (folder / "run" / "run.json").write_text(json.dumps(old))
    (folder / "run" / "config.toml").write_text((folder / "run" / "config.toml").read_text().split("task =")[0])
    assert trace_lineage("run/model") == [{"run": "run", "started": old["started"]}]
    (folder / "run" / "config.toml").unlink()
    assert trace_lineage("run/model/") == [{"run": "run", "started": old["started"]}]
    (folder / "run" / "run.json").write_text('{"mine": 1}')
    assert trace_lineage("run/model") == []
    assert trace_lineage("org/name") == []


def test_a_task_of_several_prior_sets_is_weighed_by_their_samples():
    found = {"a": {"sample_count": 30, "score_after": 1.0}, "b": {"sample_count": 10, "score_after": 0.2}}
    assert run_ledger._mean_score(found, ["a", "b"], "score_after", {"run": "run"}) == pytest.approx(0.8)


def write_stage(folder, name, change_to_task):
    run = RunFolder(folder / "runs" / name)
    run.path.mkdir(parents=True)
    (folder / f"{name}.jsonl").write_text("")
    text = STAGE.format(name=name, model="base", priors=PRIOR.format("zero"), steps=1)
    run.config.write_text(text)
    run.write(
        {
            "state": "finished",
            "go_on": "",
            "cache": "",
            "steps_done": 1,
            "total_steps": 1,
            "processes": 1,
            "batch_size": 8,
            "counters": {},
        }
    )
    values = {task: change_to_json(change) for task, change in change_to_task.items()}
    run.evaluation.write_text(json.dumps(values))


def make_change(*, is_graded, seed):
    kinds = np.random.default_rng(seed).integers(0, 5, (4, 40))
    tokens = TokenChange(kinds.sum(0), kinds[0] + kinds[1], kinds[0], kinds[2])
    right = np.random.default_rng(seed).random((2, 40)) < 0.5
    return compare_correctness(*right, tokens, is_graded=is_graded)


@pytest.mark.parametrize("is_graded", [True, False])
def test_a_ledger_holds_token_accuracies_where_every_run_counts_damage_by_token(
    tmp_path, is_graded, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    prior, new = (make_change(is_graded=is_graded, seed=seed) for seed in (0, 1))
    write_stage(tmp_path, "one", {"prior": prior, "new": new})
    ledger = read_ledger(Path("runs/one"))
    expected = [[prior.lead.score_before, float("nan")], [prior.lead.score_after, new.lead.score_after]]
    np.testing.assert_array_equal(ledger.scores, expected)
    assert ledger.is_by_token == is_graded
    assert call("ledger", "runs/one") == 0
    assert ("Held-out token accuracies" in capfd.readouterr().out) == is_graded
    assert call("ledger", "runs/one", "--format", "json") == 0
    assert ("scored_by" in json.loads(capfd.readouterr().out)) == is_graded


def test_a_ledger_of_runs_that_count_otherwise_holds_shares_of_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prior, new = make_change(is_graded=True, seed=0), make_change(is_graded=False, seed=1)
    write_stage(tmp_path, "one", {"prior": prior, "new": new})
    ledger = read_ledger(Path("runs/one"))
    assert ledger.scores[1].tolist() == [prior.score_after, new.score_after]
    assert not ledger.is_by_token
