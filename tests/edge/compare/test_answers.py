"""A comparison of language models shows what they should say, and what is said now; worst first."""

import copy
import re

import pytest

import mixcd
from mixcd.edge.compare.json_page import comparison_to_json
from tiny_sft import make_model, make_rows, make_sft_trainer, make_tokenizer
from tiny_tasks import FAMILIES
from workspace import make_tokenizer as make_words


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder, base = tmp_path_factory.mktemp("models"), make_model()
    make_sft_trainer(base, make_rows(200, "prior"), folder, max_steps=100, assistant_only_loss=True).train()
    weights, tuned = copy.deepcopy(base.state_dict()), make_model()
    tuned.load_state_dict(weights)
    make_sft_trainer(tuned, make_rows(60, "new"), folder, max_steps=20, assistant_only_loss=True).train()
    base = make_model()
    base.load_state_dict(weights)
    plain = make_model()
    plain.load_state_dict(tuned.state_dict())
    rows = make_rows(50, "prior")
    return mixcd.compare(base, plain, rows, tokenizer=make_tokenizer(), assistant_only_loss=True)


def test_answers_are_shown_with_what_is_said_now_the_worst_first(comparison):
    found = comparison.most_damaged
    assert [one.damage for one in found] == sorted((one.damage for one in found), reverse=True)
    assert len(found) == comparison.change.lead.damaged_count > 5
    told = make_rows(50, "prior")
    for one in found:
        said = told[one.sample_id]["messages"][1]["content"]
        assert "".join(one.answer) == f"{said} <eos>"
        assert one.now != one.answer[1].split()[0]


def test_the_page_and_the_json_have_them(comparison, tmp_path):
    mixcd.write_report(comparison, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "All damaged samples, the worst first. The gold answer is shown" in html
    assert len(re.findall("<mark>", html)) >= len(comparison.most_damaged)
    first = comparison_to_json(comparison)["most_damaged"][0]
    assert (first["damage"], first["now"]) == (
        comparison.most_damaged[0].damage,
        comparison.most_damaged[0].now,
    )


def test_samples_of_other_tasks_have_neither_damage_nor_answer():
    family = FAMILIES["classification"]
    models = [family.make_model(), family.make_model()]
    found = mixcd.compare(*models, family.make_rows(100, 0, "prior"), tokenizer=make_words())
    assert {(one.damage, one.answer) for one in found.most_damaged} == {(None, ())}
    listed = comparison_to_json(found)["most_damaged"]
    assert set(listed[0]) == {"sample_id", "loss_before", "loss_after", "label", "prediction", "text"}
