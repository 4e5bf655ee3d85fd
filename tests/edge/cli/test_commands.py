"""What the small commands print and write."""

import json
import tomllib

import pyarrow.parquet as pq
import pytest

from mixcd.edge.cli import run
from mixcd.edge.config.config import read_config
from mixcd.matter.base_model.prediction_cache import read_manifest
from tiny import make_rows
from workspace import write_csv, write_jsonl


@pytest.fixture
def call(capfd):
    def call(*arguments, code=0):
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            run(arguments)
        captured = capfd.readouterr()
        assert (done.value.code or 0) == code, captured.err
        return captured.out

    return call


def test_predict_fills_the_cache_that_train_then_reads(workspace, call):
    printed = call("predict", "config.toml")
    assert "`run/cache` holds predictions for 540 of 540 prior samples: " in printed
    assert "% right, mean loss 0." in printed
    assert {path.name for path in (workspace / "run").iterdir()} == {"cache"}
    assert "Forward passes made: 0." in call("predict", "config.toml")
    call("train", "config.toml")
    counters = json.loads((workspace / "run" / "run.json").read_text())["counters"]
    assert counters["prior_pass_forward_count"] == 0


def test_predict_caches_what_the_drift_estimator_needs(workspace, call):
    drift = ("config.toml", "--set", "rehearsal.estimator=drift")
    call("predict", *drift)
    call("train", *drift)
    counters = json.loads((workspace / "run" / "run.json").read_text())["counters"]
    assert counters["prior_pass_forward_count"] == 0


def test_a_share_of_the_prior_data_is_enough_to_train(workspace, call):
    printed = call("predict", "config.toml", "--share", "0.5")
    assert "holds predictions for 270 of 540 prior samples" in printed
    call("train", "config.toml")
    assert sum(pq.read_table("run/steps.parquet")["observed"].to_pylist()) < 60  # the rest is drawn, but not counted


def test_partition_shows_bins_of_columns_in_the_cache(workspace, call):
    call("predict", "config.toml", "--set", 'rehearsal.cache_columns=["label"]')
    by_loss = call("partition", "run/cache")
    assert "loss:10: 540 samples in 10 bins" in by_loss
    assert "share right" in by_loss
    by_both = call("partition", "run/cache", "--by", "column:topic", "--by", "loss:2")
    assert "column:topic × loss:2: 540 samples in" in by_both
    assert "topic 0" in by_both
    assert "label" in call("partition", "run/cache", "--by", "column:label")


def test_evaluate_repeats_what_the_run_found(workspace, call):
    found = call("train", "config.toml")
    before = {path: path.read_bytes() for path in (workspace / "run").rglob("*") if path.is_file()}
    printed = call("evaluate", "run", "--output", "judged")
    assert printed.strip() in found
    assert {path: path.read_bytes() for path in (workspace / "run").rglob("*") if path.is_file()} == before
    for name in ("evaluation.json", "damaged.parquet"):
        assert (workspace / "judged" / name).read_bytes() == (workspace / "run" / name).read_bytes()


def test_evaluate_judges_another_model(workspace, call):
    call("train", "config.toml")
    assert "0 right→wrong, 0 wrong→right" in call("evaluate", "run", "--model", "base")
    checkpoint = call("evaluate", "run", "--model", "run/checkpoints/checkpoint-7")
    assert "prior task: score" in checkpoint


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_init_writes_a_config_for_the_users_files(workspace, call, kind):
    (write_csv if kind == "csv" else write_jsonl)(workspace / f"p.{kind}", make_rows(300, seed=1, task="prior"))
    printed = call("init", "--model", "base", "--new", "new.csv", "--prior", f"p.{kind}", "mine.toml", "--run", "r")
    assert printed.strip() == "Wrote `mine.toml`. Look it over, then: mixcd train mine.toml"
    text = (workspace / "mine.toml").read_text()
    assert f'path = "p.{kind}"  # 300 rows; columns: text, label, topic' in text
    assert '"column:topic"' in text
    config = read_config(workspace / "mine.toml")
    assert (config.new.columns.text, config.new.columns.label) == ("text", "label")
    call("train", "mine.toml", "--set", "training.use_cpu=true", "--set", "training.max_steps=3")
    assert (workspace / "r" / "model" / "model.safetensors").exists()


def test_init_guesses_columns_by_their_contents(workspace, call):
    path = workspace / "other.csv"
    path.write_text(
        "id,mood,tweet\n" + "".join(f"{n},{'good' if n % 3 else 'bad'},some longer text {n}\n" for n in range(60))
    )
    call("init", "--model", "base", "--new", "other.csv", "--prior", "other.csv", "--prior", "new.csv")
    config = tomllib.loads((workspace / "mixcd.toml").read_text())
    assert config["new"]["columns"] == {"text": "tweet", "label": "mood"}
    assert [prior["name"] for prior in config["prior"]] == ["other", "new"]


def test_init_keeps_quotes_and_backslashes(workspace, call):
    call("init", "--model", 'a"b\\c', "--new", "new.csv", "--prior", "prior.csv")
    assert read_config(workspace / "mixcd.toml").model.path == 'a"b\\c'


def test_schema_is_printed_as_json(call):
    assert json.loads(call("schema"))["title"] == "Config"


def test_dry_run_prints_a_config_and_writes_nothing(workspace, call):
    before = sorted(path.name for path in workspace.iterdir())
    printed = call("train", "config.toml", "--dry-run", "--set", "rehearsal.lag=9")
    (workspace / "again.toml").write_text(printed)
    assert call("train", "again.toml", "--dry-run") == printed
    assert tomllib.loads(printed)["rehearsal"]["lag"] == 9
    assert sorted(path.name for path in workspace.iterdir()) == sorted([*before, "again.toml"])


def test_a_cache_shared_by_two_runs_is_predicted_once(workspace, call):
    for name in ("a", "b"):
        call("train", "config.toml", "--set", f"run={name}", "--set", "rehearsal.cache=shared")
    assert json.loads((workspace / "b" / "run.json").read_text())["counters"]["prior_pass_forward_count"] == 0
    assert read_manifest(workspace / "shared").columns == ("topic",)


ROWS = {
    "question-answering": {"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}},
    "sequence-to-sequence": {"source": "a", "target": "b"},
    "text-generation": {"prompt": "a", "completion": "b"},
    "classification": {"source": "a", "target": "b", "text": "c", "label": 0},
}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(("task", "row"), [*ROWS.items(), ("text-generation", CHAT)])
def test_init_guesses_the_task_by_the_columns(workspace, call, task, row):
    (workspace / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(10)))
    call("init", "--model", "base", "--new", "data.jsonl", "--prior", "data.jsonl")
    config = read_config(workspace / "mixcd.toml")
    assert config.task == task
    assert (config.new.columns.text is None) == (task != "classification")
    graded = "# least_share = 0.8" in (workspace / "mixcd.toml").read_text()
    assert graded == (task in ("sequence-to-sequence", "text-generation"))


@pytest.mark.parametrize("task", ["question-answering", "sequence-to-sequence", "text-generation"])
def test_a_starter_config_trains_its_task(task_workspace, call, task):
    folder = task_workspace(task)
    (folder / "config.toml").unlink()
    call("init", "--model", "base", "--new", "new.jsonl", "--prior", "prior.jsonl", "config.toml")
    call("train", "config.toml", "--set", "training.use_cpu=true", "--set", "training.max_steps=2")
    assert (folder / "runs" / "first" / "model" / "model.safetensors").exists()
