"""`mixcd train` as a user runs it, in this process: what it leaves behind, and how it goes on."""

import json
import shutil
import signal

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from command import at_step, call, contents, record, send
from mixcd.edge.config.config import read_config
from mixcd.edge.train import training_run
from mixcd.matter.base_model import prior_pass
from mixcd.matter.prior_and_new_data.data_source import open_data
from mixcd.run.trainer.attach import Rehearsal
from tiny import make_rows
from workspace import write_csv, write_jsonl

TRAIN = ("train", "config.toml")


@pytest.fixture
def whole(workspace):
    """What an uninterrupted run leaves."""
    assert call(*TRAIN, "--set", "run=whole") == 0
    return contents(workspace / "whole")


# --- what a run leaves ------------------------------------------------------------------------------------------


def test_a_run_leaves_model_steps_evaluation_and_record(workspace, capfd):
    assert call(*TRAIN) == 0
    folder = workspace / "run"
    assert {path.name for path in folder.iterdir()} == {
        "config.toml", "run.json", "steps.parquet", "evaluation.json", "damaged.parquet", "model", "checkpoints",
        "cache", "report.html", ".lock",
    }  # fmt: skip
    steps = pq.read_table(folder / "steps.parquet").to_pydict()
    assert steps["step"] == list(range(1, 31))
    assert steps["prior_share"] == [0.25] * 30
    assert steps["observed"] == [2] * 30
    assert sum(steps["damaged"]) > 0
    assert set(steps) >= {"new_loss", "prior_loss", "damage_rate", "yield_rate", "lift", "effective_bins", "top_share"}
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert model.config.id2label[2] == "positive"
    assert len(AutoTokenizer.from_pretrained(folder / "model")) == 60
    assert not list((folder / "model").glob("*.bin"))  # nothing pickled
    scores = json.loads((folder / "evaluation.json").read_text())
    damaged = pq.read_table(folder / "damaged.parquet").to_pydict()
    assert len(damaged["sample_id"]) == scores["prior"]["damaged_count"] > 0
    assert all(text.startswith("w") for text in damaged["text"])
    assert all("topic" in name for name in damaged["bin_name"])
    found = record()
    assert found["state"] == "finished"
    assert found["samples"] == {"new": 216, "held_out_new": 24, "prior": 540, "held_out_prior": 60}
    assert found["counters"]["forward_count"] == 30
    assert found["seeds"] == {"draws": 42, "trainer": 42}
    assert set(found["versions"]) >= {"mixcd", "torch", "transformers", "datasets"}
    assert "prior task: score" in capfd.readouterr().out


def test_the_config_in_the_run_folder_is_the_resolved_one_and_runs_again(workspace, whole, capfd):
    assert call(*TRAIN, "--set", "run=whole", "--dry-run") == 0
    assert capfd.readouterr().out == (workspace / "whole" / "config.toml").read_text()
    assert call("train", "whole/config.toml", "--set", "run=again") == 0
    again = contents(workspace / "again")
    assert again == whole
    config = read_config(workspace / "whole" / "config.toml")
    assert config == read_config(workspace / "config.toml", ["run=whole"])


def test_every_kind_of_data_trains_the_same(workspace, whole):
    prior, new = make_rows(600, seed=1, task="prior"), make_rows(240, seed=2, task="new")
    write_jsonl(workspace / "prior.jsonl", prior)
    assert call(*TRAIN, "--set", "run=jsonl", "--set", "prior.0.path=prior.jsonl") == 0
    write_jsonl(workspace / "new.jsonl", new)
    opened = open_data(str(workspace / "new.jsonl"), name="new")
    opened.save_to_disk(workspace / "new-saved")
    opened.to_parquet(workspace / "new.parquet")
    (workspace / "new-folder").mkdir()
    shutil.copy(workspace / "new.parquet", workspace / "new-folder" / "train.parquet")
    for path in ("new-saved", "new.parquet", "new-folder"):
        split = ("--set", "new.split=train") if path == "new-folder" else ()
        assert call(*TRAIN, "--set", f"run=from-{path}", "--set", f"new.path={path}", *split) == 0
        assert contents(workspace / f"from-{path}")["weights"] == whole["weights"], path
    assert contents(workspace / "jsonl")["weights"] == whole["weights"]


