import json
import zipfile

import pyarrow.parquet as pq
import pytest

from mixcd.run.outcome.evaluation import DamagedSample, Evaluation, TaskChange
from mixcd.run.outcome.run_folder import (
    _RECORDED,
    EVALUATING,
    FINISHED,
    PRIOR_PASS,
    TRAINING,
    RunFolder,
    step_of,
    write_evaluation,
)
from mixcd.words.errors import RunFolderError


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def write_checkpoint(folder, step, processes=1, stored_step=None):
    checkpoint = folder.checkpoints / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    own = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    for name in ("optimizer.pt", "scheduler.pt", *own):
        with zipfile.ZipFile(checkpoint / name, "w") as archive:
            archive.writestr("data", "x" * 1000)
    state = {
        "global_step": stored_step or step,
        "stateful_callbacks": {"RehearsalCallback": {"args": {}, "attributes": {"processes": processes}}},
    }
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return checkpoint


def test_a_new_folder_an_empty_one_and_one_with_a_cache_hold_no_run(folder):
    assert folder.read() is None
    (folder.path / "cache").mkdir(parents=True)
    (folder.path / ".lock").touch()
    (folder.path / "config.toml.unfinished").touch()
    assert folder.read() is None


def test_other_peoples_folders_are_refused(folder, tmp_path):
    folder.path.mkdir()
    (folder.path / "thesis.tex").touch()
    with pytest.raises(
        RunFolderError, match=r"holds no run of mixcd, but `thesis.tex`. A run needs a folder of its own"
    ):
        folder.read()
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="is a file, but a run needs a folder"):
        RunFolder(tmp_path / "file").read()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "cannot be read"),
        ('{"format": 1}', "cannot be read: it lacks .'state'"),
        ('{"format": 9}', "has format 9.*Upgrade"),
    ],
)
def test_a_broken_record_is_refused(folder, content, fault):
    folder.path.mkdir()
    folder.record.write_text(content)
    with pytest.raises(RunFolderError, match=fault):
        folder.read()


def test_the_record_is_read_as_written(folder):
    folder.path.mkdir()
    folder.write(dict.fromkeys(_RECORDED) | {"state": TRAINING})
    found = folder.read()
    assert found["state"] == TRAINING
    assert found["format"] == 1


def test_the_last_checkpoint_that_was_written_to_the_end_is_found(folder):
    assert folder.find_checkpoint() is None
    whole = write_checkpoint(folder, 9)
    assert folder.find_checkpoint() == whole
    (folder.checkpoints / "checkpoint-best").mkdir()
    write_checkpoint(folder, 10, stored_step=9)
    (write_checkpoint(folder, 100) / "checkpoint-is-incomplete.txt").touch()
    cut = write_checkpoint(folder, 101) / "optimizer.pt"
    cut.write_bytes(cut.read_bytes()[:-30])
    (write_checkpoint(folder, 102) / "rng_state.pth").unlink()
    (write_checkpoint(folder, 103) / "trainer_state.json").unlink()
    (write_checkpoint(folder, 104) / "trainer_state.json").write_text("{}")
    (write_checkpoint(folder, 105, processes=2) / "rng_state_1.pth").unlink()
    assert folder.find_checkpoint() == whole
    assert step_of(folder.find_checkpoint()) == 9
    assert folder.find_checkpoint() != write_checkpoint(folder, 106, processes=2) == folder.find_checkpoint()


def test_progress_is_told_from_what_lies_there(folder):
    folder.path.mkdir()
    base = {"total_steps": 300, "cache": str(folder.path / "cache")}
    for state, told in (
        (FINISHED, "finished"),
        (PRIOR_PASS, "did not finish its prior pass, of which nothing is cached yet"),
        (EVALUATING, "did not finish its evaluation"),
        (TRAINING, "got as far as step 0 of 300, and it has no checkpoint"),
    ):
        assert folder.describe_progress({**base, "state": state}) == told
    folder.step_lines.write_text('{"step": 56}\n{"step": 57}\n{"st')
    write_checkpoint(folder, 50)
    assert folder.describe_progress({**base, "state": TRAINING}) == (
        "got as far as step 57 of 300, and its last checkpoint is of step 50"
    )


def test_clearing_keeps_the_cache_and_forgetting_leaves_nothing(folder):
    (folder.path / "cache").mkdir(parents=True)
    for path in (folder.config, folder.record, folder.steps, folder.evaluation, folder.damaged, folder.step_lines):
        path.touch()
    write_checkpoint(folder, 1)
    folder.model.mkdir()
    (folder.path / "model.unfinished").mkdir()
    (folder.path / "mine.txt").touch()
    folder.clear()
    assert sorted(path.name for path in folder.path.iterdir()) == ["cache", "mine.txt"]
    (folder.path / "mine.txt").unlink()
    (folder.path / "cache").rmdir()
    for path in (folder.config, folder.record, folder.path / ".lock"):
        path.touch()
    folder.forget()
    assert not folder.path.exists()


def test_damaged_answers_are_written_in_their_pieces(tmp_path):
    lost = [
        DamagedSample(4, "loss", None, None, "add 1", damage=0.5, answer=["2 ", "3"], now="4"),
        DamagedSample(5, "loss", None, None, "add 2", damage=0.25, answer=[]),
    ]
    write_evaluation(Evaluation(TaskChange(10, 8, 2, 1), None, lost), tmp_path / "e.json", tmp_path / "d.parquet")
    assert [DamagedSample(**row) for row in pq.read_table(tmp_path / "d.parquet").to_pylist()] == lost


def test_an_evaluation_is_written_with_its_intervals(tmp_path):
    lost = DamagedSample(sample_id=4, bin_name="loss", label=1, prediction=0, text="a <b>")
    evaluation = Evaluation(TaskChange(10, 8, 2, 1), None, [lost])
    write_evaluation(evaluation, tmp_path / "e.json", tmp_path / "d.parquet")
    scores = json.loads((tmp_path / "e.json").read_text())
    assert set(scores) == {"prior"}
    assert scores["prior"]["damaged_share"] == 0.2
    assert scores["prior"]["damaged_share_low"] < 0.2 < scores["prior"]["damaged_share_high"]
    of_tokens = ("damage", "answer", "now")  # which only language models have
    assert pq.read_table(tmp_path / "d.parquet").to_pylist() == [
        {name: value for name, value in vars(lost).items() if name not in of_tokens}
    ]
    write_evaluation(Evaluation(TaskChange(10, 8, 0, 1), None, []), tmp_path / "e.json", tmp_path / "d.parquet")
    assert pq.read_table(tmp_path / "d.parquet").num_rows == 0
