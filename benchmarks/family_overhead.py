"""Time of a step and peak memory with mix-cd, for the tasks beside classification, against the same trainer without.

Each family is a small, randomly initialised model with synthetic rows of one length; both runs train on as many rows a
step, the plain one on new and prior data put together. Steps are timed in lockstep, as in `step_overhead.py`. Peak
memory is that of processes of their own, one for each run. Prior rows are labelled as the base model predicts, but for
a quarter: only what it had right can be damaged.

    python benchmarks/family_overhead.py
    python benchmarks/family_overhead.py --families chat joined packed --pairs 30
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from trl import SFTConfig, SFTTrainer

import mixcd
from lockstep import train_in_lockstep
from mixcd.run.rehearsal_loop.estimator_choice import estimator_names
from side_by_side import Spread, describe_machine, make_parser, publish, read_status, say_machine

MIX_RATIO = 0.25
BATCH_SIZE = 16
NEW_COUNT, PRIOR_COUNT = 600, 1000
VOCABULARY_SIZE = 8000
PROMPT, ANSWER = 48, 16
"""Tokens."""
ROWS_AT_ONCE = 2
"""Rows whose logits a loss that shows none makes together."""
KNOWN_SHARE = 0.75
LABELLED_AT_ONCE = 8
RESAMPLES = 10_000
FIRST_STEP = 5
"""Steps of each run that are start-up, and not counted."""
SEED = 0
MEBIBYTE = 1024

Rows = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One task and its trainer.

    Args:
        make_model: Makes the model.
        make_rows: Makes as many rows as asked for.
        label: Labels rows as the model predicts.
        make_trainer: Makes the trainer of a model, rows and common arguments.
    """

    make_model: Callable[[], Any]
    make_rows: Callable[[np.random.Generator, int], Rows]
    label: Callable[[Any, Rows], Rows]
    make_trainer: Callable[[Any, Dataset, Mapping[str, Any]], Trainer]


def _plain(model: Any, rows: Dataset, arguments: Mapping[str, Any]) -> Trainer:
    return Trainer(model=model, args=TrainingArguments(**arguments), train_dataset=rows)


def _paired(model: Any, rows: Dataset, arguments: Mapping[str, Any]) -> Trainer:
    return Seq2SeqTrainer(model=model, args=Seq2SeqTrainingArguments(**arguments), train_dataset=rows)


def _chat(
    model: Any, rows: Dataset, arguments: Mapping[str, Any], changes: Mapping[str, Any] = MappingProxyType({})
) -> Trainer:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")  # noqa: S106
    args = SFTConfig(**{**arguments, **changes})
    return SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)


def _llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


