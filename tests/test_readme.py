"""The README's code runs, and its table is the demo's."""

import re

import torch

from mixcd.edge.demo.demo_result import HEADINGS
from page_code import ROOT, list_blocks
from tiny import collate, make_rows

README = (ROOT / "README.md").read_text("utf-8")


def test_the_python_blocks_run(base_model, base_weights, new_data, prior_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, by_hand = list_blocks(ROOT / "README.md", "python")
    assert len(code.splitlines()) <= 10
    names = {
        "optimizer": torch.optim.SGD(base_model.parameters(), lr=1e-3),
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
    assert "Vitals(damage_rate=0." in shown
    base_model.load_state_dict(base_weights)
    exec(by_hand, names)  # noqa: S102
    assert names["rehearsal"].counts.observed_count.sum() == 20 * 4


def test_the_two_commands_come_first():
    first = re.search(r"```\w*\n(.*?)```", README, re.DOTALL).group(1)
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


def test_the_table_has_the_demos_columns():
    table = next(line for line in README.splitlines() if line.startswith("| run |"))
    assert [cell.strip() for cell in table.strip("|").split("|")] == HEADINGS


def test_every_file_named_in_the_tree_exists():
    tree = re.search(r"```\nsrc/mixcd/\n(.*?)benchmarks/", README, re.DOTALL).group(1)
    for name in re.findall(r"[\w]+\.py", tree):
        assert (ROOT / "src" / "mixcd" / name).exists(), name
