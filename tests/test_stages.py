"""The chain of stages of `benchmarks/stages.py`, on made-up passages."""

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import datasets
import numpy as np
import pytest
from transformers import BertConfig, BertForQuestionAnswering

from mixcd.edge.stages.run_ledger import read_ledger
from mixcd.run.outcome.run_folder import RunFolder
from task_workspace import make_span_tokenizer

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """The script, with little data and a tiny model in the place of MiniLM; its work lies in a temporary folder."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    made = importlib.import_module("stages")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForQuestionAnswering(BertConfig(vocab_size=60, **sizes)).save_pretrained(tmp_path / "pretrained")
    make_span_tokenizer().save_pretrained(tmp_path / "pretrained")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-datasets")
    monkeypatch.setattr("mixcd.run.trainer.attach.LEAST_SHARE_RIGHT", 0.0)
    for name, value in {"HERE": tmp_path, "HELD_OUT": 10, "MOST_TOKENS": 16, "LAYERS": 1}.items():
        monkeypatch.setattr(made, name, value)
    monkeypatch.setattr(made, "find_minilm", lambda: tmp_path / "pretrained")
    monkeypatch.setattr(made, "read_member", lambda package, member: make_passages(len(member)))
    yield made
    for name, module in list(sys.modules.items()):
        if FOLDER in Path(getattr(module, "__file__", None) or "unknown").parents:
            del sys.modules[name]


def make_passages(seed):
    rng = np.random.default_rng(seed)
    passages = []
    for number in range(20):
        words = [f"w{word}" for word in rng.integers(4, 50, 6)]
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        answers = [{"text": words[place], "answer_start": int(starts[place])} for place in (1, 3)]
        questions = [{"question": f"w{number % 40 + 4}", "answers": [answer]} for answer in answers]
        passages.append({"context": " ".join(words), "qas": questions})
    return json.dumps({"data": [{"paragraphs": passages}]}).encode()


@pytest.mark.parametrize("way", ["none", "paper"])
def test_each_stage_begins_with_the_product_of_the_one_before(stages, tmp_path, way):
    settings = Namespace(base_steps=2, steps=2)
    ledger = stages.run_chain(way, 3, settings)
    assert ledger.task_names == ("wikipedia", "news", "reddit")
    known = np.isfinite(ledger.scores)
    assert known.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    folder = tmp_path / "work" / "stages" / "3-2-2"
    if way == "paper":
        lineage = RunFolder(folder / way / "reddit").read()["lineage"]
        assert [Path(stage["run"]).name for stage in lineage] == ["news"]
        np.testing.assert_allclose(read_ledger(folder / way / "reddit").scores, ledger.scores)
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    again = stages.run_chain(way, 3, settings)  # found, not trained again
    np.testing.assert_array_equal(again.scores, ledger.scores)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")} == kept
