"""The code on the pages runs, its commands and configs are understood, and it prints what the page says.

Most pages take names for granted that any user has. `prepare` makes these, on a tiny model and tiny data, anew for each
block. The tutorial is given the folder `examples/` and nothing else. Blocks of other pages that need other names are
prepared for in `PREPARED`.
"""

import itertools
import tomllib

import pytest
import torch
import typer
from pydantic import TypeAdapter

from mixcd.edge.bench.sweep.sweep_config import read_sweep
from mixcd.edge.cli import app
from mixcd.edge.config.config import Config
from page_code import PAGES, ROOT, list_blocks, list_commands, mask, name_of, run_page
from supported_trainers import TRAINERS
from tiny import collate, make_model, make_rows, make_trainer
from tiny_sft import make_model as make_chat_model
from tiny_sft import make_rows as make_chats
from tiny_sft import make_sft_trainer

COMMANDS = [(page, words) for page in PAGES for words in list_commands(page)]
TOML = [(page, text) for page in PAGES for text in list_blocks(page, "toml")]
WITH_CODE = [page for page in PAGES if list_blocks(page, "python") and page.name != "README.md"]  # see test_readme.py
TUTORIAL = ROOT / "docs" / "tutorial.md"
OWN_LOOP = ROOT / "docs" / "how-to" / "own-loop.md"
LONG = (TUTORIAL, ROOT / "docs" / "support.md")
SLOW = ((), pytest.mark.slow)


def collate_unlabelled(rows):
    batch = collate([{"label": 0, **row} for row in rows])
    return batch if "label" in rows[0] else {name: batch[name] for name in ("input_ids", "attention_mask")}


def prepare_support(folder):
    make, make_prior, _ = TRAINERS["Trainer, classification"]()
    return {"make_trainer": make, "prior_data": make_prior(), "tmp_path": folder}


def prepare_chats(folder):
    trainer = make_sft_trainer(make_chat_model(), make_chats(60, "new"), folder / "chats", assistant_only_loss=True)
    return {"chat_trainer": trainer, "prior_chats": make_chats(60, "prior"), "chats_test": make_chats(40, "prior")}


PREPARED = {"docs/support.md": prepare_support, "docs/tutorial.md": lambda folder: {}}

ALSO_PREPARED = {"docs/how-to/report.md": prepare_chats}
"""What a page takes for granted besides what others do."""


@pytest.fixture
def prepare(base_weights, tuned_model, new_data, prior_data):
    folders = itertools.count()

    def make_user_trainer(folder, **settings):
        model = make_model()
        model.load_state_dict(base_weights)
        test = make_rows(40, 8, "new")
        return make_trainer(model, new_data, folder, eval_dataset=test, per_device_train_batch_size=16, **settings)

    def prepare():
        trainer = make_user_trainer(f"trainer-{next(folders)}")
        return {
            "base_model": trainer.model,
            "collator": collate_unlabelled,
            "make_trainer": make_user_trainer,
            "model": trainer.model,
            "new_data": new_data,
            "new_test": make_rows(40, 8, "new"),
            "optimizer": torch.optim.SGD(trainer.model.parameters(), lr=1e-3),
            "prior_data": prior_data,
            "prior_test": make_rows(200, 9, "prior"),
            "trainer": trainer,
            "tuned_model": tuned_model,
            "unlabelled": make_rows(300, 10, "prior").remove_columns("label"),
        }

    return prepare


@pytest.mark.parametrize("page", [pytest.param(page, marks=SLOW[page in LONG], id=name_of(page)) for page in WITH_CODE])
def test_the_python_blocks_of_a_page_run(page, prepare, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    own, more = PREPARED.get(name_of(page)), ALSO_PREPARED.get(name_of(page), lambda folder: {})
    run_page(page, {}, (lambda: prepare() | more(tmp_path)) if own is None else lambda: own(tmp_path))
    printed = mask(capsys.readouterr().out)
    for said in list_blocks(page, "text") if page == TUTORIAL else ():
        assert mask(said) in printed


def test_the_loop_of_your_own_rehearses(prepare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    run_page(OWN_LOOP, names, prepare)
    assert names["rehearsal"].counts.observed_count.sum() == 20 * 4


def test_the_tutorial_comes_to_the_point():
    lines = [line for block in list_blocks(TUTORIAL, "python") for line in block.splitlines() if line.strip()]
    assert next(number for number, line in enumerate(lines) if "mixcd." in line) < 25


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{name_of(page)}: {words}" for page, words in COMMANDS])
def test_a_command_line_is_understood(page, words):
    commands = typer.main.get_command(app)
    assert words[0] in commands.commands
    with commands.commands[words[0]].make_context(words[0], words[1:]):
        pass


@pytest.mark.parametrize(("page", "text"), TOML, ids=[name_of(page) for page, _ in TOML])
def test_a_config_is_understood(page, text, tmp_path):
    values = tomllib.loads(text)
    if "methods" in values:
        (tmp_path / "sweep.toml").write_text(text)
        assert read_sweep(tmp_path / "sweep.toml").name == values["name"]
    else:
        TypeAdapter(Config).validate_python(values)


def test_commands_are_found_on_many_pages():
    assert len(COMMANDS) > 25
    assert ["train", "mixcd.toml", "--resume"] in [words for _, words in COMMANDS]