def test_several_prior_sets_have_names_to_partition_by(workspace):
    write_csv(workspace / "more.csv", make_rows(300, seed=5, task="prior"))
    config = workspace / "config.toml"
    config.write_text(
        config.read_text()
        .replace(
            'path = "prior.csv"\n',
            'path = "prior.csv"\nname = "first"\n\n[[prior]]\npath = "more.csv"\nname = "second"\n',
        )
        .replace("column:topic", "column:prior_set")
    )
    assert call(*TRAIN) == 0
    assert record()["samples"]["prior"] == {"first": 540, "second": 270}
    names = pq.read_table(workspace / "run" / "cache" / "part-000000.parquet").column_names
    assert "prior_set" in names
    bins = pq.read_table(workspace / "run" / "damaged.parquet")["bin_name"].to_pylist()
    assert all("prior_set=" in name for name in bins)


def test_held_out_data_may_be_given_or_left_out(workspace, capfd):
    write_csv(workspace / "test.csv", make_rows(50, seed=9, task="prior"))
    given = '[[prior]]\npath = "prior.csv"\nheld_out = { path = "test.csv" }\n'
    config = workspace / "config.toml"
    config.write_text(config.read_text().replace('[[prior]]\npath = "prior.csv"\n', given))
    assert call(*TRAIN) == 0
    assert record()["samples"]["prior"] == 600
    assert record()["samples"]["held_out_prior"] == 50
    assert call(*TRAIN, "--set", "run=none", "--set", "prior.0.held_out=0.0") == 0
    assert "No prior data are held out, so damage was not measured" in capfd.readouterr().out
    assert not (workspace / "none" / "evaluation.json").exists()
    assert record("none")["state"] == "finished"


def test_batch_size_sets_the_accumulation(workspace):
    assert call(*TRAIN, "--set", "batch_size=32", "--set", "training.max_steps=3") == 0
    assert pq.read_table("run/steps.parquet")["observed"].to_pylist() == [8, 8, 8]
    assert record()["counters"]["forward_count"] == 12


# --- interruption -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_stops_and_says_how_to_go_on(workspace, whole, capfd, number):
    before = signal.getsignal(number)
    with at_step(9, send(number)):
        assert call(*TRAIN) == 128 + number
    assert signal.getsignal(number) is before
    line = capfd.readouterr().err.splitlines()[-1]
    assert line == (
        "Stopped: the run in `run` got as far as step 10 of 30, and its last checkpoint is of step 10. Go on with "
        "`mixcd train run/config.toml --resume`."
    )
    assert record()["state"] == "stopped"
    assert call(*TRAIN) == 2
    assert "holds a run that got as far as step 10 of 30" in capfd.readouterr().err
    assert call("train", "run/config.toml", "--resume") == 0
    assert contents(workspace / "run") == whole
    assert record()["counters"]["forward_count"] == 30


def test_a_second_signal_stops_at_once(workspace, whole, capfd):
    with at_step(9, lambda: [send(signal.SIGINT)(), send(signal.SIGINT)()]):
        assert call(*TRAIN) == 130
    err = capfd.readouterr().err
    assert "stopping after this step, with a checkpoint; the same signal again stops at once" in err
    assert "got as far as step 9 of 30, and its last checkpoint is of step 7" in err.splitlines()[-1]
    assert call("train", "run/config.toml", "--resume", "--set", "training.logging_steps=3") == 0
    assert contents(workspace / "run") == whole


def test_a_run_stopped_in_its_prior_pass_says_how_many_parts_are_kept(workspace, whole, monkeypatch, capfd):
    write, written = prior_pass.write_part, []

    def stop_at_the_second(*given):
        written.append(write(*given))
        if len(written) == 2:
            send(signal.SIGTERM)()

    with monkeypatch.context() as patch:
        patch.setattr(prior_pass, "write_part", stop_at_the_second)
        assert call(*TRAIN) == 143
    assert capfd.readouterr().err.splitlines()[-1] == (
        "Stopped: the run in `run` did not finish its prior pass, of which 2 of 3 parts are cached. Go on with `mixcd "
        "train run/config.toml --resume`."
    )
    assert record()["state"] == "prior pass"
    assert call(*TRAIN, "--resume") == 0
    assert contents(workspace / "run") == whole


