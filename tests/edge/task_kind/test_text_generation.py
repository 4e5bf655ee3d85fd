import json
import sys

import pytest
import torch
from datasets import load_from_disk

import tiny_sft
from command import call
from mixcd.edge.config.config import Config
from mixcd.edge.task_kind import TextGeneration
from mixcd.edge.train.arguments import make_arguments
from mixcd.edge.train.setup import set_up
from mixcd.matter.prior_and_new_data.data_source import open_data
from task_workspace import write_rows

TRAIN = ("train", "config.toml")
SHORT = (*TRAIN, "--set", "training.max_steps=2")


@pytest.fixture
def folder(task_workspace):
    return task_workspace("text-generation")


def make_config(training=(), **model):
    return Config.model_validate(
        {
            "run": "run",
            "task": "text-generation",
            "model": {"path": "base", **model},
            "new": {"path": "new.jsonl"},
            "prior": [{"path": "prior.jsonl"}],
            "rehearsal": {"mix_ratio": 0.25},
            "training": {"max_steps": 2, **dict(training)},
        }
    )


def refuse(capfd, *settings):
    capfd.readouterr()
    assert call(*TRAIN, *(part for one in settings for part in ("--set", one))) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    return line.rstrip("\n")


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"), [("chat", ()), ("completion", ("rehearsal.least_share=0.1",)), ("text", ())]
)
def test_every_format_of_trl_is_prepared_trained_and_judged(folder, capfd, kind, settings):
    for name, task in (("prior", "prior"), ("new", "new")):
        write_rows(folder / f"{name}.jsonl", tiny_sft.make_rows(60, task, kind=kind).to_list())
    assert call(*SHORT, *(part for one in settings for part in ("--set", one))) == 0, capfd.readouterr().err
    assert (folder / "run" / "model" / "model.safetensors").exists()
    written = json.loads((folder / "run" / "evaluation.json").read_text())
    tokens = written["prior"]["tokens"]
    assert tokens["is_graded"] == (not settings)
    assert tokens["target_count"] > tokens["sample_count"] == written["prior"]["sample_count"]
    told = capfd.readouterr().out
    assert ("prior task: token accuracy" in told) == (not settings)
    page = (folder / "run" / "report.html").read_text("utf-8")
    assert ("tokens it had right, on average" in page) == (not settings)


def test_rows_whose_answer_is_cut_off_are_left_out_and_named(folder, capfd):
    long = [{"role": "user", "content": " ".join(["add"] * 40)}]
    rows = tiny_sft.make_rows(60, "prior", kind="chat completion").to_list()
    write_rows(folder / "prior.jsonl", [{**rows[0], "prompt": long}, *rows[1:]])
    assert call(*SHORT, "--set", "model.max_length=20", "--set", "prior.0.held_out=0.0") == 0, capfd.readouterr().err
    told = (
        "1 of 60 rows of `prior.0.path` have no target left after truncation to `max_length` and are dropped: rows 0."
    )
    assert told in capfd.readouterr().out


def test_nothing_is_written_beside_saved_data(folder):
    open_data("new.jsonl", name="new").save_to_disk("saved")
    before = sorted(path.name for path in (folder / "saved").iterdir())
    assert call(*SHORT, "--set", "new.path=saved") == 0
    assert sorted(path.name for path in (folder / "saved").iterdir()) == before
    assert len(load_from_disk("saved")) == 40


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (
            {"chat": "add 3"},
            "`new.path` has the columns `chat`, but TRL reads one of these formats: `messages`; `prompt` ",
        ),
        ({"prompt": "add 3"}, "`new.path` has the columns `prompt`, but TRL reads"),
        ({"text": "add 3", "completion": "4"}, "has the columns `text`, `completion`, but TRL reads one of"),
        ({"text": " "}, "`new.path` has no text in its column `text` on sample 0 (counted from 0), but"),
        ({"prompt": "add", "completion": None}, "`new.path` has "),
    ],
)
def test_rows_in_no_format_are_refused(folder, capfd, row, part):
    write_rows(folder / "new.jsonl", [row])
    assert part in refuse(capfd)
    assert not (folder / "run").exists()


def test_conversations_without_a_chat_template_are_refused(folder, capfd):
    tokenizer = tiny_sft.make_tokenizer()
    tokenizer.chat_template = None
    (folder / "base" / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder / "base")
    line = refuse(capfd)
    assert line == (
        "`new.path` has conversations in its column `prompt`, but the tokenizer `base` has no chat template to write "
        "them with. Save one there as `chat_template.jinja`, take the tokenizer of a chat model, or give texts."
    )


