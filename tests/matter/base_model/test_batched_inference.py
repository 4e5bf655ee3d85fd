"""Batched inference holds few rows, and of a batch its results only, out of the way of the next one's logits."""

import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput, ImageClassifierOutput

from mixcd.matter.base_model.batched_inference import GROUP_ROWS, GROUP_TOKENS, count_bytes, read_groups
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_predictions import predict_prior
from mixcd.matter.correctness.right_tokens import RightTokens
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError
from tiny_tasks import SMALL
from tiny_tasks import collate as tiny_collate

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


# --- rows with images -----------------------------------------------------------------------------------------------


class Counted:
    """Rows of a prompt and an image, of which it is counted how many are alive."""

    def __init__(self, count, image_bytes):
        self.count, self.image_bytes, self.alive, self.most_alive = count, image_bytes, 0, 0

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        image = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1, self.image_bytes), (0, 0))  # takes no memory
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(image, self.forget)
        return {"input_ids": [1] * (1 + number % 3), "pixel_values": image}

    def forget(self):
        self.alive -= 1


@pytest.mark.parametrize("at_once", [False, True])
def test_rows_with_images_are_read_until_their_bytes_are_many(at_once):
    data = Counted(1500, 2**20)
    found = []
    for ids, rows in read_groups(PriorDataset(data), np.arange(1500), 16, at_once=at_once):
        assert len(rows) == min(2**8, 1500 - ids[0])
        found += ids.tolist()
        del rows
    assert found == list(range(1500))
    assert data.most_alive <= 2**8 + 16 + 1  # the group before is forgotten when the next one has begun


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("at_once", [False, True])
def test_rows_of_text_are_grouped_by_rows_and_tokens_alone(kind, at_once, monkeypatch):
    lengths = [1, 100, GROUP_TOKENS // 2, 3, GROUP_TOKENS, 7]
    data = PriorDataset([{"input_ids": kind([1] * length), "text": "word"} for length in lengths])

    def group():
        return [ids.tolist() for ids, _ in read_groups(data, np.arange(6), 1, at_once=at_once)]

    wanted = group()
    monkeypatch.setattr("mixcd.matter.base_model.batched_inference.GROUP_BYTES", 1)
    assert group() == wanted
    assert len(wanted) == (1 if at_once else 2)


PICTURE = Image.new("RGB", (10, 20))


@pytest.mark.parametrize(
    ("value", "byte_count"),
    [
        ([1, 2, 3], 0),
        ("a text", 0),
        (None, 0),
        (np.zeros(8), 0),
        (torch.zeros(3, 4, 5), 240),
        (np.zeros((3, 4), np.uint8), 12),
        ([[[0.5] * 4] * 3] * 2, 32 * 24),
        ([np.zeros((3, 4), np.uint8)] * 2, 24),
        (PICTURE, 600),
        ([PICTURE, PICTURE], 1200),
        ([{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "?"}]}], 600),
        ({"bytes": b"1234", "path": None}, 4),
        ([], 0),
        ([[]], 0),
    ],
)
def test_the_bytes_of_a_row_are_those_of_its_images(value, byte_count):
    assert count_bytes({"input_ids": [1] * 1000, "labels": [1] * 1000, "images": value}) == byte_count


def flatten_alone(rows):
    return DataCollatorWithFlattening()(rows)


def drop_mask(rows):
    return {name: values for name, values in tiny_collate(rows).items() if name != "attention_mask"}


def mask_pairs(rows):
    batch = tiny_collate(rows)
    seen = batch["attention_mask"].bool()[:, None, None, :] & torch.ones(batch["input_ids"].shape[1:]).bool()[:, None]
    return {**batch, "attention_mask": seen.tril()}


def number_samples(rows):
    batch = tiny_collate(rows)
    return {**batch, "attention_mask": 2 * batch["attention_mask"]}


@pytest.mark.parametrize("collate_fn", [flatten_alone, drop_mask, mask_pairs, number_samples])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_tokens_of_a_sample_are_its_own_whatever_its_batch_says_of_them(collate_fn, batch_size):
    """Plans mix and pack by them: a flattened row alone in its batch once counted as one token."""
    lengths = [3, 7, 2, 5, 4]
    rows = [{"input_ids": [5] * n, "attention_mask": [1] * n, "labels": [5] * n} for n in lengths]
    model = LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, use_cache=False))
    inference = Inference(model, PriorDataset(rows), RightTokens(is_shifted=True), collate_fn, batch_size)
    assert inference.predict_all()["token_count"].tolist() == lengths
