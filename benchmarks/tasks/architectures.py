"""The slow lane's tweets on other bodies than MiniLM's: a decoder, and an encoder-decoder.

    mixcd sweep benchmarks/sweeps/architectures.toml

The decoder is the first six layers of SmolLM2-135M-Instruct, with frozen embeddings, and the last token's state goes
to the head. The encoder-decoder is a T5 of two layers on each side, trained from scratch. The encoder of the
comparison is the slow lane itself.
"""

from functools import cache
from pathlib import Path
from typing import Any

import task_data
import torch
from chat import load_published
from slow_lane import TWEETS, Body, make_task
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.edge.demo.demo_data import find_minilm

LAYERS = 6
SCRATCH_RATE = 5e-4
"""The learning rate of the model that starts from nothing."""


def decoder(seed: int, folder: Path) -> SweepTask:
    """Sentiment of tweets, by six layers of SmolLM2."""
    return make_task(task_data.tweets(), TWEETS, seed, folder, SMOLLM2)


def encoder_decoder(seed: int, folder: Path) -> SweepTask:
    """Sentiment of tweets, by a small T5."""
    return make_task(task_data.tweets(), TWEETS, seed, folder, T5)


@cache
def _published() -> tuple[Any, Any]:
    return load_published()


def _load_tokenizer() -> Any:
    tokenizer = _published()[1]
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _make_smollm2(class_count: int) -> LlamaForSequenceClassification:
    whole, tokenizer = _published()
    choices = {"num_hidden_layers": LAYERS, "num_labels": class_count, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForSequenceClassification(LlamaConfig(**{**whole.config.to_dict(), **choices}))
    weights = {name: value for name, value in whole.model.state_dict().items() if name in model.model.state_dict()}
    model.model.load_state_dict(weights)
    return _freeze(model)


def _load_smollm2(folder: Path) -> LlamaForSequenceClassification:
    return _freeze(LlamaForSequenceClassification.from_pretrained(folder, dtype=torch.float32))


def _freeze(model: LlamaForSequenceClassification) -> LlamaForSequenceClassification:
    model.model.embed_tokens.requires_grad_(False)
    return model


def _make_t5(class_count: int) -> T5ForSequenceClassification:
    tokenizer = AutoTokenizer.from_pretrained(find_minilm())
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=256,
        d_ff=512,
        d_kv=64,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
        num_labels=class_count,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,  # each text ends with one
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForSequenceClassification(config)


SMOLLM2 = Body("decoder", _load_tokenizer, _make_smollm2, _load_smollm2)
T5 = Body(
    name="encoder-decoder",
    load_tokenizer=lambda: AutoTokenizer.from_pretrained(
        find_minilm(), model_input_names=["input_ids", "attention_mask"]
    ),
    make=_make_t5,
    load=T5ForSequenceClassification.from_pretrained,
)
