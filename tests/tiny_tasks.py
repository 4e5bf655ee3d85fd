"""A tiny task, model and collator of every family that rehearsal follows, for tests that drive the real trainers.

In each the prior task says a target by a rule of the input's tokens (or of an image's brightness), and the new task by
another rule on partly the same inputs, so that fine-tuning damages some of what the base model knew.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from device import USE_CPU
from mixcd.matter.correctness import EachToken, NearTarget, RightClass, RightLabels, RightSpan, RightTokens

WORDS = 40
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": WORDS,
    "max_position_embeddings": 16,
}
IMAGE_TOKEN, PATCHES = WORDS - 1, 4
"""The token in the place of a part of an image, and the parts of one."""
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Family:
    """What a test needs to drive one family."""

    make_model: Callable[[], torch.nn.Module]
    make_row: Callable[[np.random.Generator, str], dict[str, Any]]
    rule: Any
    correctness: Any = None
    trainer_class: type[Trainer] = Trainer
    arguments_class: type[TrainingArguments] = TrainingArguments
    label_names: tuple[str, ...] = ("labels",)
    base_steps: int = 250

    def make_rows(self, count, seed, task):
        rng = np.random.default_rng(seed)
        return Dataset.from_list([self.make_row(rng, task) for _ in range(count)])

    def make_trainer(self, model, data, folder, *, eval_dataset=None, **settings):
        arguments = self.arguments_class(
            **{
                "output_dir": str(folder),
                "per_device_train_batch_size": 8,
                "per_device_eval_batch_size": 32,
                "max_steps": 10,
                "learning_rate": 5e-3,
                "logging_strategy": "no",
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "use_cpu": USE_CPU,
                "dataloader_pin_memory": False,
                "label_names": list(self.label_names),
                **settings,
            }
        )
        return self.trainer_class(
            model=model, args=arguments, train_dataset=data, eval_dataset=eval_dataset, data_collator=collate
        )

    def train_base(self, folder):
        torch.manual_seed(0)
        model = self.make_model()
        self.make_trainer(model, self.make_rows(600, 1, "prior"), folder, max_steps=self.base_steps).train()
        return {name: value.clone() for name, value in model.state_dict().items()}


def collate(rows):
    """Pad tokens with 0 and token labels with −100; of choices, pad each."""
    fill = {"labels": -100}
    rows = [{"labels" if name == "label" else name: value for name, value in row.items()} for row in rows]
    batch = {}
    if np.ndim(rows[0].get("input_ids", [0])[0]):
        names, count = ("input_ids", "attention_mask"), len(rows[0]["input_ids"])
        flat = collate([{name: row[name][choice] for name in names} for row in rows for choice in range(count)])
        rows = [{name: value for name, value in row.items() if name not in names} for row in rows]
        batch = {name: value.view(len(rows), count, -1) for name, value in flat.items()}
    for name in rows[0]:
        values = [np.asarray(row[name]) for row in rows]
        longest = max(value.shape[0] if value.ndim else 0 for value in values)
        if values[0].ndim == 1:
            values = [np.pad(one, (0, longest - len(one)), constant_values=fill.get(name, 0)) for one in values]
        batch[name] = torch.as_tensor(np.stack(values))
        if batch[name].is_floating_point():
            batch[name] = batch[name].float()
    return batch


def words(rng, task, least=3, most=6):
    """Prior tokens are 3 to 22, new ones 13 to 32; every tenth row is noise."""
    low, high = (3, 23) if task == "prior" else (13, 33)
    return rng.integers(low, high, rng.integers(least, most + 1))


def with_mask(ids, **more):
    return {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), **more}


def shift_of(rng, task):
    """How the target follows from the input: other in the new task; in every tenth row arbitrary."""
    return int(rng.integers(1, 9)) if rng.random() < 0.1 else {"prior": 1, "new": 2}[task]


def label_row(rng, task):
    ids = words(rng, task)
    return with_mask(ids, labels=int(ids[0] + shift_of(rng, task)) % 3)


def label_set_row(rng, task):
    ids = words(rng, task)
    shift = shift_of(rng, task)
    return with_mask(ids, labels=[float((ids[0] + shift) % 2), float((ids[0] + shift) % 3 == 0)])


def number_row(rng, task):
    ids = words(rng, task)
    return with_mask(ids, labels=float((ids[0] + shift_of(rng, task)) % 3))


def span_row(rng, task):
    ids = words(rng, task, least=5)
    where = int(ids[0] + shift_of(rng, task)) % 3
    return with_mask(ids, start_positions=where, end_positions=where + 1)


def causal_row(rng, task):
    prompt = words(rng, task, least=1, most=3)
    answer = (prompt[-1] + shift_of(rng, task) * np.arange(1, 3)) % (WORDS - 3) + 3
    return with_mask(np.append(prompt, answer), labels=[-100] * len(prompt) + answer.tolist())


def pair_row(rng, task):
    ids = words(rng, task, least=1, most=2)
    return with_mask(ids, labels=[int((ids[0] + shift_of(rng, task)) % (WORDS - 3) + 3), 1])


def choice_row(rng, task):
    """Three endings of one beginning; the right one starts with a token that follows from it."""
    ids = words(rng, task, least=2, most=4)
    right = (ids[-1] + shift_of(rng, task)) % (WORDS - 3) + 3
    wrong = rng.choice(np.setdiff1d(np.arange(3, WORDS), right), 2, replace=False)
    label = int(rng.integers(3))
    choices = [np.append(ids, [first] * int(rng.integers(1, 3))) for first in np.insert(wrong, label, right)]
    return {
        "input_ids": [one.tolist() for one in choices],
        "attention_mask": [[1] * len(one) for one in choices],
        "label": label,
    }


def tag_row(rng, task):
    """A class for the first two tokens; the others have none, like the rest of a word in pieces."""
    ids = words(rng, task)
    tags = (ids[:2] + shift_of(rng, task)) % 3
    return with_mask(ids, labels=tags.tolist() + [-100] * (len(ids) - 2))


def image_row(rng, task):
    brightness = rng.integers(0, 3)
    label = int(brightness if task == "prior" else (brightness + 1) % 3)
    if rng.random() < 0.1:
        label = int(rng.integers(0, 3))
    image = rng.normal(brightness - 1.0, 0.3, (3, 8, 8))
    return {"pixel_values": image.tolist(), "labels": label}


def seen_row(rng, task):
    """An image, a prompt, and two tokens that say how bright the image is."""
    brightness = int(rng.integers(0, 3))
    said = (brightness + shift_of(rng, task)) % 3 + np.array([3, 6])
    prompt = [IMAGE_TOKEN] * PATCHES + rng.integers(10, 30, rng.integers(1, 4)).tolist()
    image = rng.normal(brightness - 1.0, 0.3, (3, 8, 8))
    labels = [-100] * len(prompt) + said.tolist()
    return with_mask(np.append(prompt, said), pixel_values=[image.tolist()], labels=labels)


def bert(kind, **more):
    return kind(BertConfig(**SMALL, **STILL, **more))


def make_idefics():
    sight = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            vision_config={**sight, "image_size": 8, "patch_size": 4},
            text_config=LlamaConfig(**SMALL, num_key_value_heads=2),
            image_token_id=IMAGE_TOKEN,
            scale_factor=1,
        )
    )


FAMILIES = {
    "classification": Family(lambda: bert(BertForSequenceClassification, num_labels=3), label_row, RightClass()),
    "multi-label": Family(
        lambda: bert(BertForSequenceClassification, num_labels=2, problem_type="multi_label_classification"),
        label_set_row,
        RightLabels(),
    ),
    "regression": Family(
        lambda: bert(BertForSequenceClassification, num_labels=1),
        number_row,
        NearTarget(0.5),
        correctness=NearTarget(0.5),
    ),
    "question answering": Family(
        lambda: bert(BertForQuestionAnswering),
        span_row,
        RightSpan(),
        label_names=("start_positions", "end_positions"),
    ),
    "multiple choice": Family(lambda: bert(BertForMultipleChoice), choice_row, RightClass(), base_steps=400),
    "token classification": Family(
        lambda: bert(BertForTokenClassification, num_labels=3),
        tag_row,
        EachToken(is_shifted=False),
    ),
    "causal language model": Family(
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2)), causal_row, EachToken(is_shifted=True)
    ),
    "sequence to sequence": Family(
        lambda: T5ForConditionalGeneration(
            T5Config(
                vocab_size=WORDS,
                d_model=32,
                d_kv=16,
                d_ff=64,
                num_layers=1,
                num_heads=2,
                dropout_rate=0.0,
                decoder_start_token_id=0,
            )
        ),
        pair_row,
        EachToken(is_shifted=False),
        trainer_class=Seq2SeqTrainer,
        arguments_class=Seq2SeqTrainingArguments,
        base_steps=400,
    ),
    "images": Family(
        lambda: ViTForImageClassification(
            ViTConfig(
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                image_size=8,
                patch_size=4,
                num_labels=3,
                **STILL,
            )
        ),
        image_row,
        RightClass(),
    ),
    "images and text": Family(make_idefics, seen_row, EachToken(is_shifted=True)),
}
WHOLE_SAMPLES = {
    f"{name}, whole samples": replace(
        FAMILIES[name], rule=RightTokens(is_shifted=FAMILIES[name].rule.is_shifted), correctness=RightTokens()
    )
    for name in ("token classification", "causal language model", "sequence to sequence")
}
"""The families of language models, judged by whole samples."""
