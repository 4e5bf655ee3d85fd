"""A toy classifier and toy data, so that the examples run anywhere; put your own in their place."""

import numpy as np
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification


def make_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=2, **sizes))


def make_rows(count, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 40, (count, 6))
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": (ids[:, 0] + seed) % 2}
    ).with_format("torch")


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
