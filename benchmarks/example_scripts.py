"""Trains by the example scripts of transformers and TRL, to which rehearsal was attached, and says how it went.

What is done with each: `example_run.py`. The scripts are not part of this repository: give the folder that they lie in
(TRL's lies in the installed package). They want packages that mixcd does not: evaluate, nltk and torchvision.

    python benchmarks/example_scripts.py ../transformers/examples/pytorch
    python benchmarks/example_scripts.py ../transformers/examples/pytorch --only run_qa.py --keep work
    python benchmarks/example_scripts.py ../transformers/examples/pytorch --release 5.14 --json example_scripts.json

`docs/support.py` makes a table of `benchmarks/results/example_scripts.json`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from example_inputs import (
    Row,
    answer_row,
    chat_row,
    choice_row,
    class_row,
    completion_row,
    pair_class_row,
    summary_row,
    tagged_row,
    talk_row,
    text_row,
    translated_row,
)
from example_run import MAX_LENGTH, Example, Outcome, run_example

TRAIN = "--do_train --do_eval --train_{kind} {{0}} --validation_{kind} {{1}}"
FILES = TRAIN.format(kind="file")
PACKAGES = ("transformers", "trl", "datasets", "evaluate", "torchvision")


def name_files(ending: str) -> tuple[str, str]:
    """Name the two data files of a task."""
    return f"{{task}}{ending}", f"{{task}}_test{ending}"


def load(file: str, *prepare: str, more: str = "") -> str:
    """Say how a file is loaded and mapped by a script's own functions; the first takes arguments more."""
    kind = {"txt": "text", "jsonl": "json"}.get(ending := file.split(".")[-1], ending)
    field = ', field="data"' if "prepare_train_features" in prepare else ""
    mapped = [f".map({name}, batched=True{'' if place else more})" for place, name in enumerate(prepare)]
    return f'load_dataset("{kind}", data_files="{file}"{field}, split="train"){"".join(mapped)}'


def tune(kind: str, make_row: Callable[..., Row] = chat_row, settings: str = "", **more: Any) -> Example:
    """An example of TRL's script, on rows of one kind or with one setting more; prior rows are given as they are."""
    return Example(
        "sft.py",
        "tokens",
        make_row,
        ("{task}/train.jsonl", "{task}/test.jsonl"),
        "--dataset_name {{task}}",
        load("prior/train.jsonl"),
        f"--max_length {MAX_LENGTH} --bf16 False --eval_strategy steps --eval_steps 6 {settings}".strip(),
        kind=kind,
        **more,
    )


REMOVED = ", remove_columns=column_names"
EXAMPLES = [
    Example(
        "run_classification.py",
        "classes",
        class_row,
        name_files(".csv"),
        FILES,
        load("prior.csv", "preprocess_function"),
        "--max_seq_length 16 --shuffle_train_dataset",
    ),
    Example(
        "run_glue.py",
        "classes",
        pair_class_row,
        name_files(".csv"),
        FILES,
        load("prior.csv", "preprocess_function"),
        "--max_seq_length 16 --pad_to_max_length False",
    ),
    Example(
        "run_qa.py",
        "answers",
        answer_row,
        name_files(".json"),
        FILES,
        load("prior.json", "prepare_train_features", more=REMOVED),
        "--max_seq_length 24 --doc_stride 8",
        helpers=("trainer_qa.py", "utils_qa.py"),
    ),
    Example(
        "run_translation.py",
        "pairs",
        translated_row,
        name_files(".json"),
        FILES,
        load("prior.json", "preprocess_function", more=REMOVED),
        "--source_lang en --target_lang fr --predict_with_generate --max_target_length 8",
    ),
    Example(
        "run_summarization.py",
        "pairs",
        summary_row,
        name_files(".csv"),
        FILES,
        load("prior.csv", "preprocess_function", more=REMOVED),
        "--predict_with_generate --max_target_length 8",
    ),
    Example(
        "run_clm.py",
        "tokens",
        text_row,
        name_files(".txt"),
        FILES,
        load("prior.txt", "tokenize_function", "group_texts", more=REMOVED),
        "--block_size 12",
    ),
    Example(
        "run_ner.py",
        "tags",
        tagged_row,
        name_files(".json"),
        FILES,
        load("prior.json", "tokenize_and_align_labels"),
    ),
    Example(
        "run_swag.py",
        "choices",
        choice_row,
        name_files(".csv"),
        FILES,
        load("prior.csv", "preprocess_function"),
    ),
    Example(
        "run_image_classification.py",
        "images",
        None,
        name_files(""),
        TRAIN.format(kind="dir"),
        'load_dataset("imagefolder", data_dir="prior", split="train").with_transform(train_transforms)',
        "--remove_unused_columns False --label_column_name label",
    ),
    tune("conversations"),
    tune("text", text_row),
    tune("prompt and completion", completion_row),
    tune("assistant only", settings="--assistant_only_loss"),
    tune("LoRA", new_settings="--use_peft --lora_r 4 --lora_target_modules q_proj v_proj"),
    tune("packing", talk_row, settings="--packing", by_tokens=True),
    tune("streaming", settings="--dataset_streaming"),
]


def find_script(name: str, scripts: Path | None = None) -> Path | None:
    """Find a script in a folder or below it; TRL's in the installed package."""
    if name == "sft.py":
        package = find_spec("trl")
        return package and Path(str(package.origin)).parent / "scripts" / name
    return next(iter(sorted(scripts.rglob(name))), None) if scripts else None


def try_example(example: Example, scripts: Path, keep: Path | None) -> Outcome:
    """Run an example where it is to be kept, or in a temporary folder."""
    script = find_script(example.script, scripts)
    if script is None:
        return example.describe(f"It is not in {scripts and scripts.name}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)) / example.name.replace(" ", "_")
        folder.mkdir(parents=True)
        return run_example(example, script.resolve(), folder.resolve())


def main() -> None:
    """Run the examples and print a line of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", type=Path, help="the folder of transformers' examples")
    parser.add_argument(
        "--only", nargs="*", help="some scripts instead of all, or examples by name, such as 'sft.py packing'"
    )
    parser.add_argument("--release", default="", help="the release of transformers that the scripts are of")
    parser.add_argument("--keep", type=Path, help="a new folder in which to keep all files")
    parser.add_argument("--json", type=Path, help="the file for the results")
    arguments = parser.parse_args()
    outcomes = []
    for example in EXAMPLES:
        if not arguments.only or {example.script, example.name} & {*arguments.only}:
            outcomes.append(try_example(example, arguments.scripts, arguments.keep))
            print(f"{example.name}: {outcomes[-1].fault or 'exact'}", flush=True)
    if arguments.json:
        versions = {name: version(name) for name in PACKAGES if find_spec(name)}
        found = {"release": arguments.release, "versions": versions, "outcomes": list(map(asdict, outcomes))}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
