"""Writes the pages that are made from the code: `python docs/generate.py`. A test compares them with what is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mixcd.edge.config.config import Config
from mixcd.matter.prior_and_new_data.data_source import KINDS

DOCS = Path(__file__).parent
COMMANDS = (
    "init",
    "train",
    "predict",
    "partition",
    "evaluate",
    "compare",
    "report",
    "ledger",
    "sweep",
    "frontier",
    "schema",
    "demo",
)

INTRODUCTION = f"""\
# The command line

This page is made by `python docs/generate.py`.

```console
mixcd init --model my-model --new new.csv --prior old.csv   # writes mixcd.toml: look it over
mixcd train mixcd.toml                                      # base model → cache → rehearsal → runs/first/model
mixcd train mixcd.toml --resume                             # goes on after any interruption, with the same draws
torchrun --nproc-per-node=2 -m mixcd train mixcd.toml       # several processes; or accelerate launch -m mixcd
```

A wrong request is one line on stderr and exit code 2, and nothing is written; a run that failed exits 1; one that a signal
stopped, 128 and the signal's number. `mixcd compare --fail-above` exits 3 when more is damaged than that. An internal fault shows its traceback with `--debug`.

**Data** are files ({", ".join(f"`{kind}`" for kind in KINDS)}; several of one kind as a list), a folder that `datasets` saved, a
folder of such files, or the name of a data set on the Hugging Face hub. They are read through `datasets` into its own cache and streamed from there, never
held in memory. Rows with `input_ids` count as tokenised.

**Tasks.** `task` says what the model does; new and prior data are of the same task, and `mixcd init` guesses it from their columns.

| `task` | model | columns | trainer |
|---|---|---|---|
| `classification` | sequence classifier | `text`, `text_pair`, `label`: class numbers, or names that the model knows | `Trainer` |
| `question-answering` | extractive question answering | `question`, `context`, `answers`: lists `text` and `answer_start`, as in SQuAD; the first answer counts, none means token 0 | `Trainer` |
| `sequence-to-sequence` | encoder-decoder | `source`, `target` | `Seq2SeqTrainer` |
| `text-generation` | causal language model | `messages`; or `prompt` and `completion`; or `text`, by these names | TRL's `SFTTrainer` (`pip install trl`) |

`columns` names others, except for text generation. Questions whose answer is cut off, or not where `answer_start` says, are left out and named. `training` are the arguments of the task's trainer;
`bf16`, which TRL turns on, is off by default on a machine without a GPU that has it. Weights to be trained are held in single precision, whatever they are stored in; under an adapter they are held as stored.

**An adapter.** With a table `[adapter]` a fresh LoRA adapter is trained instead of the model's weights (`pip install peft`), and the task's head, if it has one, whole. Checkpoints hold the adapter; `model/` holds the
base model with the adapter merged, which is what is evaluated. Where merging would change what the model says, as in weights that the model uses twice (`embed_tokens` with tied embeddings), `model/` holds the adapter
instead, and a line says so: a few prior samples are predicted before and after. Every whole `model/` is read back once it is written, which takes its size in memory, and refused unless all weights are equal.

**An adapter as the base model.** `model.path` may be the folder (or hub name) of an adapter, such as a checkpoint: it is merged into the model that its `adapter_config.json` names, which is opened likewise, and the result
is trained whole, or under a new `[adapter]`. A head that the adapter brings is taken; a tokenizer that it lacks is its base model's. Refused are an adapter whose weights do not all fit, one that cannot be merged, and a
folder that holds a whole model as well. `mixcd compare` opens models in the same way; there an adapter as the fine-tuned model goes on the base model, unless that is an adapter, too.

**Stages.** The `model/` of one run can be the `model.path` of the next. `run.json` then lists the runs before it under `lineage`, oldest first: folder, start, base model, new and prior data. With several prior sets
`evaluation.json` has the scores of each under `prior_sets`, so `mixcd ledger` reads the score on every task after every stage off the records, given the same seed throughout: a share that is held out
of a stage's new data is the same share when they become prior data of the next.

**Sweeps.** `mixcd sweep` and `mixcd frontier` are the research bench, and need the extra `bench`.

**Held-out data** are never trained on. A share is drawn by the seed of the run, the same share for the same data and seed, and `run.json` says how many; or give
a path or a split. Without them there is no evaluation.

**The run folder** holds `config.toml` (resolved, itself a config), `run.json` (state, versions, seeds, hardware, counters), `steps.parquet` (a row a step; while
training, `steps.jsonl`), `evaluation.json`, `damaged.parquet` (held-out prior samples that were lost), `model/`, `checkpoints/` and `cache/`, the prediction cache.

**Interruption.** Ctrl-C or SIGTERM finishes the step, saves a checkpoint and says how to go on; the same signal again stops at once. After a kill, `--resume` goes on from
the last checkpoint that was written to the end. The result is the same, bit for bit, as of a run that was never interrupted, on the same number of processes;
on another number, with the same `batch_size`, the draws are the same. With `training.enable_jit_checkpoint` SIGTERM is left to transformers while training, which may save with the random
state of half a step: the draws go on the same, weights of a model with dropout differ.
The prior pass goes on at its first missing part.
"""


def make_pages() -> dict[Path, str]:
    """Return the text of every page that is made from the code."""
    commands = "\n".join(f"## `mixcd {command}`\n\n```text\n{show_help(command)}\n```\n" for command in COMMANDS)
    schema = Config.model_json_schema()
    return {
        DOCS / "cli.md": f"{INTRODUCTION}\n{commands}\n{make_config_table(schema)}",
        DOCS / "config.schema.json": json.dumps(schema, indent=1) + "\n",
    }


def show_help(command: str) -> str:
    """Return what `--help` prints, without colours, 100 columns wide."""
    shown = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "mixcd", command, "--help"],
        env={**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())


def make_config_table(schema: dict) -> str:
    """Return one table a section: key, default, meaning."""
    sections = {"Top level": schema, **{f"`{key}`": schema["$defs"][name] for key, name in SECTIONS.items()}}
    return "## The config\n\n" + "\n".join(
        f"### {title}\n\n{section['description']}\n\n| key | default | meaning |\n|---|---|---|\n" + make_rows(section)
        for title, section in sections.items()
    )


SECTIONS = {
    "[model]": "ModelConfig",
    "[adapter]": "AdapterConfig",
    "[new]": "DataConfig",
    "[[prior]]": "PriorConfig",
    "columns": "ColumnsConfig",
    "held_out": "HeldOutConfig",
    "[rehearsal]": "RehearsalConfig",
}


def make_rows(section: dict) -> str:
    """Return the rows of a section's table."""
    rows = []
    for key, value in section["properties"].items():
        required = key in section.get("required", ())
        default = "required" if required else json.dumps(value["default"]) if value.get("default") is not None else "–"
        rows.append(f"| `{key}` | {default} | {value.get('description', 'See below.')} |\n")
    return "".join(rows)


if __name__ == "__main__":
    for path, text in make_pages().items():
        path.write_text(text, "utf-8")
