"""A user's folder for each task beside classification: a tiny base model that knows the prior task, data, a config.

In each the prior task says a target by a rule of the input's words, and the new task by another rule on partly the same
inputs, so that fine-tuning damages some of what the base model knew.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

import tiny_sft
from mixcd.edge.config.config import read_config
from mixcd.edge.train.arguments import make_arguments
from mixcd.edge.train.setup import set_up
from tiny_tasks import SMALL, STILL, WORDS, shift_of, words

CONFIG = """\
run = "run"
task = "{task}"

[model]
path = "base"

[new]
path = "new.jsonl"

[[prior]]
path = "prior.jsonl"

[rehearsal]
mix_ratio = 0.25
partition = ["loss:3"]
{rehearsal}
[training]
use_cpu = true
max_steps = 20
per_device_train_batch_size = 8
learning_rate = 5e-3
save_steps = 7
dataloader_pin_memory = false
{training}"""


@dataclass(frozen=True)
class TaskWorkspace:
    """What a folder of one task is made of."""

    make_model: Callable[[], torch.nn.Module]
    make_tokenizer: Callable[[], PreTrainedTokenizerFast]
    make_rows: Callable[[int, int, str], list[dict[str, Any]]]
    rehearsal: str = ""
    training: str = ""
    base: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, task: str, base: Path):
        """Write `base/`, `prior.jsonl`, `new.jsonl` and `config.toml`, with the base model that `train_base` made."""
        shutil.copytree(base, folder / "base")
        self._write_data(folder, task)

    def train_base(self, folder: Path, task: str) -> Path:
        """Train the base model on the prior task, by what `mixcd train` would train with."""
        torch.manual_seed(0)
        self.make_model().save_pretrained(folder / "base")
        self.make_tokenizer().save_pretrained(folder / "base")
        self._write_data(folder, task)
        settings = {"max_steps": 300, "per_device_train_batch_size": 16, "save_strategy": "no", **self.base}
        changes = [f"training.{key}={json.dumps(value)}" for key, value in settings.items()]
        config = read_config(folder / "config.toml", [*changes, "new.path=prior.jsonl", "training.disable_tqdm=true"])
        trainer = set_up(config, make_arguments(config)).trainer
        trainer.train()
        trainer.model.save_pretrained(folder / "trained")
        self.make_tokenizer().save_pretrained(folder / "trained")
        return folder / "trained"

    def _write_data(self, folder, task):
        write_rows(folder / "prior.jsonl", self.make_rows(300, 1, "prior"))
        write_rows(folder / "new.jsonl", self.make_rows(120, 2, "new"))
        (folder / "config.toml").write_text(
            CONFIG.format(task=task, rehearsal=self.rehearsal, training=self.training), "utf-8"
        )


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def make_tokenizer(special, single, pair=None, **settings):
    tokens = {**{token: number for number, token in enumerate(special)}}
    tokens |= {f"w{number}": number + len(special) for number in range(WORDS - len(special))}
    backend = Tokenizer(models.WordLevel(tokens, unk_token=special[1]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    used = [(token, tokens[token]) for token in special if token in f"{single} {pair}"]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=special[0], unk_token=special[1], model_max_length=16, **settings
    )


def make_span_tokenizer():
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    return make_tokenizer(["[PAD]", "UNK", "[CLS]", "[SEP]"], single, pair)


def make_pair_tokenizer(**settings):
    return make_tokenizer(["<pad>", "unk", "</s>"], "$A </s>", eos_token="</s>", **settings)


def make_questions(count, seed, task):
    rng = np.random.default_rng(seed)
    return [make_question(words(rng, task, least=5), shift_of(rng, task)) for _ in range(count)]


def make_question(numbers, shift):
    """The answer is two words of the context, from a place that its first word says."""
    texts = [f"w{number}" for number in numbers]
    place = int(numbers[0] + shift) % 3
    answer, start = " ".join(texts[place : place + 2]), len(" ".join([*texts[:place], ""]))
    answers = {"text": [answer], "answer_start": [start]}
    return {"question": "w0", "context": " ".join(texts), "answers": answers, "topic": f"t{numbers[0] % 2}"}


def make_pairs(count, seed, task):
    rng = np.random.default_rng(seed)
    found = [(words(rng, task, least=1, most=2), shift_of(rng, task)) for _ in range(count)]
    return [
        {"source": " ".join(f"w{one}" for one in ids), "target": f"w{(ids[0] + shift) % (WORDS - 3)}"}
        for ids, shift in found
    ]


def make_chats(count, seed, task):
    del seed  # they follow from their number
    return tiny_sft.make_rows(count // 3, task, kind="chat completion").to_list()


def make_t5():
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=WORDS,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=1,
            num_heads=2,
            dropout_rate=0.1,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
    )


TASK_WORKSPACES = {
    "question-answering": TaskWorkspace(
        lambda: BertForQuestionAnswering(BertConfig(**SMALL, **STILL)), make_span_tokenizer, make_questions
    ),
    "sequence-to-sequence": TaskWorkspace(make_t5, make_pair_tokenizer, make_pairs, base={"max_steps": 400}),
    "text-generation": TaskWorkspace(
        tiny_sft.make_model,
        tiny_sft.make_tokenizer,
        make_chats,
        training="gradient_checkpointing = false\n",
        base={"max_steps": 120, "learning_rate": 1e-2},
    ),
}
