"""The tokens of samples: prompts, targets, and what a model predicts at one of them instead."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForTokenClassification,
    DataCollatorWithFlattening,
    LlamaConfig,
    LlamaForCausalLM,
)

from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.sample_tokens import predict_wrong, read_samples
from mixcd.matter.correctness import EachToken
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from tiny_tasks import SMALL, WORDS, collate

ROWS = [
    {"input_ids": [5, 6, 7, 8], "attention_mask": [1] * 4, "labels": [-100, -100, 7, 8]},
    {"input_ids": [9, 10], "attention_mask": [1] * 2, "labels": [9, 10]},
    {"input_ids": [3, 4, 5, 6, 7, 8], "attention_mask": [1] * 6, "labels": [-100, 4, -100, 6, 7, 8]},
]


def make_causal():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, use_cache=False))


def pad_left(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    padding = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: torch.tensor([[value] * (longest - len(row[name])) + row[name] for row in rows])
        for name, value in padding.items()
    }


def inference_of(model, rows, collate_fn=collate, **rule):
    return Inference(model, PriorDataset(rows), EachToken(**rule), collate_fn, 2)


@pytest.mark.parametrize("collate_fn", [collate, DataCollatorWithFlattening()])
def test_what_a_causal_model_is_given_ends_before_the_first_token_that_it_predicts(collate_fn):
    inference = inference_of(make_causal(), ROWS, collate_fn, is_shifted=True)
    found = read_samples(inference, np.array([2, 0, 1]))
    assert [one.inputs.tolist() for one in found] == [ROWS[number]["input_ids"] for number in (2, 0, 1)]
    assert [one.prompt.tolist() for one in found] == [[3], [5, 6], [9]]
    assert [one.targets.tolist() for one in found] == [[4, 6, 7, 8], [7, 8], [10]]
    assert [one.places.tolist() for one in found] == [[1, 3, 4, 5], [2, 3], [1]]


@pytest.mark.parametrize("collate_fn", [collate, DataCollatorWithFlattening()])
def test_the_targets_are_those_that_the_rule_judges(collate_fn):
    inference = inference_of(make_causal(), ROWS, collate_fn, is_shifted=True)
    judged = inference.predict_all()["right_tokens"]
    assert [one.targets.size for one in read_samples(inference, np.arange(3))] == [one.size for one in judged]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_padding_on_the_left_predicts_no_token(batch_size):
    """A sample's first token would be a target beside a longer sample, and none beside a shorter one."""
    inference = replace(inference_of(make_causal(), ROWS, pad_left, is_shifted=True), batch_size=batch_size)
    assert [one.size for one in inference.predict_all()["right_tokens"]] == [2, 1, 4]
    assert [one.targets.tolist() for one in read_samples(inference, np.arange(3))] == [[7, 8], [10], [4, 6, 7, 8]]


@pytest.mark.parametrize("collate_fn", [collate, DataCollatorWithFlattening()])
def test_what_is_predicted_is_the_likeliest_token_but_the_true_one(collate_fn):
    model = make_causal()
    found = predict_wrong(inference_of(model, ROWS, collate_fn, is_shifted=True), np.arange(3), np.array([1, 0, 2]))
    for row, sample, number in zip(ROWS, found, (1, 0, 2), strict=True):
        place = sample.places[number]
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0, place - 1]
        logits[sample.targets[number]] = -torch.inf
        assert sample.rival == int(logits.argmax())


def test_an_encoder_decoder_is_given_all_of_its_input():
    torch.manual_seed(0)
    small = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    model = BartForConditionalGeneration(BartConfig(vocab_size=WORDS, max_position_embeddings=16, **small, **heads))
    rows = [{"input_ids": [5, 6, 7], "attention_mask": [1] * 3, "labels": [9, 2]}, {**ROWS[0], "labels": [4, 5, 6, 2]}]
    found = predict_wrong(inference_of(model, rows, is_shifted=False), np.arange(2), np.array([1, 3]))
    assert [one.prompt.tolist() for one in found] == [[5, 6, 7], [5, 6, 7, 8]]
    assert [one.targets.tolist() for one in found] == [[9, 2], [4, 5, 6, 2]]
    assert [one.places.tolist() for one in found] == [[0, 1], [0, 1, 2, 3]]
    assert all(one.rival not in (None, 2) for one in found)


def test_classes_of_tokens_stand_at_their_tokens():
    model = BertForTokenClassification(BertConfig(**SMALL, num_labels=3))
    rows = [{"input_ids": [5, 6, 7], "attention_mask": [1] * 3, "labels": [-100, 2, 0]}]
    (found,) = predict_wrong(inference_of(model, rows, is_shifted=False), np.arange(1), np.array([0]))
    assert found.inputs[found.places].tolist() == [6, 7]
    assert found.targets.tolist() == [2, 0]
    assert found.rival in (0, 1)


def test_no_samples_are_no_pass():
    assert predict_wrong(inference_of(make_causal(), ROWS, is_shifted=True), np.arange(0), np.arange(0)) == []
