"""The demo itself, on few tweets: what it keeps, and what of an earlier demo it replaces."""

import csv
import json
import shlex

import datasets
import pytest
from transformers.utils import logging as transformers_logging

from command import call
from mixcd.edge.demo.demo import BASE, MIX_CD, PRIOR, WITHOUT_REHEARSAL, DemoSize, name_comparison, run_demo
from mixcd.edge.demo.demo_data import LABELS, PRIOR_TOPICS
from mixcd.run.outcome.run_folder import change_to_json
from mixcd.words.errors import SettingError

SIZE = DemoSize(base_steps=6, steps=4, test_count=60, prior_count=160)


def start(output, overwrite=False):
    return run_demo(output, SIZE, 0, overwrite, lambda line: None)


@pytest.fixture(autouse=True)
def _put_back():
    level = transformers_logging.get_verbosity()
    yield
    transformers_logging.set_verbosity(level)
    transformers_logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo's folder, and what it found."""
    output = tmp_path_factory.mktemp("demo") / "my demo"
    return output, start(output)


def test_models_and_held_out_tweets_are_kept(demo):
    output, _ = demo
    for name in (BASE, WITHOUT_REHEARSAL, MIX_CD):
        assert json.loads((output / name / "config.json").read_text())["id2label"] == {
            str(number): label for number, label in enumerate(LABELS)
        }
        assert (output / name / "model.safetensors").exists()
        assert (output / name / "tokenizer.json").exists()
    with (output / PRIOR).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == SIZE.test_count
    assert {row["label"] for row in rows} <= {*LABELS}
    assert {row["topic"] for row in rows} == {*PRIOR_TOPICS}


@pytest.mark.parametrize(("folder", "run"), [(WITHOUT_REHEARSAL, 0), (MIX_CD, 2)])
def test_the_command_that_it_names_finds_what_the_demo_found(demo, capfd, monkeypatch, tmp_path, folder, run):
    output, result = demo
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-datasets")
    words = [word.replace(WITHOUT_REHEARSAL, folder) for word in shlex.split(name_comparison(output))]
    assert words[0] == "mixcd"
    assert call(*words[1:], "--format", "json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["change"] == change_to_json(result.runs[run].prior)
    assert {one["name"] for one in found["partitions"]} == {"label", "topic", "prior loss"}


def test_only_what_an_earlier_demo_wrote_is_replaced(tmp_path, monkeypatch):
    for name in ("made-by-mixcd-demo.txt", "mine.html", "demo.json"):
        (tmp_path / name).write_text("earlier")
    (tmp_path / BASE).mkdir()
    (tmp_path / BASE / "old.bin").write_text("earlier")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("mine")
    (tmp_path / MIX_CD).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match="exists and is not empty, and nothing is overwritten unasked"):
        start(tmp_path)

    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("mixcd.edge.demo.demo.load_tweets", stop)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "made-by-mixcd-demo.txt", "mine.html"]
    assert (tmp_path / "elsewhere" / "kept").read_text() == "mine"
