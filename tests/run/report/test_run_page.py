"""The report of a run, from its folder and from a trainer."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mixcd
from command import call, record
from mixcd.run.outcome.evaluation import MOST_ROWS
from mixcd.run.outcome.generation import GenerationChange, generation_to_json
from mixcd.run.outcome.run_folder import RunFolder
from mixcd.run.report.run_findings import read_findings
from mixcd.run.report.run_page import make_run_page
from mixcd.words.errors import DataError, RunFolderError, SettingError
from tiny import make_rows, make_trainer


@pytest.fixture
def run(workspace):
    assert call("train", "config.toml") == 0
    return RunFolder(workspace / "run")


def test_a_run_leaves_its_report(run, capfd):
    html = run.report.read_text("utf-8")
    scores = json.loads(run.evaluation.read_text("utf-8"))
    assert f"prior score {scores['prior']['score_before']:.3f} → {scores['prior']['score_after']:.3f}" in html
    for title in (
        "Scores and flips",
        "Damage by bin",
        "While it trained",
        "Damaged samples",
        "Settings and provenance",
    ):
        assert f"{title}</h2>" in html
    assert "run.versions.torch" in html
    assert "config.rehearsal.mix_ratio" in html
    first = pq.read_table(run.damaged).to_pylist()[0]
    assert first["text"] in html
    names = json.loads((run.model / "config.json").read_text("utf-8"))["id2label"]
    assert f'<td data-heading="after"><span dir="auto">{names[str(first["prediction"])]}</span></td>' in html


def test_the_bins_of_the_evaluation_add_up_to_the_whole(run):
    found = json.loads(run.evaluation.read_text("utf-8"))
    for count in ("sample_count", "right_before", "damaged_count", "gained_count"):
        assert sum(one[count] for one in found["bins"].values()) == found["prior"][count]
    names = pq.read_table(run.damaged)["bin_name"].to_pylist()
    assert {name: names.count(name) for name in found["bins"]} == {
        name: one["damaged_count"] for name, one in found["bins"].items()
    }


def test_the_report_is_written_again_only_if_asked(run, capfd):
    before = run.report.read_bytes()
    assert call("report", "run") == 2
    assert "exists already" in capfd.readouterr().err
    assert call("report", "run", "--overwrite") == 0
    assert run.report.read_bytes() == before
    assert call("report", "run", "--output", "elsewhere.html") == 0
    assert (run.path.parent / "elsewhere.html").read_bytes() == before


def test_a_folder_without_a_finished_run_has_no_report(run, capfd, tmp_path):
    (tmp_path / "empty").mkdir()
    assert call("report", "empty") == 2
    assert "holds no run" in capfd.readouterr().err
    run.write({**record(), "state": "training"})
    assert call("report", "run", "--overwrite") == 2
    assert "a report needs a finished one" in capfd.readouterr().err


def test_a_file_of_the_run_that_cannot_be_read_is_named(run):
    run.evaluation.write_text("{", "utf-8")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_findings(run)


def test_a_run_without_held_out_data_says_that_damage_was_not_measured(run):
    run.evaluation.unlink()
    run.damaged.unlink()
    page = make_run_page(read_findings(run))
    assert page.verdict == "Damage was not measured: no prior data are held out."
    assert [section.title for section in page.sections] == ["While it trained"]


def test_many_damaged_samples_are_thinned_evenly_and_the_report_says_so(run):
    count = 70_000  # more than are read at once
    schema = pq.read_schema(run.damaged)
    columns = {
        "sample_id": range(count), "bin_name": ["bin"] * count, "label": [0] * count, "prediction": [1] * count,
        "text": ["text"] * count,
    }  # fmt: skip
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}, schema), run.damaged)
    found = read_findings(run)
    ids = [one.sample_id for one in found.damaged]
    assert (len(ids), ids[0], ids[-1], found.damaged_count) == (MOST_ROWS, 0, count - 1, count)
    gaps = {later - earlier for earlier, later in itertools.pairwise(ids)}
    assert gaps <= {70, 71}
    section = make_run_page(found).sections[-1]
    assert section.reading.startswith("1,000 of 70,000 damaged samples, evenly spaced")


def test_a_trainer_writes_its_report(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, logging_strategy="steps", logging_steps=1)
    held_out = make_rows(200, seed=7, task="prior")
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=held_out)
    trainer.train()
    rehearsal.report(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "While it trained</h2>" in html
    assert f"score {rehearsal.evaluate().prior.score_before:.3f} →" in html
    with pytest.raises(SettingError, match="exists already"):
        rehearsal.report(tmp_path / "report.html")
    rehearsal.report(tmp_path / "report.html", overwrite=True)


def test_a_trainer_without_held_out_data_reports_its_steps(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, logging_strategy="steps", logging_steps=1)
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    trainer.train()
    rehearsal.report(str(tmp_path / "report.html"))
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "Damage was not measured" in html
    assert "While it trained</h2>" in html


def test_damage_is_shown_by_columns_too(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    held_out = {"one": make_rows(120, seed=7, task="prior"), "two": make_rows(80, seed=8, task="prior")}
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=held_out)
    trainer.train()
    columns = ("topic", "prior_set")
    found = rehearsal.evaluate(columns=columns)
    assert list(found.columns) == list(columns)
    for bins in found.columns.values():
        for count in ("sample_count", "right_before", "damaged_count", "gained_count"):
            assert sum(getattr(one, count) for one in bins.values()) == getattr(found.prior, count)
    topics = np.concatenate([held_out[name]["topic"] for name in held_out])
    sizes = {name.removeprefix("topic="): one.sample_count for name, one in found.columns["topic"].items()}
    assert sizes == dict(zip(*(part.tolist() for part in np.unique(topics, return_counts=True)), strict=True))
    assert found.columns["prior_set"] == {f"prior_set={name}": one for name, one in found.prior_sets.items()}
    rehearsal.report(tmp_path / "report.html", columns=["topic"])
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "Damage by column</h2>" in html
    assert "Held-out prior samples by topic" in html
    assert "topic=topic 3" in html


@pytest.mark.parametrize(
    ("name", "told"),
    [("topi", "`columns` names `topi`, which `held_out` does not have, did you mean `topic`"), ("input_ids", "lists")],
)
def test_columns_that_are_not_there_or_lists_are_refused_before_the_model_runs(
    base_model, new_data, prior_data, tmp_path, name, told
):
    trainer = make_trainer(base_model, new_data, tmp_path)
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=make_rows(50, seed=7, task="prior"))
    trainer.model.forward = None
    with pytest.raises(DataError, match=told):
        rehearsal.report(tmp_path / "report.html", columns=[name])


def test_a_config_names_the_columns_and_the_run_folder_keeps_them(workspace):
    assert call("train", "config.toml", "--set", 'rehearsal.report_columns=["label"]') == 0
    folder = RunFolder(workspace / "run")
    found = json.loads(folder.evaluation.read_text("utf-8"))
    assert sum(one["damaged_count"] for one in found["columns"]["label"].values()) == found["prior"]["damaged_count"]
    html = folder.report.read_text("utf-8")
    assert "Held-out prior samples by label" in html


def test_a_column_that_the_held_out_data_lack_is_refused_by_its_key(workspace, capfd):
    assert call("train", "config.toml", "--set", 'rehearsal.report_columns=["nope"]') == 2
    assert "`rehearsal.report_columns` names the column `nope`, but `prior.0.held_out` has" in capfd.readouterr().err


def test_what_models_write_by_themselves_is_shown_and_kept(run):
    texts = GenerationChange(200, 120, 100, 2, 30, 8.25, 15.5, 8.0)
    found = json.loads(run.evaluation.read_text("utf-8"))
    found["generation"] = {"prior": generation_to_json(texts)}
    run.evaluation.write_text(json.dumps(found), "utf-8")
    read = read_findings(run)
    assert read.generation == {"prior task": texts}
    section = next(one for one in make_run_page(read).sections if one.title == "Written by itself")
    assert section.tables[0].rows[0][:3] == ["prior task", "200", "0.600 (0.531–0.665)"]
    assert section.tables[0].rows[0][4:] == ["8.2 → 15.5 (8.0)", "0.010 (0.003–0.036)", "0.150 (0.107–0.206)"]
