"""Tokens a second on packed rows against padded ones: what packing gains with mix-cd, and what it gains plain TRL.

A small, randomly initialised Llama is trained by `trl.SFTTrainer` on synthetic rows of log-normal lengths (σ = 1). Rows
are padded, or packed by TRL's best-fit strategy; the plain runs train on new and prior data put together. Padded and
packed runs take turns step by step, as in `step_overhead.py`. Tokens of padding are not counted.

    python benchmarks/packing.py
    python benchmarks/packing.py --pairs 2 --steps 15
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

import mixcd
from lockstep import train_in_lockstep
from side_by_side import Spread, describe_machine, make_parser, publish, say_machine

MIX_RATIO = 0.25
NEW_COUNT, PRIOR_COUNT = 1500, 500
VOCABULARY_SIZE = 1000
MAX_LENGTH, SHORTEST, MEDIAN = 256, 4, 24
"""Tokens of a row at most, and of a sample at least and in the middle."""
PADDED_ROWS, PACKED_ROWS = 32, 5
"""Rows a step, which hold about as many tokens."""
FIRST_STEP = 5
"""Steps of each run that are start-up, and not counted."""
SEED = 0


def main() -> None:
    """Measure, and print the figures."""
    settings = _parse()
    disable_progress_bars()
    torch.set_num_threads(settings.threads)
    machine = describe_machine()
    say_machine(machine)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(settings.steps, Path(folder))
        found: dict[bool, list[Speeds]] = {False: [], True: []}
        for number in range(settings.pairs + 1):
            for mixed in (False, True):
                speeds = bench.time_pair(number, mixed=mixed)
                if number:  # the first pair warms up
                    found[mixed].append(speeds)
    figures: dict[str, Spread] = {}
    for name, mixed in (("plain", False), ("mixed", True)):
        figures[f"{name}_padded"] = Spread.of([one.padded for one in found[mixed]])
        figures[f"{name}_packed"] = Spread.of([one.packed for one in found[mixed]])
        figures[f"{name}_gain"] = Spread.of([one.gain for one in found[mixed]])
        padded, packed, gain = (figures[f"{name}_{what}"] for what in ("padded", "packed", "gain"))
        print(f"{name}: padded {padded.show(0)}, packed {packed.show(0)} tokens a second, gain {gain.show(2)}")
    pairs = list(zip(found[False], found[True], strict=True))
    figures["kept"] = Spread.of([mixed.gain / plain.gain for plain, mixed in pairs])
    figures["kept_by_processor_time"] = Spread.of([mixed.cpu_gain / plain.cpu_gain for plain, mixed in pairs])
    print(f"what mix-cd keeps of the gain: {figures['kept'].show()}")
    print(f"  by processor time, on a machine with other work: {figures['kept_by_processor_time'].show()}")
    publish(settings, machine, figures)


@dataclass(frozen=True)
class Speeds:
    """Tokens a second of a padded and a packed run, and how many times as many a packed one has.

    Args:
        padded: Of the padded run.
        packed: Of the packed run.
        gain: Packed over padded, by the clock.
        cpu_gain: The same by processor time.
    """

    padded: float
    packed: float
    gain: float
    cpu_gain: float


class Bench:
    """The model, its data and its prediction caches.

    Args:
        step_count: Steps of every run.
        folder: A folder for the caches and the trainers' outputs.
    """

    def __init__(self, step_count: int, folder: Path) -> None:
        torch.manual_seed(SEED)
        rng = np.random.default_rng(SEED)
        self._step_count, self._folder = step_count, folder
        self._model = _make_model()
        self._new, self._prior = _make_rows(rng, NEW_COUNT), _make_rows(rng, PRIOR_COUNT)
        self._weights = {key: value.clone() for key, value in self._model.state_dict().items()}

    def time_pair(self, number: int, *, mixed: bool) -> Speeds:
        """Train on padded and on packed rows; return the tokens a second of each."""
        self._model.load_state_dict(self._weights)
        trainers = [self._make_trainer(packed=packed, mixed=mixed) for packed in (False, True)]
        counters = [_TokenCounter(trainer) for trainer in trainers]
        steps = train_in_lockstep(trainers, number % 2)
        tokens = [np.sum(np.diff(counter.counts)[FIRST_STEP - 1 :]) for counter in counters]
        padded, packed = (
            count / np.array([np.sum(one.seconds[FIRST_STEP - 1 :]), np.sum(one.cpu_seconds[FIRST_STEP - 1 :])])
            for count, one in zip(tokens, steps, strict=True)
        )
        gain, cpu_gain = packed / padded
        return Speeds(float(padded[0]), float(packed[0]), float(gain), float(cpu_gain))

    def _make_trainer(self, *, packed: bool, mixed: bool) -> SFTTrainer:
        args = SFTConfig(
            output_dir=str(self._folder / "output"),
            per_device_train_batch_size=PACKED_ROWS if packed else PADDED_ROWS,
            per_device_eval_batch_size=PADDED_ROWS,
            max_steps=self._step_count,
            max_length=MAX_LENGTH,
            packing=packed,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            seed=SEED,
        )
        data = self._new if mixed else concatenate_datasets([self._new, self._prior])
        trainer = SFTTrainer(model=self._model, args=args, train_dataset=data, processing_class=_make_tokenizer())
        trainer.remove_callback(PrinterCallback)
        if mixed:
            mixcd.attach(trainer, self._prior, mix_ratio=MIX_RATIO, cache_dir=self._folder / f"cache-{packed}")
        return trainer


class _TokenCounter(TrainerCallback):
    """Notes at every step's beginning how many tokens TRL has counted."""

    def __init__(self, trainer: Any) -> None:
        self.counts: list[int] = []
        self._trainer = trainer
        trainer.add_callback(self)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.counts.append(int(self._trainer._total_train_tokens))


def _make_model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=MAX_LENGTH,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def _make_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))  # noqa: S106
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")  # noqa: S106


def _make_rows(rng: np.random.Generator, count: int) -> Dataset:
    lengths = np.clip(rng.lognormal(np.log(MEDIAN), 1, count), SHORTEST, MAX_LENGTH).astype(int)
    rows = [rng.integers(2, VOCABULARY_SIZE, length).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=6, help="pairs of runs, who begins swapped every pair; best even")
    parser.add_argument("--steps", type=int, default=25, help="steps of a run")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
