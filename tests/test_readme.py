"""The README is short, and its code runs."""

import re

from page_code import ROOT, list_blocks
from tiny import collate, make_rows

README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_block_runs(base_model, new_data, prior_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = list_blocks(ROOT / "README.md", "python")
    assert len(code.splitlines()) <= 10
    names = {
        "model": base_model,
        "collator": collate,
        "new_data": new_data,
        "new_test": make_rows(40, 8, "new"),
        "prior_data": prior_data,
        "prior_test": make_rows(40, 9, "prior"),
    }
    exec(code, names)  # noqa: S102
    shown = capsys.readouterr().out
    assert "prior task: score 0." in shown
    assert re.search(r"damage rate \d+\.\d% of the prior data; yield \d", shown)


def test_the_two_commands_come_first():
    first = re.search(r"```\w*\n(.*?)```", README, re.DOTALL).group(1)
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


def test_it_is_read_in_one_go():
    lines = README.splitlines()
    assert len(lines) <= 90
    assert max(map(len, lines)) <= 120
