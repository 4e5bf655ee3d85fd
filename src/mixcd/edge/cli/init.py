"""`mixcd init`: a commented starter config for the user's files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from mixcd.edge.config.data_config import Task
from mixcd.matter.prior_and_new_data.data_source import open_data
from mixcd.words.errors import SettingError, shorten
from mixcd.words.files import replace_file

_LABELS = ("label", "labels", "sentiment", "class", "category", "target", "gold_label")
_USUAL: tuple[tuple[Task, set[str]], ...] = (
    ("question-answering", {"question", "context", "answers"}),
    ("sequence-to-sequence", {"source", "target"}),
    ("text-generation", {"messages"}),
    ("text-generation", {"prompt", "completion"}),
)
"""The columns that tasks usually have."""
_GRADED = ("sequence-to-sequence", "text-generation")
_OF_TEXTS = """\
# least_share = 0.8  # judge whole samples, not each token: right with this share of its tokens right
# generate = 100  # held-out samples that the model answers by itself, before and after
"""
_ARGUMENTS = {
    "text-generation": "any of trl.SFTConfig",
    "sequence-to-sequence": "any of transformers.Seq2SeqTrainingArguments",
}
_ASSISTANT_ONLY = """\
# assistant_only_loss = true  # of conversations, learn and judge what the assistant says, not the prompts, too
# packing = true  # several samples in a row; see docs/how-to/packing.md
"""
_LOOKED_AT = 200
"""Rows that are looked at to guess the columns."""

_TEMPLATE = """\
# What `mixcd train` is to do. Every key: `mixcd schema`, or docs/cli.md. Paths are relative to where the command runs.
format = 1
run = {run}  # everything the run writes lies in this folder
task = {task}  # guessed from the columns: check
# batch_size = 32  # rows a step over all processes; then training.gradient_accumulation_steps follows

[model]  # the base model: it knows the prior task already
path = {model}
# tokenizer = "..."  # when it lies elsewhere
# max_length = 128  # tokens; what model and tokenizer allow by default

[new]  # the task to learn
{new}
{priors}

[rehearsal]
mix_ratio = 0.25  # share of prior samples in every batch; of packed rows, of their tokens
{graded}# partition = ["loss:10"]  # draw by bins: ten bins of loss; "column:NAME" to combine{columns}
# estimator = "uniform"  # plain rehearsal, to compare with

[training]  # {arguments}
{training}num_train_epochs = 1
learning_rate = 2e-5
per_device_train_batch_size = 16
save_steps = 500
save_total_limit = 2
logging_steps = 50
"""


def write_starter_config(path: Path, *, model: str, new: str, prior: Sequence[str], run: str) -> None:
    """Write a config that `mixcd train` accepts, with the columns of the user's data guessed and named.

    Raises:
        SettingError: If the file exists, no text or label column can be made out, or the data are of several tasks.
        DataError: If data cannot be read.
    """
    if path.exists():
        raise SettingError(f"`{path}` exists already, and nothing is overwritten. Name another file, or remove it.")
    if not path.parent.is_dir():
        raise SettingError(f"`{path}` cannot be written: there is no folder `{path.parent}`. Make it, or name another.")
    names, task = _names_of(prior), _guess_task(open_data(new, name="new.path"))
    priors = "\n".join(
        f"\n[[prior]]  # {'the task to keep' if len(prior) == 1 else 'a task to keep'}\n"
        + (f"name = {_quote(names[number])}\n" if len(prior) > 1 else "")
        + _describe(source, f"prior.{number}.path", task)
        for number, source in enumerate(prior)
    )
    to_cut_by = _columns_to_cut_by(open_data(prior[0], name="prior.0.path"))
    text = _TEMPLATE.format(
        run=_quote(run),
        model=_quote(model),
        task=_quote(task),
        new=_describe(new, "new.path", task),
        priors=priors,
        graded=_OF_TEXTS * (task in _GRADED),
        arguments=_ARGUMENTS.get(task, "any of transformers.TrainingArguments"),
        training=_ASSISTANT_ONLY * (task == "text-generation"),
        columns=f": {shorten(to_cut_by, 5)}" if to_cut_by else "",
    )
    with replace_file(path) as unfinished:
        unfinished.write_text(text, "utf-8")


def _guess_task(data: Dataset) -> Task:
    """The task that the names of the columns are usual for; with a `text` beside them it is another."""
    names = {*data.column_names}
    return next((task for task, usual in _USUAL if usual <= names and "text" not in names), "classification")


def _describe(source: str, name: str, task: Task) -> str:
    data = open_data(source, name=name)
    found = _guess_task(data)
    if found != task:
        raise SettingError(
            f"`{name}` has the columns of {found}, {', '.join(data.column_names)}, but `new.path` has those of {task}. "
            "One model learns both, so they must be of one task. Name data of one task."
        )
    lines = [f"path = {_quote(source)}  # {len(data):,} rows; columns: {', '.join(data.column_names)}"]
    if task == "classification" and "input_ids" not in data.column_names:
        text, label = _guess_columns(data, name)
        lines.append(f"columns = {{ text = {_quote(text)}, label = {_quote(label)} }}  # guessed: check")
    lines.append("held_out = 0.1  # share never trained on, to measure with; or { path = ... }, or { split = ... }")
    return "\n".join(lines)


def _guess_columns(data: Dataset, name: str) -> tuple[str, str]:
    """The longest text, and the column with a label's name or the fewest values."""
    rows = data.with_format(None)[:_LOOKED_AT]
    texts = {column: values for column, values in rows.items() if any(isinstance(value, str) for value in values)}
    if not texts:
        raise SettingError(
            f"`{name}` has no column that holds text: {shorten(data.column_names, 20)}. Name data with a text column."
        )
    text = max(texts, key=lambda column: sum(len(str(value)) for value in texts[column]))
    named = [column for column in data.column_names if column.lower() in _LABELS]
    others = [column for column in rows if column != text and _is_label_like(rows[column])]
    if not named and not others:
        raise SettingError(
            f"`{name}` has no column that looks like a label beside `{text}`: {shorten(data.column_names, 20)}. Name "
            "data with a label column."
        )
    return text, named[0] if named else min(others, key=lambda column: len(set(rows[column])))


def _columns_to_cut_by(data: Dataset) -> list[str]:
    rows: Mapping[str, Any] = data.with_format(None)[:_LOOKED_AT]
    return [f'"column:{name}"' for name, values in rows.items() if _is_label_like(values)]


def _is_label_like(values: Iterable[Any]) -> bool:
    listed = list(values)
    return all(isinstance(value, str | int | bool) for value in listed) and len(set(listed)) <= max(2, len(listed) / 4)


def _names_of(sources: Sequence[str]) -> list[str]:
    """A name for each of several data sets: that of its file, if no other has it."""
    stems = [Path(source).stem for source in sources]
    return [stem if stem and stems.count(stem) == 1 else f"prior-{number}" for number, stem in enumerate(stems)]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a TOML basic string, too
