"""A user's folder: a base model, data in files, and a config, for tests of the command line."""

import copy
import csv
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tiny import WORDS, make_model, make_rows

LABELS = ("negative", "neutral", "positive")

CONFIG = """\
run = "run"

[model]
path = "base"

[new]
path = "new.csv"

[[prior]]
path = "prior.csv"

[rehearsal]
mix_ratio = 0.25
partition = ["loss:5", "column:topic"]

[training]
use_cpu = true
max_steps = 30
per_device_train_batch_size = 8
learning_rate = 5e-3
save_steps = 7
dataloader_pin_memory = false
"""


def make_workspace(folder: Path, base_weights, prior_count=600, new_count=240, dropout=0.1):
    """Write `base/`, `prior.csv`, `new.csv` and `config.toml` into a folder."""
    model = make_model(dropout=dropout)
    model.load_state_dict(base_weights)
    save_named(model, folder / "base")
    write_csv(folder / "prior.csv", make_rows(prior_count, seed=1, task="prior"))
    write_csv(folder / "new.csv", make_rows(new_count, seed=2, task="new"))
    (folder / "config.toml").write_text(CONFIG)


def save_named(model, folder, names=LABELS):
    """Save a model with its tokenizer, its labels under these names."""
    model = copy.deepcopy(model)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def make_tokenizer():
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, **{f"w{number}": number for number in range(3, WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )


def as_texts(rows):
    """The rows as a user would have them: texts, labels by name, a topic."""
    return [
        {
            "text": " ".join(f"w{token}" for token in row["input_ids"]),
            "label": LABELS[row["label"]],
            "topic": row["topic"],
        }
        for row in rows
    ]


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label", "topic"])
        writer.writeheader()
        writer.writerows(as_texts(rows))


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in as_texts(rows)), "utf-8")
