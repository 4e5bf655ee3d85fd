import numpy as np
import pytest
import torch

import tiny_sft
from mixcd.edge.compare.texts import read_gold, read_text
from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.matter.correctness import NearTarget, RightClass, RightLabels, RightSpan, RightTokens
from mixcd.run.outcome.sample_texts import TEXT_START

TOKENIZER = tiny_sft.make_tokenizer()
ADD, TAKE, EOS, THREE = 5, 6, 1, 10
CAUSAL, PAIR = RightTokens(is_shifted=True), RightTokens(is_shifted=False)


@pytest.mark.parametrize(
    ("row", "rule", "gold"),
    [
        ({"input_ids": [ADD, THREE, EOS], "labels": [-100, THREE, EOS]}, CAUSAL, "3"),
        ({"input_ids": [ADD], "labels": torch.tensor([THREE, THREE, -100])}, PAIR, "3 3"),
        ({"input_ids": [ADD], "labels": [-100]}, CAUSAL, ""),
        ({"input_ids": np.array([ADD, TAKE, THREE]), "start_positions": 1, "end_positions": 2}, RightSpan(), "take 3"),
        ({"input_ids": [EOS, TAKE], "start_positions": 0, "end_positions": 0}, RightSpan(), ""),
        ({"labels": [0.0, 1.0]}, RightLabels(), "awe"),
        ({"label": 2.5}, NearTarget(0.1), "2.5"),
        ({"labels": [1.0, -0.25]}, NearTarget(0.1), "1, -0.25"),
        ({"label": 1}, RightClass(), None),
        ({"x": 1}, CAUSAL, None),
        ({"x": 1}, RightSpan(), None),
        ([1, 2], CAUSAL, None),
    ],
)
def test_what_should_come_of_a_sample(row, rule, gold):
    assert read_gold(row, rule, TOKENIZER, ["joy", "awe"]) == gold


def test_tokens_are_spelled_by_a_tokenizer_alone_and_cut():
    row = {"input_ids": [ADD], "labels": [THREE] * TEXT_START}
    assert read_gold(row, CAUSAL, None, []) is None
    assert len(read_gold(row, CAUSAL, TOKENIZER, [])) == TEXT_START


@pytest.mark.parametrize(
    ("row", "rule", "text"),
    [
        ({"text": "a", "text_pair": "b", "source": "web"}, RightClass(), "a"),
        (
            {"question": "who", "context": "they " * 100, "id": "q" * 999},
            RightSpan(),
            f"who | {('they ' * 100)[:TEXT_START]}",
        ),
        ({"source": "one", "target": "two"}, PAIR, "one"),
        ({"prompt": "add", "completion": "a longer one"}, CAUSAL, "add"),
        ({"topic": "math", "input_ids": [ADD, THREE, THREE], "labels": [-100, -100, THREE]}, CAUSAL, "add 3"),
        ({"topic": "math", "input_ids": [ADD, THREE], "labels": [ADD, THREE]}, CAUSAL, "add 3"),
        ({"topic": "math", "input_ids": [ADD, THREE], "labels": [TAKE]}, PAIR, "add 3"),
        ({"input_ids": [ADD, THREE], "label": 1}, RightClass(), "add 3"),
        ([1, 2], CAUSAL, ""),
    ],
)
def test_what_a_sample_says(row, rule, text):
    assert read_text(row, ColumnsConfig(), rule, TOKENIZER) == text


def test_columns_of_other_names_are_read():
    row = {"tweet": "a", "reply": "b", "text": "c"}
    assert read_text(row, ColumnsConfig(text="tweet", text_pair="reply"), RightClass(), None) == "a | b"