def test_tokens_that_the_model_does_not_take_are_refused_after_trl_made_them(folder, capfd):
    tokenizer = tiny_sft.make_tokenizer()
    tokenizer.add_tokens(["beyond"])
    tokenizer.save_pretrained(folder / "base")
    rows = tiny_sft.make_rows(60, "prior", kind="completion").to_list()
    write_rows(folder / "new.jsonl", rows)
    write_rows(folder / "prior.jsonl", [*rows[:-1], {"prompt": "add 3", "completion": " beyond"}])
    line = refuse(capfd, "prior.0.held_out=0.0")
    assert "`prior.0.path` has a token that is none of the model's 37 on sample 59 (counted from 0)." in line


def test_a_tokenizer_that_cannot_pad_pads_by_the_end_of_text(folder, capfd):
    tokenizer = tiny_sft.make_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder / "base")
    assert call(*SHORT) == 0, capfd.readouterr().err


# --- arguments ------------------------------------------------------------------------------------------------------


def test_short_floats_are_off_unless_there_is_a_gpu_that_has_them(monkeypatch):
    kind = TextGeneration()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kind.default_arguments(make_config()) == {"bf16": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_them in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_them: has)
        assert ("bf16" in kind.default_arguments(make_config())) != has_them
    assert kind.default_arguments(make_config({"use_cpu": True})) == {"bf16": False}


@pytest.mark.parametrize(("model", "length"), [({}, 64), ({"max_length": 16}, 16)])
def test_the_longest_input_is_said_or_what_the_model_takes(folder, model, length):
    config = make_config({"use_cpu": True}, **model)
    arguments = make_arguments(config)
    set_up(config, arguments)
    assert arguments.max_length == length
    assert arguments.bf16 is False


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("training.max_length=5", "`training.max_length` cannot be set: set `model.max_length`"),
        ("training.chat_template_path=x", "`training.chat_template_path` cannot be set: the tokenizer brings"),
        ("training.paking=true", "`training.paking` is not in SFTConfig of trl, did you mean `packing`?"),
        ("training.assistant_only_loss=1", "`training.assistant_only_loss` is 1, but transformers wants true or false"),
    ],
)
def test_arguments_that_cannot_be(folder, capfd, setting, part):
    assert part in refuse(capfd, setting)


def test_packing_that_cuts_samples_is_refused_by_name(folder, capfd):
    said = refuse(capfd, "training.packing=true", "training.packing_strategy=bfd_split")
    assert 'The trainer uses `packing_strategy="bfd_split"`' in said


def test_arguments_of_trl_are_none_of_transformers(workspace, capfd):
    assert "`training.packing` is not in TrainingArguments of transformers" in refuse(capfd, "training.packing=true")


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_missing_package_is_named_with_what_to_install(folder, capfd, monkeypatch, options):
    monkeypatch.setitem(sys.modules, "trl", None)
    assert call(*TRAIN, *options) == 2
    line = capfd.readouterr().err
    assert line.startswith(
        "Text generation (`text-generation`) is prepared and trained by TRL's `SFTTrainer`, but the "
    )
    assert line.endswith(". Run `pip install trl`.\n")


def test_a_base_model_that_is_right_on_too_little_is_told_which_share_would_do(folder, capfd):
    rows = tiny_sft.make_rows(60, "prior", kind="chat completion").to_list()
    for row in rows:
        row["completion"][0]["content"] = "0 " + row["completion"][0]["content"].split()[1]
    write_rows(folder / "prior.jsonl", rows)
    line = refuse(capfd, "rehearsal.least_share=1.0")
    assert "The base model is right on 0.0% of the prior samples" in line
    assert "In a config: `rehearsal.least_share = 0." in line


@pytest.mark.parametrize(
    ("file", "start", "end"),
    [
        ("new", "TRL refuses to build a Trainer: ", " Correct the config's `training`, or the data."),
        ("prior", "TRL cannot prepare `prior.0.path`, whose columns are", "in the format of the trainer's own data."),
    ],
)
def test_conversations_that_are_none_are_refused(folder, capfd, file, start, end):
    write_rows(folder / f"{file}.jsonl", [{"prompt": [{"who": "a"}], "completion": [{"who": "b"}]}] * 10)
    line = refuse(capfd, "prior.0.held_out=0.0", "new.held_out=0.0")
    assert line.startswith(start)
    assert line.endswith(end)