class _HiddenLoss(LlamaForCausalLM):
    """Computes its loss in training from some rows' logits at a time, and shows none, as kernels for GPUs do."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **more: Any) -> Any:
        """Compute the loss of the labels; return logits where there are none."""
        if labels is None:
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **more)
        count = more.pop("num_items_in_batch", None)
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
        targets = functional.pad(labels, (0, 1), value=-100)[:, 1:]
        losses = [
            checkpoint(self._sum_up, *rows, use_reentrant=False)
            for rows in zip(states.split(ROWS_AT_ONCE), targets.split(ROWS_AT_ONCE), strict=True)
        ]
        return CausalLMOutputWithPast(loss=sum(losses) / ((targets != -100).sum() if count is None else count))

    def _sum_up(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = states.flatten(0, 1) @ self.lm_head.weight.T
        return functional.cross_entropy(logits, targets.flatten(), ignore_index=-100, reduction="sum")


def _hiding_llama() -> LlamaForCausalLM:
    return _HiddenLoss(_llama().config)


def _adapted_llama() -> Any:
    return get_peft_model(_llama(), LoraConfig(r=8, task_type="CAUSAL_LM"))


def _t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY_SIZE,
            d_model=256,
            d_ff=512,
            d_kv=64,
            num_heads=4,
            num_layers=2,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def _bert() -> BertForQuestionAnswering:
    return BertForQuestionAnswering(
        BertConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
        )
    )


def _vit() -> ViTForImageClassification:
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=384,
            image_size=32,
            patch_size=4,
            num_labels=10,
        )
    )


def _tokens(rng: np.random.Generator, count: int, length: int) -> list[list[int]]:
    found: list[list[int]] = rng.integers(2, VOCABULARY_SIZE, (count, length)).tolist()
    return found


def _span_rows(rng: np.random.Generator, count: int) -> Rows:
    starts = rng.integers(0, PROMPT // 2, count)
    return {"input_ids": _tokens(rng, count, PROMPT), "start_positions": starts, "end_positions": starts + 3}


def _label_spans(model: Any, rows: Rows) -> Rows:
    output = model(torch.tensor(rows["input_ids"]))
    starts, ends = output.start_logits.argmax(-1).numpy(), output.end_logits.argmax(-1).numpy()
    fits = starts <= ends
    return {
        **rows,
        "start_positions": np.where(fits, starts, rows["start_positions"]),
        "end_positions": np.where(fits, ends, rows["end_positions"]),
    }


def _pair_rows(rng: np.random.Generator, count: int) -> Rows:
    return {"input_ids": _tokens(rng, count, PROMPT), "labels": _tokens(rng, count, ANSWER)}


def _label_pairs(model: Any, rows: Rows) -> Rows:
    return {**rows, "labels": _continue(model, rows["input_ids"])[:, 1:].tolist()}


def _causal_rows(rng: np.random.Generator, count: int) -> Rows:
    return _mask({"input_ids": _tokens(rng, count, PROMPT + ANSWER)})


def _label_causal(model: Any, rows: Rows) -> Rows:
    return _mask({"input_ids": _continue(model, [one[:PROMPT] for one in rows["input_ids"]]).tolist()})


def _mask(rows: Rows) -> Rows:
    return {**rows, "labels": [[-100] * PROMPT + one[PROMPT:] for one in rows["input_ids"]]}


def _continue(model: Any, prompts: list[list[int]]) -> torch.Tensor:
    """Decode greedily, always as many tokens."""
    inputs = torch.tensor(prompts)
    length = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER, "do_sample": False}
    made = [
        model.generate(input_ids=part, attention_mask=torch.ones_like(part), **length) for part in inputs.split(100)
    ]
    return torch.cat(made)


def _image_rows(rng: np.random.Generator, count: int) -> Rows:
    return {
        "pixel_values": rng.normal(size=(count, 3, 32, 32)).astype(np.float32).tolist(),
        "labels": rng.integers(0, 10, count),
    }


def _label_images(model: Any, rows: Rows) -> Rows:
    return {**rows, "labels": model(torch.tensor(rows["pixel_values"])).logits.argmax(-1).numpy()}


_JOINED: Mapping[str, Any] = {"padding_free": True, "max_length": None}
_ROWS_A_PACK = 4
_PACKED: Mapping[str, Any] = {
    "packing": True,
    "max_length": _ROWS_A_PACK * (PROMPT + ANSWER),
    "per_device_train_batch_size": BATCH_SIZE // _ROWS_A_PACK,
}
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "spans": Family(_bert, _span_rows, _label_spans, _plain),
        "pairs": Family(_t5, _pair_rows, _label_pairs, _paired),
        "causal": Family(_llama, _causal_rows, _label_causal, _plain),
        "hidden": Family(_hiding_llama, _causal_rows, _label_causal, _plain),
        "chat": Family(_adapted_llama, _causal_rows, _label_causal, _chat),
        "joined": Family(_adapted_llama, _causal_rows, _label_causal, partial(_chat, changes=_JOINED)),
        "packed": Family(_adapted_llama, _causal_rows, _label_causal, partial(_chat, changes=_PACKED)),
        "images": Family(_vit, _image_rows, _label_images, _plain),
    }
)
"""Extractive question answering; an encoder-decoder; a causal model; one whose loss shows no logits; one with an
adapter and a fused head, of rows that are padded, joined without padding, or packed beforehand; images."""


class Bench:
    """One family: its model, its data and its prediction cache.

    Args:
        name: The family.
        step_count: Steps of every run.
        estimator: The estimator that rehearses.
        folder: A folder for the cache and the trainers' outputs.
    """

    def __init__(self, name: str, step_count: int, estimator: str, folder: Path) -> None:
        torch.manual_seed(SEED)
        rng = np.random.default_rng(SEED)
        self._family, self._step_count, self._estimator, self._folder = FAMILIES[name], step_count, estimator, folder
        self._model = self._family.make_model()
        self._new = Dataset.from_dict(self._family.make_rows(rng, NEW_COUNT))
        known = self._label(self._family.make_rows(rng, round(KNOWN_SHARE * PRIOR_COUNT)))
        unknown = Dataset.from_dict(self._family.make_rows(rng, PRIOR_COUNT - len(known)))
        self._prior = concatenate_datasets([known, unknown])
        self._weights = {key: value.clone() for key, value in self._model.state_dict().items()}

    def make_trainer(self, *, mixed: bool) -> Trainer:
        """Make a trainer that rehearses, or one on all data."""
        arguments = {
            "output_dir": str(self._folder / "output"),
            "per_device_train_batch_size": BATCH_SIZE,
            "max_steps": self._step_count,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "seed": SEED,
        }
        data = self._new if mixed else concatenate_datasets([self._new, self._prior])
        trainer = self._family.make_trainer(self._model, data, arguments)
        trainer.remove_callback(PrinterCallback)
        if mixed:
            cache = self._folder / "cache"
            mixcd.attach(trainer, self._prior, mix_ratio=MIX_RATIO, estimator=self._estimator, cache_dir=cache)
        return trainer

    def time_pair(self, number: int, *, mixed: bool) -> dict[str, float]:
        """Train a plain run, and a mix-cd or another plain run; return medians over steps."""
        self._model.load_state_dict(self._weights)
        left, right = train_in_lockstep([self.make_trainer(mixed=False), self.make_trainer(mixed=mixed)], number % 2)
        if left.forward_count != right.forward_count:
            raise SystemExit(
                f"{left.forward_count} forward passes in the plain run, {right.forward_count} in the other"
            )
        lefts, rights = left.seconds[FIRST_STEP - 1 :], right.seconds[FIRST_STEP - 1 :]
        return {"plain_ms": float(np.median(lefts)) * 1e3, "ratio": float(np.median(rights / lefts))}

    @torch.no_grad()
    def _label(self, rows: Rows) -> Dataset:
        """Label rows, a few at a time, so that it takes less memory than training does."""
        model, count = self._model.eval(), len(next(iter(rows.values())))
        parts = (
            {key: values[start : start + LABELLED_AT_ONCE] for key, values in rows.items()}
            for start in range(0, count, LABELLED_AT_ONCE)
        )
        return concatenate_datasets([Dataset.from_dict(self._family.label(model, part)) for part in parts])


def main() -> None:
    """Measure, and print the figures."""
    settings = _parse()
    disable_progress_bars()
    torch.set_num_threads(settings.threads)
    if settings.peak_of:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(settings.families[0], settings.memory_steps, settings.estimator, Path(folder))
            bench.make_trainer(mixed=settings.peak_of == "mixed").train()
        sys.stdout.write(f"{read_status('VmHWM')}\n")
        return
    machine, figures = describe_machine(), {}
    say_machine(machine)
    for name in settings.families:
        figures[name] = _measure(name, settings)
        _print_figures(name, figures[name])
    publish(settings, machine, figures)


def _print_figures(name: str, found: Mapping[str, Any]) -> None:
    plain, mixed = found["peaks"]["plain"], found["peaks"]["mixed"]
    print(f"{name}: plain {found['plain_ms'].show(1, ' ms')} a step")
    print(f"  time:    mix-cd / plain {found['ratio'].show()}, plain / plain {found['control'].show()}")
    excess = found["excess"]
    print(f"           less plain / plain {excess.median:+.3f} (95 % interval {excess.low:+.3f} to {excess.high:+.3f})")
    print(f"  memory:  {plain} MiB plain, {mixed} MiB mix-cd, ratio {mixed / plain:.3f}")


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="which")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of runs, who begins swapped every pair; best even")
    parser.add_argument("--steps", type=int, default=25, help="steps of a timed run")
    parser.add_argument("--memory-steps", type=int, default=10, help="steps of a run whose memory is measured")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--estimator", choices=estimator_names(), default="auto", help="who chooses samples")
    parser.add_argument("--peak-of", choices=["plain", "mixed"], help="only print a run's peak resident memory, in KiB")
    return parser.parse_args()


def _measure(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, settings.steps, settings.estimator, Path(folder))
        bench.time_pair(0, mixed=True)  # warm up, and make the prior pass
        runs = [
            (bench.time_pair(number, mixed=False), bench.time_pair(number, mixed=True))
            for number in range(settings.pairs)
        ]
    ratios, controls = ([pair[place]["ratio"] for pair in runs] for place in (1, 0))
    return {
        "plain_ms": Spread.of([mixed["plain_ms"] for _, mixed in runs]),
        "ratio": Spread.of(ratios),
        "control": Spread.of(controls),
        "excess": _estimate_median(np.subtract(ratios, controls)),
        "peaks": {kind: _measure_peak(name, kind, settings) for kind in ("plain", "mixed")},
    }


def _estimate_median(values: NDArray[np.float64]) -> Spread:
    """The median over pairs, with its 95 % interval by the bootstrap."""
    rng = np.random.default_rng(SEED)
    medians = np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975]).tolist()
    return Spread(float(np.median(values)), low, high)


def _measure_peak(name: str, kind: str, settings: argparse.Namespace) -> int:
    """The peak resident memory of a run in a process of its own, in MiB."""
    command = [sys.executable, __file__, "--families", name, "--peak-of", kind, "--estimator", settings.estimator]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return int(done.stdout.split()[-1]) // MEBIBYTE


if __name__ == "__main__":
    main()