def test_a_run_killed_while_evaluating_does_not_train_again(workspace, whole, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        patch.setattr(Rehearsal, "evaluate", lambda _self, **_: send(signal.SIGINT)())
        assert call(*TRAIN) == 130
    assert "did not finish its evaluation" in capfd.readouterr().err.splitlines()[-1]
    assert call(*TRAIN, "--resume") == 0
    assert contents(workspace / "run") == whole
    assert record()["counters"]["forward_count"] == 30


def test_a_run_killed_after_its_last_checkpoint_only_saves_and_evaluates(workspace, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_tuned", lambda *_: send(signal.SIGTERM)())
        assert call(*TRAIN) == 143
    assert not (workspace / "run" / "model").exists()
    assert call(*TRAIN, "--resume") == 0
    assert contents(workspace / "run") == whole
    assert record()["counters"]["forward_count"] == 30


def test_a_checkpoint_that_was_not_written_to_the_end_is_passed_over(workspace, whole, capfd):
    with at_step(20, lambda: [send(signal.SIGINT)(), send(signal.SIGINT)()]):
        assert call(*TRAIN) == 130
    state = workspace / "run" / "checkpoints" / "checkpoint-14" / "trainer_state.json"
    state.write_text(state.read_text()[:-40])
    assert call(*TRAIN, "--resume") == 0
    assert "resuming from checkpoint-7" in capfd.readouterr().out
    assert contents(workspace / "run") == whole


def test_a_run_without_any_checkpoint_starts_training_again(workspace, whole, capfd):
    with at_step(3, lambda: [send(signal.SIGTERM)(), send(signal.SIGTERM)()]):
        assert call(*TRAIN, "--resume") == 143  # with nothing to resume, the run starts
    assert "got as far as step 3 of 30, and it has no checkpoint" in capfd.readouterr().err.splitlines()[-1]
    assert call(*TRAIN, "--resume") == 0
    assert contents(workspace / "run") == whole


def test_the_best_checkpoint_is_loaded_at_the_end_of_a_resumed_run_too(workspace, monkeypatch):
    best = (
        "--set", "training.load_best_model_at_end=true", "--set", "training.eval_strategy=steps",
        "--set", "training.eval_steps=7", "--set", "training.save_total_limit=9", "--set", "training.learning_rate=0.2",
    )  # fmt: skip
    assert call(*TRAIN, *best, "--set", "run=whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_tuned", lambda *_: send(signal.SIGTERM)())
        assert call(*TRAIN, *best) == 143
    assert call(*TRAIN, *best, "--resume") == 0
    whole, run_ = (load_file(workspace / name / "model" / "model.safetensors") for name in ("whole", "run"))
    assert all((whole[name] == run_[name]).all() for name in whole)


# --- what is in the folder already ------------------------------------------------------------------------------


def test_a_finished_run_is_kept_unless_it_is_to_be_overwritten(workspace, whole, capfd):
    assert call(*TRAIN, "--set", "run=whole") == 2
    assert "`whole` holds a run that finished. Nothing is overwritten unasked" in capfd.readouterr().err
    assert call(*TRAIN, "--set", "run=whole", "--resume") == 0
    assert "is finished already" in capfd.readouterr().out
    assert contents(workspace / "whole") == whole
    assert call(*TRAIN, "--set", "run=whole", "--overwrite", "--set", "training.max_steps=4") == 0
    assert record("whole")["total_steps"] == 4
    assert record("whole")["counters"]["prior_pass_forward_count"] == 0  # the cache still holds


def test_a_refused_overwrite_keeps_the_run(workspace, whole, capfd):
    write_csv(workspace / "prior.csv", make_rows(500, seed=3, task="prior"))
    assert call(*TRAIN, "--set", "run=whole", "--overwrite") == 2
    assert "The cache `whole/cache` covers 540 samples, but the prior data have 450" in capfd.readouterr().err
    assert contents(workspace / "whole") == whole
    assert record("whole")["state"] == "finished"


def test_a_signal_in_the_last_step_leaves_the_evaluation_for_later(workspace, whole):
    with at_step(29, send(signal.SIGTERM)):
        assert call(*TRAIN) == 143
    assert record()["state"] == "evaluating"
    assert (workspace / "run" / "model").exists()
    assert not (workspace / "run" / "evaluation.json").exists()
    assert call(*TRAIN, "--resume") == 0
    assert contents(workspace / "run") == whole


def test_a_refused_run_leaves_no_folder_above_its_own(workspace):
    assert call(*TRAIN, "--set", "run=a/b/c", "--set", "rehearsal.mix_ratio=0.001") == 2
    assert not (workspace / "a").exists()


def test_jit_checkpoints_are_left_to_transformers(workspace):
    handlers = []
    with at_step(2, lambda: handlers.append(signal.getsignal(signal.SIGTERM))):
        assert call(*TRAIN, "--set", "training.enable_jit_checkpoint=true", "--set", "training.max_steps=4") == 0
    assert "CheckpointManager" in repr(handlers[0])
