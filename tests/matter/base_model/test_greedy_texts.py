"""What a model writes by itself: prompts, gold answers, limits; the same alone and in a batch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from mixcd.matter.base_model.greedy_texts import ask, find_ends, require_generating, write_greedily
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.correctness import EachToken, RightClass
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import SettingError
from tiny_tasks import FAMILIES, WORDS, collate

CAUSAL, PAIRED = FAMILIES["causal language model"], FAMILIES["sequence to sequence"]
END = 2


def make_causal(**settings):
    torch.manual_seed(0)
    model = CAUSAL.make_model()
    model.generation_config = GenerationConfig(pad_token_id=0, **{"eos_token_id": END, **settings})
    return model


def inference_of(model, rows, *, is_shifted=True):
    return Inference(model, PriorDataset(rows), EachToken(is_shifted=is_shifted), collate, 3)


def row_of(tokens, labels):
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels}


@pytest.mark.parametrize(
    ("row", "prompt", "gold", "is_ended"),
    [
        (row_of([5, 6, 7, END], [-100, -100, 7, END]), [5, 6], [7], True),
        (row_of([5, 6, 7, 8], [-100, -100, 7, 8]), [5, 6], [7, 8], False),
        (row_of([5, 6, END, 7, 8], [-100, 6, END, 7, -100]), [5], [6], True),
        (row_of([5, 6, 7, 8, 9], [-100, 6, -100, 8, 9]), [5], [6], False),  # of two answers the first
        (row_of([3, 4, 5, 6, 7], [3, 4, 5, 6, 7]), [3, 4, 5], [6, 7], False),  # plain text: its first half
        (row_of([3, 4], [-100, -100]), [3, 4], [], False),
    ],
)
def test_a_prompt_is_what_stands_before_the_answer(row, prompt, gold, is_ended):
    (found,) = ask(inference_of(make_causal(), [row]), np.arange(1))
    assert (found.prompt.tolist(), found.gold.tolist(), found.is_ended) == (prompt, gold, is_ended)


def test_a_text_is_exact_if_it_ends_where_the_gold_answer_does():
    rows = [row_of([4, 5, 7, END], [-100, -100, 7, END]), row_of([4, 5, 7], [-100, -100, 7])]
    ended, open_ended = ask(inference_of(make_causal(), rows), np.arange(2))
    one, two = np.array([7]), np.array([7, 8])
    assert (ended.is_answered(one), ended.is_answered(two)) == (True, False)
    assert (open_ended.is_answered(one), open_ended.is_answered(two)) == (True, True)
    assert not open_ended.is_answered(np.array([], dtype=np.int64))


def test_as_much_is_written_as_twice_the_gold_answer_and_no_more_than_the_model_has_positions_for():
    long = row_of(list(range(3, 33)), [-100] * 5 + list(range(8, 33)))
    assert ask(inference_of(make_causal(), [long]), np.arange(1))[0].limit == 50
    short = row_of([5, 6, 7], [-100, -100, 7])
    assert ask(inference_of(make_causal(), [short]), np.arange(1))[0].limit == 32
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_positions=16, n_embd=8, n_layer=1, n_head=1, eos_token_id=END))
    inference = inference_of(gpt, [short, row_of(list(range(3, 18)), [-100] * 14 + [17])])
    questions = ask(inference, np.arange(2))
    assert [one.limit for one in questions] == [14, 2]
    assert all(text.size <= 14 for text in write_greedily(inference, np.arange(2), questions))


def test_a_text_is_the_likeliest_token_each_time_alone_and_beside_longer_prompts():
    model, rng = make_causal(eos_token_id=None), np.random.default_rng(0)
    rows = [row_of(tokens, [-100] * (len(tokens) - 1) + tokens[-1:]) for tokens in
            (rng.integers(3, WORDS, size).tolist() for size in (3, 9, 5, 4, 7))]  # fmt: skip
    inference = inference_of(model, rows)
    model.train()
    before = torch.get_rng_state()
    questions = ask(inference, np.arange(5))
    texts = write_greedily(inference, np.arange(5), questions)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    model.eval()
    for row, text in zip(rows, texts, strict=True):
        tokens = row["input_ids"][:-1]
        for _ in range(32):
            with torch.no_grad():
                tokens = [*tokens, int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())]
        assert text.tolist() == tokens[len(row["input_ids"]) - 1 :]


def test_a_model_that_says_how_to_write_otherwise_still_writes_greedily_and_keeps_its_settings():
    rows = [row_of([5, 6, 7], [-100, -100, 7])]
    plain = make_causal()
    asked = ask(inference_of(plain, rows), np.arange(1))
    expected = write_greedily(inference_of(plain, rows), np.arange(1), asked)[0]
    odd = {"do_sample": True, "num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 9.0, "min_length": 30}
    model = make_causal(**odd, temperature=0.1, max_length=4)
    stored = model.generation_config.to_dict()
    assert write_greedily(inference_of(model, rows), np.arange(1), asked)[0].tolist() == expected.tolist()
    assert model.generation_config.to_dict() == stored


def test_the_ends_of_a_text_are_those_of_the_generation_config():
    assert find_ends(make_causal(eos_token_id=[4, 9])) == (4, 9)
    assert find_ends(make_causal(eos_token_id=None)) == ()


def test_an_encoder_decoder_writes_what_it_gets_right_token_by_token(tmp_path):
    model = PAIRED.make_model()
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    rows = PAIRED.make_rows(300, 1, "prior")
    PAIRED.make_trainer(model, rows, tmp_path, max_steps=150).train()
    inference = inference_of(model, rows, is_shifted=False)
    questions = ask(inference, np.arange(300))
    assert [one.gold.tolist() for one in questions] == [row["labels"][:1] for row in rows]
    texts = write_greedily(inference, np.arange(300), questions)
    right = [one.is_answered(text) for one, text in zip(questions, texts, strict=True)]
    assert right == inference.predict_all()["correct"].tolist()
    assert 0.2 < np.mean(right) < 1


@pytest.mark.parametrize("name", ["classification", "token classification"])
def test_models_that_write_nothing_are_refused(name):
    family = FAMILIES[name]
    rule = RightClass() if name == "classification" else EachToken(is_shifted=False)
    inference = Inference(family.make_model(), PriorDataset(family.make_rows(3, 0, "prior")), rule, collate, 2)
    with pytest.raises(SettingError, match=r"`generate` lets the model write texts, but a `Bert.*Leave `generate` out"):
        require_generating(inference)


def test_a_causal_model_that_is_shown_images_too_is_refused():
    inference = inference_of(make_causal(), [row_of([5, 6], [-100, 6])])
    require_generating(inference)
    images = SimpleNamespace(**vars(inference))
    images.collate_fn = lambda rows: {**collate(rows), "pixel_values": torch.zeros(len(rows), 3)}
    with pytest.raises(SettingError, match="hold `pixel_values`, too"):
        require_generating(images)
