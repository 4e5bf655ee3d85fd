"""Every trainer and task that mixcd says it follows, as the conformance suite wants them made."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import DataCollatorWithFlattening

import mixcd
from kernel_losses import HIDDEN
from tiny_packed import make_packing_trainer, make_texts
from tiny_sft import make_model as make_chat_model
from tiny_sft import make_rows as make_chats
from tiny_sft import make_sft_trainer
from tiny_tasks import FAMILIES

LORA = LoraConfig(target_modules="all-linear", r=2)
DORA = LoraConfig(target_modules=["query", "value"], r=2, use_dora=True)
IA3 = IA3Config(task_type="SEQ_CLS", target_modules=["query", "value"], feedforward_modules=[])
PREFIX = PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)


@cache
def _train_base(name):
    with TemporaryDirectory() as folder:
        return FAMILIES[name].train_base(Path(folder))


def _family(name, adapter=None, hidden=None, *, shards=0, **settings):
    """A family's trainer; `hidden` names a model in its place that shows no logits in training.

    Its new data are a stream of some shards where these are given.
    """
    family = FAMILIES[name]

    def make_trainer(folder, changes):
        weights = _train_base(name)
        model = family.make_model()
        model = model if hidden is None else HIDDEN[hidden](model.config)
        model.load_state_dict(weights)
        torch.manual_seed(0)  # an adapter's weights are random
        if adapter is not None:
            model = get_peft_model(model, deepcopy(adapter))  # which PEFT writes to
        data, held_out = family.make_rows(60, 2, "new"), family.make_rows(20, 5, "new")
        new = data.to_iterable_dataset(num_shards=shards).repeat(2) if shards else data
        return family.make_trainer(model, new, folder, eval_dataset=held_out, **settings, **changes)

    return make_trainer, lambda: family.make_rows(100, 3, "prior"), family.correctness


def _hidden(name, adapter=None, **settings):
    return _family("causal language model", adapter, name, **settings)


def _joined():
    """Rows that `DataCollatorWithFlattening` joins, in a trainer that is not TRL's."""
    make_trainer, make_prior, correctness = _family("causal language model")
    columns = ["input_ids", "labels"]

    def make_joining(folder, changes):
        trainer = make_trainer(folder, changes)
        trainer.data_collator = DataCollatorWithFlattening()
        trainer.train_dataset = trainer.train_dataset.select_columns(columns)
        trainer.eval_dataset = trainer.eval_dataset.select_columns(columns)
        return trainer

    return make_joining, lambda: make_prior().select_columns(columns), correctness


def _sft(kind="chat", *, shards=0, **settings):
    lora = settings.pop("lora", False)

    def make_trainer(folder, changes):
        more = {"eval_dataset": make_chats(20, "new", kind=kind)}
        if lora:
            more["peft_config"] = LoraConfig(target_modules=["q_proj", "v_proj"], r=2)
        data = make_chats(60, "new", kind=kind)
        data = data.to_iterable_dataset(num_shards=shards).repeat(2) if shards else data
        return make_sft_trainer(make_chat_model(), data, folder, **more, **settings, **changes)

    rule = mixcd.RightTokens(loss_tolerance=1.0)
    return make_trainer, lambda: make_chats(100, "prior", kind=kind), rule


def _packed(**settings):
    def make_trainer(folder, changes):
        return make_packing_trainer(folder, eval_dataset=make_texts(20, seed=4), **settings, **changes)

    return make_trainer, lambda: make_texts(100, seed=1), None


TRAINERS = {
    **{f"{FAMILIES[name].trainer_class.__name__}, {name}": lambda name=name: _family(name) for name in FAMILIES},
    "Trainer, classification, LoRA": lambda: _family("classification", LORA),
    "Trainer, causal language model, LoRA": lambda: _family("causal language model", LORA),
    "Seq2SeqTrainer, sequence to sequence, LoRA": lambda: _family("sequence to sequence", LORA),
    "Trainer, classification, DoRA": lambda: _family("classification", DORA),
    "Trainer, classification, IA3": lambda: _family("classification", IA3),
    "Trainer, classification, prefix tuning": lambda: _family("classification", PREFIX),
    "Trainer, classification, label smoothing": lambda: _family("classification", label_smoothing_factor=0.1),
    "Trainer, causal language model, joined rows": _joined,
    "Trainer, causal language model, loss without logits": lambda: _hidden("no logits"),
    "Trainer, causal language model, loss without logits, LoRA": lambda: _hidden("no logits", LORA),
    "Trainer, causal language model, loss without logits, gradient checkpointing": lambda: _hidden(
        "no logits", gradient_checkpointing=True
    ),
    "Trainer, causal language model, empty logits": lambda: _hidden("empty logits"),
    "Trainer, causal language model, `logits_to_keep`": lambda: _hidden("the last logits"),
    "SFTTrainer, conversations, assistant-only loss": lambda: _sft(assistant_only_loss=True),
    "SFTTrainer, conversations, LoRA": lambda: _sft(assistant_only_loss=True, lora=True),
    "SFTTrainer, prompts and completions": lambda: _sft("completion"),
    "SFTTrainer, text": lambda: _sft("text"),
    "SFTTrainer, padding-free": lambda: _sft(assistant_only_loss=True, padding_free=True, max_length=None),
    "SFTTrainer, packing": _packed,
    "SFTTrainer, wrapped packing": lambda: _packed(packing_strategy="wrapped"),
    "Trainer, classification, a stream": lambda: _family("classification", shards=3),
    "Seq2SeqTrainer, sequence to sequence, a stream": lambda: _family("sequence to sequence", shards=3),
    "SFTTrainer, conversations, a stream": lambda: _sft(assistant_only_loss=True, shards=3),
    "SFTTrainer, gradient checkpointing": lambda: _sft(assistant_only_loss=True, gradient_checkpointing=True),
}

KNOWN_FAULTS = {
    ("Trainer, images", "an interrupted run goes on as if it had not been"): (
        "`transformers.Trainer` saves ViT's weights under other names than it looks for on resuming, and goes on with "
        "the base model's, with rehearsal or without (`tests/test_canaries.py`)"
    ),
}
"""What does not hold, though not by our doing."""
