"""Batched inference holds few rows, and of a batch its results only, out of the way of the next one's logits."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_outputs import CausalLMOutput, ImageClassifierOutput

from mixcd.matter.base_model.batched_inference import GROUP_ROWS, GROUP_TOKENS, read_groups
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_predictions import predict_prior
from mixcd.matter.correctness.right_tokens import RightTokens
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError

STATUS, FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROWS, TOKENS, VOCABULARY, BATCH_SIZE = 1600, 32, 8000, 8  # 8 MiB of logits a batch, which glibc takes from the heap


class Guess(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids):
        return CausalLMOutput(logits=torch.randn(*input_ids.shape, VOCABULARY) + self.bias)


def read_mebibytes(name):
    return int(re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text("ascii"))[1]) / 1024


@pytest.mark.skipif(not FORGET_PEAK.exists(), reason="the system does not tell a process's peak of memory")
def test_memory_does_not_grow_from_batch_to_batch():
    rows = [{"input_ids": [1] * TOKENS, "labels": [1] * TOKENS}] * ROWS
    FORGET_PEAK.write_text("5", "ascii")
    before = read_mebibytes("VmRSS")
    inference = Inference(Guess(), PriorDataset(rows), RightTokens(is_shifted=True), collate_all, BATCH_SIZE)
    found, forward_count = inference.predict(np.arange(ROWS), at_once=True)
    grown = read_mebibytes("VmHWM") - before
    assert (found["loss"].shape, forward_count) == ((ROWS,), ROWS // BATCH_SIZE)
    assert grown < 120, f"{grown:.0f} MiB"  # 50 are the logits of a batch, their sum, and what is made of them


@given(
    lengths=st.lists(st.sampled_from([1, 100, GROUP_TOKENS // 7]), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
)
def test_groups_are_all_rows_in_order_and_end_soon_after_the_bound_of_tokens(lengths, batch_size):
    data = PriorDataset([{"input_ids": range(length)} for length in lengths])
    groups = list(read_groups(data, np.arange(len(lengths)), batch_size))
    assert np.concatenate([ids for ids, _ in groups]).tolist() == list(range(len(lengths)))
    for position, (ids, rows) in enumerate(groups):
        tokens = [len(row["input_ids"]) for row in rows]
        assert tokens == [lengths[number] for number in ids]
        assert sum(tokens[: (len(ids) - 1) // batch_size * batch_size]) < GROUP_TOKENS
        if position < len(groups) - 1:
            assert sum(tokens) >= GROUP_TOKENS


@pytest.mark.parametrize("batch_size", [1, 1000, GROUP_ROWS, GROUP_ROWS + 1])
def test_a_group_of_short_rows_is_at_most_the_rows_that_are_sorted_together(batch_size):
    data = PriorDataset([{"input_ids": [1]}] * (GROUP_ROWS + 1))
    sizes = [len(rows) for _, rows in read_groups(data, np.arange(GROUP_ROWS + 1), batch_size)]
    assert sum(sizes) == GROUP_ROWS + 1
    assert sizes[0] == max(GROUP_ROWS // batch_size, 1) * batch_size


def test_a_group_of_rows_without_tokens_is_one_batch():
    data = PriorDataset([{"pixel_values": [0.0]}] * 20)
    assert [ids.tolist() for ids, _ in read_groups(data, np.arange(20), 8)] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
    ]


def test_a_prior_pass_over_images_reads_few_at_once(tmp_path):
    asked = []

    class Images:
        def __len__(self):
            return 100

        def __getitem__(self, number):
            return {"pixel_values": torch.full((2,), float(number)), "labels": torch.tensor(number % 2)}

        def __getitems__(self, numbers):
            asked.append(len(numbers))
            return [self[number] for number in numbers]

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(2, 2)

        def forward(self, pixel_values, labels=None):
            return ImageClassifierOutput(loss=None, logits=self.head(pixel_values))

    found = predict_prior(
        Classifier(),
        Images(),
        tmp_path / "cache",
        collate_fn=lambda part: {name: torch.stack([row[name] for row in part]) for name in part[0]},
        tokenizer=None,
        batch_size=8,
        columns=["labels"],
        progress=False,
        least_share_right=0.0,
        features=2,
    )
    assert max(asked) <= 32
    assert found.forward_count == 2 * 13  # to fit the features, and to predict
    assert found.columns["labels"].tolist() == [number % 2 for number in range(100)]
    assert (found.correct == (found.prediction == found.columns["labels"])).all()


class Picky(torch.nn.Module):
    def __init__(self, error):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.error = error

    def forward(self, input_ids, labels):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("No padding\ntoken is defined."), RuntimeError(), KeyError("mask")])
def test_what_a_model_refuses_is_told_in_one_line(error):
    rows = [{"input_ids": [1, 2], "labels": [1, 2]}] * 2
    with pytest.raises(DataError, match=r"The model refuses a batch of 2 sample\(s\): .*\. Prepare") as told:
        Inference(Picky(error), PriorDataset(rows), RightTokens(), collate_all, 2).predict_all()
    assert told.value.__cause__ is error


def test_a_lack_of_memory_is_not_blamed_on_the_rows():
    with pytest.raises(torch.OutOfMemoryError):
        Inference(
            Picky(torch.OutOfMemoryError("full")),
            PriorDataset([{"input_ids": [1], "labels": [1]}]),
            RightTokens(),
            collate_all,
            2,
        ).predict_all()


def collate_all(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
