"""The list of damaged samples of language models: worst first, with what the model now says."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from transformers import DataCollatorForSeq2Seq

import mixcd
from mixcd.run.outcome import damaged_samples
from mixcd.run.report import run_findings
from mixcd.run.trainer.trainer_predictions import predict_now
from tiny_sft import make_model, make_rows, make_sft_trainer, make_tokenizer
from tiny_tasks import FAMILIES


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory):
    model, folder = make_model(), tmp_path_factory.mktemp("chat")
    make_sft_trainer(model, make_rows(200, "prior"), folder, max_steps=100, assistant_only_loss=True).train()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def chat(chat_base, tmp_path):
    """A chat model that was fine-tuned with rehearsal by TRL's trainer, whose head shows no arg-max."""

    def build(**settings):
        model = make_model()
        model.load_state_dict(copy.deepcopy(chat_base))
        trainer = make_sft_trainer(
            model, make_rows(60, "new"), tmp_path / "run", max_steps=20, assistant_only_loss=True, **settings
        )
        held_out = make_rows(40, "prior")
        rehearsal = mixcd.attach(trainer, make_rows(100, "prior"), mix_ratio=0.25, held_out=held_out)
        trainer.train()
        return trainer, rehearsal

    return build


@pytest.mark.parametrize("settings", [{}, {"padding_free": True, "max_length": None}])
def test_the_worst_come_first_with_prompt_answer_and_prediction(chat, settings):
    trainer, rehearsal = chat(**settings)
    opened = rehearsal._opened
    data, before = opened.held_out["prior"].data, opened.held_out["prior"].before
    change = before.compare_tokens(np.arange(40), predict_now(trainer, data, opened.rule)["right_tokens"].tolist())
    found = rehearsal.evaluate().damaged
    assert [one.damage for one in found] == sorted((one.damage for one in found), reverse=True)
    assert {one.sample_id: one.damage for one in found} == {
        number: damage for number, damage in enumerate(change.damage.tolist()) if damage > 0
    }
    told = make_rows(40, "prior")
    for one in found:
        asked, said = (message["content"] for message in told[one.sample_id]["messages"])
        assert one.text == f"<user> {asked} <assistant>"
        assert "".join(one.answer) == f"{said} <eos>"
        assert one.now
        assert one.now != one.answer[1].split()[0]
    assert len(found) > 5


def test_whole_samples_are_ranked_by_their_tokens_too(chat):
    _, rehearsal = chat()
    opened = rehearsal._opened
    rule = mixcd.RightTokens(is_shifted=True, is_fused=True)
    now = replace(opened.infer(opened.held_out["prior"].data), rule=rule)
    before, after = opened.held_out["prior"].before, now.predict_all()
    found = damaged_samples.list_damaged(now, before, after, ["bin"] * 40)
    lost = np.flatnonzero(before.correct & ~after["correct"])
    assert sorted(one.sample_id for one in found) == lost.tolist()
    assert [one.damage for one in found] == sorted((one.damage for one in found), reverse=True)


def test_only_the_worst_are_described_and_only_those_are_reported(chat, monkeypatch, tmp_path):
    monkeypatch.setattr(damaged_samples, "MOST_ROWS", 3)
    monkeypatch.setattr(run_findings, "MOST_ROWS", 3)
    _, rehearsal = chat()
    found = rehearsal.evaluate().damaged
    assert [bool(one.answer) for one in found] == [True] * 3 + [False] * (len(found) - 3)
    rehearsal.report(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert f"3 of {len(found)} damaged samples, the worst first. The gold answer is shown" in html
    assert html.count("<mark>") >= 3


def test_without_a_tokenizer_there_is_damage_but_no_text(tmp_path):
    family = FAMILIES["causal language model"]
    trainer = family.make_trainer(family.make_model(), family.make_rows(60, 2, "new"), tmp_path, max_steps=30)
    held_out = family.make_rows(60, 3, "prior")
    rehearsal = mixcd.attach(trainer, family.make_rows(60, 1, "prior"), mix_ratio=0.25, held_out=held_out)
    trainer.train()
    found = rehearsal.evaluate().damaged
    assert {(one.text, one.answer, one.now) for one in found} <= {("", (), None)}
    rehearsal.report(tmp_path / "report.html")


@pytest.mark.parametrize("name", ["sequence to sequence", "token classification"])
def test_other_models_of_tokens_show_what_they_say(name, tmp_path):
    family, tokenizer = FAMILIES[name], make_tokenizer()
    model = family.make_model()
    family.make_trainer(model, family.make_rows(300, 1, "prior"), tmp_path, max_steps=150).train()
    trainer = family.make_trainer(model, family.make_rows(60, 2, "new"), tmp_path, max_steps=40)
    trainer.processing_class = tokenizer
    if name == "sequence to sequence":
        trainer.data_collator = DataCollatorForSeq2Seq(tokenizer)
    held_out = family.make_rows(80, 3, "prior")
    rehearsal = mixcd.attach(trainer, family.make_rows(200, 1, "prior"), mix_ratio=0.25, held_out=held_out)
    trainer.train()
    found = rehearsal.evaluate().damaged
    assert found
    for one in found:
        row = held_out[one.sample_id]
        assert one.text == tokenizer.decode(row["input_ids"], skip_special_tokens=True)
        if name == "sequence to sequence":
            assert "".join(one.answer) == tokenizer.decode(row["labels"])
        else:
            words = tokenizer.convert_ids_to_tokens(row["input_ids"][:2])
            labels = [f"LABEL_{number}" for number in row["labels"][:2]]
            assert "".join(one.answer).split() == [f"{word}/{one}" for word, one in zip(words, labels, strict=True)]
            assert one.now.startswith("LABEL_")
