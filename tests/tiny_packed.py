"""Texts of mixed lengths, and a `trl.SFTTrainer` that packs them."""

import numpy as np
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from tiny_sft import WORDS, make_model, make_sft_trainer

MAX_LENGTH = 32


def make_texts(count, seed):
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(1.5, 1, count), 2, MAX_LENGTH - 1).astype(int)
    return Dataset.from_list([{"text": " ".join(rng.choice(WORDS[5:], length))} for length in lengths])


def make_absolute(positions):
    config = GPT2Config(
        vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=positions, bos_token_id=1, eos_token_id=1
    )
    return GPT2LMHeadModel(config)


def make_packing_trainer(folder, *, attention="sdpa", positions=None, long_first=False, **settings):
    model = make_model() if positions is None else make_absolute(positions)
    model.set_attn_implementation(attention)
    texts = make_texts(300, seed=0)
    if long_first:
        texts = Dataset.from_list([{"text": " ".join(["add"] * (MAX_LENGTH - 1))}, *texts])
    defaults = {"packing": True, "packing_strategy": "bfd", "max_length": MAX_LENGTH, "per_device_train_batch_size": 4}
    return make_sft_trainer(model, texts, folder, **{**defaults, **settings})
