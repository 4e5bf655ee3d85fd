"""What models write by themselves, before fine-tuning and after: counted, cached, refused."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

import mixcd
from mixcd.matter.base_model.prediction_cache import TEXTS
from mixcd.run.outcome import generation
from mixcd.run.outcome.generation import (
    GenerationChange,
    ends_in_loop,
    generation_from_json,
    generation_to_json,
)
from mixcd.words.errors import CacheError, DataError, SettingError
from tiny import make_rows as make_class_rows
from tiny import make_trainer
from tiny_sft import make_model, make_rows, make_sft_trainer
from tiny_tasks import FAMILIES, collate

CHANGE = GenerationChange(200, 120, 100, 2, 30, 8.25, 15.5, 8.0)


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory):
    model, folder = make_model(), tmp_path_factory.mktemp("chat")
    make_sft_trainer(model, make_rows(200, "prior"), folder, max_steps=100, assistant_only_loss=True).train()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def attach(chat_base, tmp_path):
    def build(*, generate=30, held_out=None, **settings):
        model = make_model()
        model.load_state_dict(copy.deepcopy(chat_base))
        trainer = make_sft_trainer(
            model, make_rows(60, "new"), tmp_path / "run", max_steps=20, assistant_only_loss=True, **settings
        )
        held_out = make_rows(40, "prior") if held_out is None else held_out
        prior = make_rows(100, "prior")
        return trainer, mixcd.attach(trainer, prior, mix_ratio=0.25, held_out=held_out, generate=generate)

    return build


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), min_size=2, max_size=6), st.integers(3, 6))
def test_whatever_begins_a_text_a_phrase_three_times_at_its_end_is_a_loop(start, phrase, times):
    assert ends_in_loop(np.array(start + phrase * times, dtype=np.int64))


@pytest.mark.parametrize("text", [[], [1], [1] * 5, [1, 2, 1, 2], [1, 2, 1, 2, 1, 2, 3], list(range(40))])
def test_a_text_that_repeats_less_or_goes_on_is_no_loop(text):
    assert not ends_in_loop(np.array(text, dtype=np.int64))


def test_one_token_again_and_again_is_a_loop():
    assert ends_in_loop(np.array([5] * 6))


def test_a_change_reads_as_one_line_and_comes_back_from_json():
    assert str(CHANGE) == (
        "written greedily: exact match 0.600 → 0.500, 8.2 → 15.5 tokens (gold 8.0), 1.0% → 15.0% end in a loop, "
        "200 samples"
    )
    values = json.loads(json.dumps(generation_to_json(CHANGE)))
    assert (values["exact_share_before"], values["looping_share_after"]) == (0.6, 0.15)
    assert generation_from_json(values) == CHANGE


def test_what_is_exact_is_what_has_every_target_token_right(attach):
    trainer, rehearsal = attach(generate=100)
    trainer.train()
    found = rehearsal.evaluate(generate=True)
    written = found.generation["prior"]
    assert written.sample_count == 40  # all there are
    assert (written.exact_before, written.exact_after) == (
        found.prior.right_before,
        found.prior.right_before - found.prior.damaged_count + found.prior.gained_count,
    )
    assert written.length_gold == 2
    assert f"\n  {written}" in str(found)
    assert rehearsal.evaluate().generation == {}


def test_a_model_that_loops_is_seen_to(attach, tmp_path):
    trainer, rehearsal = attach()
    for weight in trainer.model.parameters():
        weight.data.zero_()  # it says its first token for ever
    found = rehearsal.evaluate(generate=True).generation["prior"]
    assert (found.looping_before, found.looping_after, found.exact_after) == (0, 30, 0)
    assert found.length_after == 32
    rehearsal.report(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "Written by itself</h2>" in html
    assert "three times in a row at its end" in html


def test_the_new_task_is_written_too_by_an_adapter(attach):
    from peft import LoraConfig

    trainer, rehearsal = attach(peft_config=LoraConfig(r=4), eval_dataset=make_rows(20, "new"))
    trainer.train()
    found = rehearsal.evaluate(generate=True).generation
    assert {task: one.sample_count for task, one in found.items()} == {"prior": 30, "new": 20}


def test_a_resumed_run_reads_what_the_base_model_wrote(attach, tmp_path, monkeypatch):
    _, first = attach()
    written = first._opened.held_out["prior"].texts
    with monkeypatch.context() as patch:
        patch.setattr(generation, "write_greedily", None)
        _, again = attach()
    read = again._opened.held_out["prior"].texts
    assert [one.tolist() for one in read.texts] == [one.tolist() for one in written.texts]
    _, fewer = attach(generate=10)
    assert len(fewer._opened.held_out["prior"].texts.texts) == 10


def test_texts_that_were_altered_are_refused(attach, tmp_path):
    attach()
    path = tmp_path / "run" / "_mixcd_cache" / "held_out_prior" / TEXTS
    path.write_text(path.read_text("utf-8").replace("[[", "[[1, ", 1), "utf-8")
    with pytest.raises(CacheError, match=r"texts.json` cannot be read: it was altered.*Restore the file"):
        attach()
    path.write_text("[]", "utf-8")
    with pytest.raises(CacheError, match=r"texts.json` cannot be read"):
        attach()


def test_training_is_the_same_whether_the_model_writes_or_not(attach, tmp_path):
    weights = []
    for generate in (None, 10):
        trainer, _ = attach(generate=generate)
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        assert value.equal(weights[1][name])


@pytest.mark.parametrize("generate", [0, -3, True, 2.5])
def test_a_number_that_makes_no_sense_is_refused(attach, generate):
    with pytest.raises(SettingError, match=r"`generate` is .*how many held-out samples of each task"):
        attach(generate=generate)


def test_what_was_not_asked_of_the_base_model_cannot_be_compared(attach):
    _, rehearsal = attach(generate=None)
    with pytest.raises(SettingError, match=r"the base model wrote.*Pass `generate=100`, say, to `attach`"):
        rehearsal.evaluate(generate=True)


def test_without_held_out_data_or_a_model_of_texts_nothing_is_written(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    with pytest.raises(SettingError, match="`generate` is 5, but no prior data are held out"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25, generate=5)
    held_out = make_class_rows(50, seed=7, task="prior")
    with pytest.raises(SettingError, match="a `BertForSequenceClassification` that is judged as"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=held_out, generate=5)


def test_samples_without_an_answer_are_refused(attach, monkeypatch):
    asked = generation.ask
    monkeypatch.setattr(
        generation, "ask", lambda *given: [one.__class__(one.prompt, one.gold[:0], False, 1) for one in asked(*given)]
    )
    with pytest.raises(DataError, match="`held_out` has no answer that the model could be asked to write"):
        attach()


def test_a_loop_of_ones_own_and_an_encoder_decoder_write_too(tmp_path):
    family = FAMILIES["sequence to sequence"]
    model = family.make_model()
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    family.make_trainer(model, family.make_rows(300, 1, "prior"), tmp_path, max_steps=150).train()
    trainer = family.make_trainer(model, family.make_rows(60, 2, "new"), tmp_path, max_steps=30)
    held_out = family.make_rows(60, 3, "prior")
    rehearsal = mixcd.attach(trainer, family.make_rows(100, 1, "prior"), mix_ratio=0.25, held_out=held_out, generate=60)
    trainer.train()
    found = rehearsal.evaluate(generate=True)
    assert found.generation["prior"].exact_before == found.prior.right_before > 0
    by_hand = mixcd.rehearse(
        model,
        family.make_rows(60, 2, "new"),
        family.make_rows(100, 1, "prior"),
        tmp_path / "cache",
        mix_ratio=0.25,
        batch_size=8,
        collate_fn=collate,
        held_out=held_out,
        generate=5,
    )
    again = by_hand.evaluate(generate=True).generation["prior"]
    assert again.sample_count == 5
    assert again.exact_before == again.exact_after
