"""Every bad input through the command line: one line that helps on stderr, exit code 2, and nothing written."""

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from mixcd.edge.cli import run
from mixcd.matter.base_model.prediction_cache import read_manifest
from workspace import make_workspace

QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""What Python does not show by default."""


@contextmanager
def as_in_a_shell():
    """Log lines and warnings go to stderr, where pytest would keep them to itself."""
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    streams = [
        (handler, handler.stream)
        for logger in loggers
        for handler in logger.handlers
        if type(handler) is logging.StreamHandler
    ]
    handlers, root.handlers = root.handlers, []
    for handler, _ in streams:
        handler.setStream(sys.stderr)
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in QUIET:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = lambda *told: sys.stderr.write(warnings.formatwarning(*told[:4]))
        yield
    root.handlers = handlers
    for handler, stream in streams:
        handler.setStream(stream)


def read_tree(folder):
    """All files of a folder, but for what `datasets` caches."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] != "hf-datasets"
    }


@pytest.fixture
def refuse(workspace, capfd):
    def refuse(*arguments, leaves=None):
        """Run a command that is refused; return its line. What it may leave behind matches `leaves`."""
        before = read_tree(workspace)
        capfd.readouterr()
        with as_in_a_shell(), pytest.raises(SystemExit) as done:
            run(arguments)
        line = capfd.readouterr().err
        after = read_tree(workspace)
        changed = {path for path in {**before, **after} if before.get(path, 0) != after.get(path, 0)}
        assert line.count("\n") == 1, line
        assert line.endswith("\n"), line
        assert done.value.code == 2, line
        assert {path for path in changed if leaves is None or not re.fullmatch(leaves, path)} == set(), line
        assert line.rstrip().endswith((".", "`")), line
        assert not re.search(r"\?\.|\.\. | ,|  ", line), line
        return line.rstrip("\n")

    return refuse


@pytest.fixture
def refuse_training(refuse):
    def refuse_training(*settings, leaves=None):
        return refuse("train", "config.toml", *(part for one in settings for part in ("--set", one)), leaves=leaves)

    return refuse_training


@pytest.fixture(scope="module")
def finished_folder(base_weights, tmp_path_factory):
    """A folder in which a run has finished."""
    folder = tmp_path_factory.mktemp("finished")
    make_workspace(folder, base_weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf-datasets")
        with pytest.raises(SystemExit) as done:
            run(["train", "config.toml"])
    assert not done.value.code
    shutil.rmtree(folder / "hf-datasets")
    return folder


@pytest.fixture
def finished(workspace, finished_folder):
    shutil.copytree(finished_folder, workspace, dirs_exist_ok=True)
    return workspace


@pytest.fixture
def unfinished(finished):
    """The run was killed after step 28."""
    folder = finished / "run"
    change_json(folder / "run.json", state="training", steps_done=28)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-30")
    for name in ("evaluation.json", "damaged.parquet", "steps.parquet"):
        (folder / name).unlink()
    return finished


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def replace(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", {"format": "pt"})


def write_rows(path, header, rows, encoding="utf-8"):
    path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))


def has(line, *parts):
    for part in parts:
        assert part in line, line


# --- the config ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("rehearsal.mix_ratio=nan", "`rehearsal.mix_ratio` is nan: input should be less than 1"),
        ("rehearsal.mix_ratio=0", "`rehearsal.mix_ratio` is 0: input should be greater than 0"),
        ("rehearsal.mix_ratio=1", "`rehearsal.mix_ratio` is 1: input should be less than 1"),
        ("rehearsal.mix_ratio=-0.5", "`rehearsal.mix_ratio` is -0.5"),
        ("rehearsal.mix_ratio='a'", "`rehearsal.mix_ratio` is 'a': input should be a valid number"),
        ("rehearsal.mix_ratio=true", "`rehearsal.mix_ratio` is True: input should be a valid number"),
        ("rehearsal.lag=0", "`rehearsal.lag` is 0: input should be greater than or equal to 1"),
        ("rehearsal.lag=1.5", "`rehearsal.lag` is 1.5: input should be a valid integer"),
        ("rehearsal.seed=-1", "`rehearsal.seed` is -1"),
        (
            "rehearsal.estimator=best",
            "`rehearsal.estimator` is 'best', which is not an estimator (known: `auto`, `counts`, `shrunk`, `factored`",
        ),
        ("rehearsal.partition=[]", "`rehearsal.partition` is []: list should have at least 1 item"),
        ("rehearsal.partition=loss:10", "`rehearsal.partition` is 'loss:10': input should be a valid list"),
        ("rehearsal.partition=['loss:0']", "`rehearsal.partition`: `bins` is 0, but a partition needs at least 1"),
        ("rehearsal.partition=['x']", '`rehearsal.partition`: "x" is no partition: write "loss:10"'),
        ("rehearsal.cache=", "`rehearsal.cache` is '': string should have at least 1 character"),
        ("rehearsal=3", "`rehearsal` is 3: input should be a table of keys and values"),
        ("format=0", "`format` is 0: input should be greater than or equal to 1"),
        ("format=true", "`format` is True: input should be a valid integer"),
        ("run=1", "`run` is 1: input should be a valid string"),
        ("run=", "`run` is '': string should have at least 1 character"),
        ("batch_size=8.0", "`batch_size` is 8.0: input should be a valid integer"),
        ("batch_size=1", "`batch_size` is 1: input should be greater than or equal to 2"),
        ("model=1", "`model` is 1: input should be a table of keys and values"),
        ("model.path=", "`model.path` is ''"),
        ("model.max_length=0", "`model.max_length` is 0"),
        ("model.trust_remote_code=1", "`model.trust_remote_code` is 1: input should be a valid boolean"),
        ("new.path=1", "`new.path` is 1: input should be a valid string"),
        ("new.held_out=1", "`new.held_out` is 1: input should be less than 1"),
        ("new.held_out=nan", "`new.held_out` is nan"),
        ("new.held_out=true", "`new.held_out` is True: input should be a valid number"),
        ("new.held_out={}", "`new.held_out` needs a `path` or a `split` of its own"),
        ("prior=[]", "`prior` is []: list should have at least 1 item"),
        ("prior=[1]", "`prior.0` is 1: input should be a table of keys and values"),
        ("prior.0.path=[1]", "`prior.0.path.0` is 1: input should be a valid string"),
        ("training=3", "`training` is 3: input should be a table of keys and values"),
    ],
)
def test_values_outside_what_makes_sense(refuse_training, setting, part):
    line = refuse_training(setting)
    assert line.startswith(f"`config.toml`: {part}"), line
    assert line.endswith(". Correct the file, or pass `--set`.")


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("runn=1", "`runn` is unknown, did you mean `run`?"),
        ("model.pth=1", "`model.pth` is unknown, did you mean `path`?"),
        ("new.spilt=a", "`new.spilt` is unknown, did you mean `split`?"),
        ("new.columns.txt=a", "`new.columns.txt` is unknown, did you mean `text`?"),
        ("new.held_out={pth='a'}", "`new.held_out.pth` is unknown, did you mean `path`?"),
        ("prior.0.nam=a", "`prior.0.nam` is unknown, did you mean `name`?"),
        ("prior.0.columns.lable=a", "`prior.0.columns.lable` is unknown, did you mean `label`?"),
        ("rehearsal.mixratio=1", "`rehearsal.mixratio` is unknown, did you mean `mix_ratio`?"),
        ("zzz=1", "`zzz` is unknown (known: `format`, `run`, `task`, `batch_size`, "),
    ],
)
def test_unknown_keys_are_told_with_the_nearest(refuse_training, setting, part):
    line = refuse_training(setting)
    has(line, f"`config.toml`: {part}")
    assert "faults" not in line


def test_all_faults_are_told_at_once(refuse_training):
    line = refuse_training("runn=1", "model.pth=2", "rehearsal.lag=0", "batch_size=1", "rehearsal.partition=['x']")
    has(line, "5 faults: ", "`runn`", "`model.pth`", "`rehearsal.lag` is 0", "`batch_size` is 1", '"x" is no partition')
    line = refuse_training("training.learning_rat=1", "training.max_steps='x'", "training.output_dir=x")
    has(line, "did you mean `learning_rate`?", "wants a whole number", "`training.output_dir` cannot be set: ")
    line = refuse_training("training.learning_rate=nan", "training.seed=-1")
    has(line, "`training.learning_rate` is nan, but it must be at least 0", "`training.seed` is -1, but it must be")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"run = \n", "`config.toml` is not TOML: Invalid value (at line 1, column 7). Correct that line."),
        (b'run = "a"\nrun = "b"\n', "`config.toml` is not TOML: Cannot overwrite a value (at line 2, column 10)"),
        (b'run = "\xe9"\n', "`config.toml` is not UTF-8: invalid continuation byte at byte 7. Save it as UTF-8."),
        ('run = "a"'.encode("utf-16"), "`config.toml` is not UTF-8: invalid start byte at byte 0"),
        (b"", "`config.toml`: 5 faults: `run` is missing; `model` is missing; `new` is missing; `prior` is missing"),
        (
            b"format = 2\n[elsewhere]\n",
            "`config.toml` is written for format 2, but this version of mixcd reads up to 1. Upgrade mixcd.",
        ),
    ],
)
def test_files_that_are_no_config(workspace, refuse, content, part):
    (workspace / "config.toml").write_bytes(content)
    for command in ("train", "predict"):
        has(refuse(command, "config.toml"), part)


@pytest.mark.parametrize("command", ["train", "predict"])
@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("nope.toml", "There is no config `nope.toml`. Name a TOML file; `mixcd init` writes one."),
        ("base", "`base` is a folder, but a config is a TOML file. Name the file"),
        ("new.csv/x", "`new.csv/x` cannot be read: Not a directory. Make it readable."),
        ("a" * 300, "File name too long"),
    ],
)
def test_paths_that_lead_to_no_config(refuse, command, path, part):
    has(refuse(command, path), part)


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("a", "`--set a` is not key=value. Write it like `--set training.learning_rate=1e-4`."),
        ("=a", "`--set =a` is not key=value"),
        ("a..b=1", "`--set a..b=1` is not key=value"),
        ("prior.3.path=x", "`--set prior.3.path=x`: there is no `3` in a list of 1. Lists are counted from 0."),
        ("prior.x=1", "`--set prior.x=1`: there is no `x` in a list of 1"),
        ("run.x=1", "`--set run.x=1`: there is no `x` in 'run'"),
        ("a\nb=1", "`a b` is unknown"),
        ("\x1b[31m=1", "` [31m` is unknown"),
    ],
)
def test_malformed_settings(refuse_training, setting, part):
    has(refuse_training(setting), part)


def test_a_dry_run_refuses_as_well(refuse):
    for setting, part in (
        ("rehearsal.mix_ratio=2", "`rehearsal.mix_ratio` is 2"),
        ("training.optim=nope", "`training.optim` is 'nope', but transformers wants one of adamw_torch, "),
        ("batch_size=12", "`batch_size` is 12"),
    ):
        has(refuse("train", "config.toml", "--dry-run", "--set", setting), part)


# --- TrainingArguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        (
            "learning_rat=1",
            "`training.learning_rat` is not in TrainingArguments of transformers, did you mean `learning_rate`",
        ),
        ("zzz=1", "`training.zzz` is not in TrainingArguments of transformers (known: `output_dir`"),
        ("max_steps=true", "`training.max_steps` is True, but transformers wants a whole number"),
        ("max_steps='10'", "`training.max_steps` is '10', but transformers wants a whole number"),
        ("learning_rate=abc", "`training.learning_rate` is 'abc', but transformers wants a number"),
        ("load_best_model_at_end='yes'", "`training.load_best_model_at_end` is 'yes', but transformers wants true or"),
        ("label_names='labels'", "`training.label_names` is 'labels', but transformers wants a list"),
        ("hub_token=1", "`training.hub_token` is 1, but transformers wants a text"),
        ("output_dir=x", "`training.output_dir` cannot be set: the trainer writes to the folder `run`, so set"),
        ("resume_from_checkpoint=x", "`training.resume_from_checkpoint` cannot be set: pass `--resume`"),
        ("save_only_model=true", "`training.save_only_model` cannot be set: such checkpoints cannot be resumed"),
        ("remove_unused_columns=false", "`training.remove_unused_columns` cannot be set"),
        ("learning_rate=-1", "`training.learning_rate` is -1, but it must be at least 0 and finite"),
        ("learning_rate=inf", "`training.learning_rate` is inf, but it must be at least 0 and finite"),
        ("adam_beta1=1", "`training.adam_beta1` is 1, but it must be at least 0 and below 1"),
        ("seed=-1", "`training.seed` is -1"),
        ("data_seed=-1", "`training.data_seed` is -1"),
        ("max_steps=0", "`training.max_steps` is 0, but there must be at least 1, or -1"),
        ("per_device_train_batch_size=0", "`training.per_device_train_batch_size` is 0, but it must be at least 1"),
        ("gradient_accumulation_steps=0", "`training.gradient_accumulation_steps` is 0, but it must be at least 1"),
        ("dataloader_num_workers=-1", "`training.dataloader_num_workers` is -1, but it must be at least 0"),
        ("metric_for_best_model=f1", "`training.metric_for_best_model` is 'f1', but only loss, "),
        ("optim=nope", "`training.optim` is 'nope', but transformers wants one of adamw_torch, "),
        (
            "save_strategy=nope",
            "`training.save_strategy` is 'nope', but transformers wants one of no, steps, epoch, best",
        ),
        ("load_best_model_at_end=true", "--load_best_model_at_end requires the save and eval strategy to match"),
        ("warmup_steps=-1", "transformers refuses the config's `training`: Got warmup_steps = -1"),
        ("accelerator_config={nope=true}", "transformers refuses the config's `training`: AcceleratorConfig"),
        ("report_to=nope", "transformers refuses to build a Trainer: nope is not supported"),
        ("report_to=wandb", "transformers refuses to build a Trainer: WandbCallback requires wandb to be installed"),
        ("parallelism_config=1", "transformers refuses to build a Trainer: 'int' object has no attribute"),
        ("optim_args=a", "transformers refuses to build the optimizer: not enough values"),
        ("lr_scheduler_kwargs={a=1}", "transformers refuses to build the optimizer: get_linear_schedule_with_warmup()"),
        ("lr_scheduler_type=cosine_with_min_lr", "transformers refuses to build the optimizer: "),
        ("train_sampling_strategy=group_by_length", 'The trainer uses train_sampling_strategy="group_by_length"'),
        ("accelerator_config={split_batches=true}", "The trainer uses `dispatch_batches` or `split_batches`"),
    ],
)
def test_training_arguments_that_cannot_be(refuse_training, setting, part):
    has(refuse_training(f"training.{setting}"), part)


def test_nothing_to_evaluate_on(refuse_training):
    line = refuse_training("training.eval_strategy=steps", "new.held_out=0")
    has(line, "transformers refuses to build a Trainer: You have set `args.eval_strategy`", "Correct the config's")


def test_no_epochs(refuse_training):
    line = refuse_training("training.max_steps=-1", "training.num_train_epochs=0")
    has(line, "`training.num_train_epochs` is 0, but it must be above 0")


# --- options that contradict each other ------------------------------------------------------------------------------


def test_resume_and_overwrite(refuse):
    has(refuse("train", "config.toml", "--resume", "--overwrite"), "They contradict each other. Pass one of them.")


def test_batch_size_and_accumulation(refuse_training):
    line = refuse_training("batch_size=16", "training.gradient_accumulation_steps=2")
    has(line, "`batch_size` and `training.gradient_accumulation_steps` contradict each other", "remove one")


@pytest.mark.parametrize(("batch_size", "processes"), [(12, 1), (4, 1), (16, 3)])
def test_a_batch_that_processes_do_not_divide(refuse_training, monkeypatch, batch_size, processes):
    monkeypatch.setenv("WORLD_SIZE", str(processes))  # refused before a process group is joined
    line = refuse_training(f"batch_size={batch_size}")
    has(line, f"`batch_size` is {batch_size}, but {processes} processes of 8 rows", "does not divide it. Choose rows")


@pytest.mark.parametrize("names", [(None, None), ("a", None), ("a", "a")])
def test_several_prior_sets_without_names_of_their_own(workspace, refuse_training, names):
    named = ["" if name is None else f'name = "{name}"\n' for name in names]
    replace(workspace / "config.toml", "[[prior]]\n", f"[[prior]]\n{named[0]}")
    with (workspace / "config.toml").open("a") as file:
        file.write(f'[[prior]]\npath = "prior.csv"\n{named[1]}')
    has(refuse_training(), "`prior` has 2 data sets, so each needs a `name` of its own")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("text,label", "`prior.1.path` has `text`, `input_ids`, `attention_mask`, `label`"),
        ("text,label,topic,more", "The prior data sets `a` and `b` have different columns: `more` is in one only"),
    ],
)
def test_several_prior_sets_with_different_columns(workspace, refuse_training, header, part):
    write_rows(workspace / "b.csv", header, [",".join(["w3", "negative", "a", "b"][: header.count(",") + 1])] * 20)
    replace(workspace / "config.toml", "[[prior]]\n", '[[prior]]\npath = "b.csv"\nname = "b"\n[[prior]]\nname = "a"\n')
    text = (workspace / "config.toml").read_text()
    first, second = text.index('[[prior]]\npath = "b.csv"'), text.index('[[prior]]\nname = "a"')
    rest = text.index("[rehearsal]")
    (workspace / "config.toml").write_text(text[:first] + text[second:rest] + text[first:second] + text[rest:])
    has(refuse_training(), part)


def test_a_block_without_room_for_both(refuse_training):
    has(
        refuse_training("rehearsal.mix_ratio=0.01"),
        "leaves 0.08 prior rows a step",
        "Use a larger mix ratio or a larger",
    )
    has(
        refuse_training("rehearsal.mix_ratio=0.99"),
        "leaves 0.08 new rows a step",
        "Use a smaller mix ratio or a larger",
    )


def test_a_lag_below_the_look_ahead(refuse_training):
    line = refuse_training("rehearsal.lag=2", "training.dataloader_num_workers=2")
    has(line, "`lag` is 2, but the data loader reads 5 steps ahead", "Pass a lag of 5 or more, or use fewer workers.")


# --- data ------------------------------------------------------------------------------------------------------------

COMMANDS = {
    "train": ("train", "config.toml"),
    "predict": ("predict", "config.toml"),
    "init": ("init", "mine.toml", "--model", "base", "--new", "new.csv", "--prior", "prior.csv"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "which is empty. Name a file with rows."),
        ("text,label,topic\n", "which has no rows. Name a file with rows."),
        (
            "text,label,topic\nw3,negative,a\nw4,neutral\n",
            "which has 2 field(s) in line 3, but 3 in its header. Give every row as many fields",
        ),
        ('text,label,topic\nw3,negative,a\n"w4,neutral,b\n', "whose row from line 3 on is no CSV: "),
        (
            "text,label,text\nw3,negative,a\n",
            "whose header has a column twice: `text`. Give every column its own name.",
        ),
        ("text,label,topic\nw3 é,negative,a\n".encode("latin-1"), "which is not UTF-8 in line 2: invalid continuation"),
        ("text,label,topic\nw3,negative,a\n".encode("utf-16"), "which is not UTF-8 in line 1: invalid start byte"),
    ],
    ids=["empty", "header", "ragged", "quotes", "twice", "latin", "utf-16"],
)
def test_broken_csv(workspace, refuse, command, content, part):
    for file, place in (("prior.csv", "prior.0.path"), ("new.csv", "new.path")):
        whole = (workspace / file).read_bytes()
        (workspace / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        has(refuse(*command), f"`{place}` names {file}, {part}")
        (workspace / file).write_bytes(whole)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'{"text": "w3", "label": 0}\n{"text": \n', "whose line 2 is not JSON: Expecting value. Correct it."),
        (b'{"text": "w3", "label": 0}\n[1]\n', "whose line 2 is of type list, but every row is an object"),
        ('{"text": "é", "label": 0}\n'.encode("latin-1"), "which is not UTF-8 in line 1"),
        (b"\n", "which has no rows"),
    ],
    ids=["line", "list", "latin", "blank"],
)
def test_broken_jsonl(workspace, refuse, command, content, part):
    (workspace / "prior.jsonl").write_bytes(content)
    replace(workspace / "config.toml", "prior.csv", "prior.jsonl")
    arguments = ["prior.jsonl" if argument == "prior.csv" else argument for argument in command]
    has(refuse(*arguments), f"`prior.0.path` names prior.jsonl, {part}")


@pytest.mark.parametrize("command", ["train", "predict"])
@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("new.csv", "text,", "txt,", "`new.path` has no column `text`; did you mean `txt`?"),
        ("prior.csv", "label,", "lable,", "`prior.0.path` has no column `label`; did you mean `lable`?"),
        (
            "prior.csv",
            "topic\n",
            "theme\n",
            "`rehearsal.partition` names the column `topic`, but `prior.0.path` has `text`, `theme`, `input_ids`, "
            "`attention_mask`, `label`. Name one of these, or add the column.",
        ),
        (
            "prior.csv",
            "topic\n",
            "input_ids\n",
            "`prior.0.path` has large_string values in its column `input_ids`, but",
        ),
    ],
)
def test_missing_columns(workspace, refuse, command, file, old, new, part):
    header, rest = (workspace / file).read_text().split("\n", 1)
    (workspace / file).write_text((header + "\n").replace(old, new) + rest)
    has(refuse(command, "config.toml"), part)


def test_other_missing_columns(workspace, refuse_training):
    write_rows(workspace / "held.csv", "text,label", ["w3,negative", "w4,neutral"])
    line = refuse_training("prior.0.held_out={path='held.csv'}")
    has(line, "`rehearsal.partition` names the column `topic`, but `prior.0.held_out` has `text`, `input_ids`")
    line = refuse_training("rehearsal.cache_columns=['nope']")
    has(line, "`rehearsal.cache_columns` names the column `nope`, but `prior.0.path` has")
    write_rows(workspace / "held.csv", "text,topic", ["w3,a", "w4,b"])
    has(refuse_training("prior.0.held_out={path='held.csv'}"), "`prior.0.held_out` has no column `label`")


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (
            ["w3,negative,a", "w4,angry,b"],
            "has label `angry` in its column `label` on sample 1, 3, 5, 7, 9 and 15 more (counted from 0), but the "
            "model knows `negative`, `neutral`, `positive`. Give the labels these names",
        ),
        (["w3,negative,a", "w4,,b"], "has no label in its column `label` on sample 1, 3, 5"),
        (["w3,negative,a", ",neutral,b"], "has no text in its column `text` on sample 1, 3, 5"),
        (["w3,0,a", "w4,7,b"], "has label 7 on sample 1, 3, 5, 7, 9 and 15 more, but the model knows classes 0 to 2."),
        (["w3,0,a", "w4,-1,b"], "has label -1 on sample 1, 3, 5"),
        (["w3,0.5,a", "w4,1.0,b"], "has label `0.5` in its column `label` on sample 0, 2, 4"),
    ],
)
@pytest.mark.parametrize("place", ["new.path", "prior.0.path", "new.held_out", "prior.0.held_out"])
def test_labels_and_texts_that_are_not_to_be(workspace, refuse_training, rows, part, place):
    write_rows(workspace / "bad.csv", "text,label,topic", rows * 20)
    setting = f"{place}=bad.csv" if place.endswith("path") else f"{place}={{path='bad.csv'}}"
    has(refuse_training(setting), f"`{place}` {part}")


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("new.path=nope.csv", "`new.path` names nope.csv, but there is no such file or folder. Correct the path."),
        ("new.path=prior.csv/x.csv", "`new.path` names prior.csv/x.csv, but there is no such file or folder."),
        ("new.path=['new.csv', 'nope.csv']", "`new.path` names nope.csv, but there is no such file"),
        ("new.path=[]", "`new.path` names no data. Name a file, several files, a folder"),
        ("new.path=", "`new.path` names no data"),
        ("new.path=empty", "`new.path` is the folder empty, which is empty. Name a folder saved by `datasets`"),
        ("new.path=foreign", "`new.path` is the folder foreign, which holds only notes.txt."),
        ("new.path=base", "`new.path` names base/config.json, which is a single object, but rows are needed: a list"),
        ("new.path=folder.csv", "`new.path` names folder.csv, which is a folder, but a file is needed there."),
        ("new.path='foreign/notes.txt'", "but files `*.txt` are not read. Convert it to one of these: "),
        ("new.path=broken.parquet", "which is no Parquet file, or a damaged one: "),
        ("new.path=" + "a" * 300 + ".csv", "File name too long"),
        ("new.split=test", "`new.path` names a file, which has no split `test`. Leave `split` out."),
        ("new.held_out=0.999", "`new.path` has 240 row(s), and holding out a share of 0.999 leaves none"),
        ("new.path=nowhere", "`new.path` is `nowhere`, which is neither a file nor a folder here, "),
        ("prior.0.held_out={path='h.csv'}", "`prior.0.held_out` names h.csv, but there is no such file or folder."),
    ],
)
def test_data_that_are_not_there(workspace, refuse_training, monkeypatch, setting, part):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for folder in ("empty", "foreign", "folder.csv"):
        (workspace / folder).mkdir()
    (workspace / "foreign" / "notes.txt").write_text("mine")
    (workspace / "broken.parquet").write_bytes(b"PAR1")
    has(refuse_training(setting), part)


@pytest.mark.parametrize(
    ("tokens", "part"),
    [
        ([3, 60], "has a token that is none of the model's 60 on sample 1, 3, 5, 7, 9 and 15 more (counted from 0)."),
        ([-1, 3], "has a token that is none of the model's 60 on sample 1, 3"),
        ([3] * 17, "has more than the 16 tokens that the model takes on sample 1, 3"),
        (None, "has no tokens on sample 1, 3"),
        ("w3", "has string values in its column `input_ids`, but a list of token numbers is needed there."),
    ],
)
def test_tokens_that_the_model_does_not_take(workspace, refuse_training, tokens, part):
    first = tokens if isinstance(tokens, str) else [3]
    datasets.Dataset.from_dict({"input_ids": [first, tokens] * 20, "label": [0, 1] * 20}).to_parquet("new.parquet")
    has(refuse_training("new.path=new.parquet"), f"`new.path` {part}")


def test_a_tokenizer_with_more_tokens_than_the_model(workspace, refuse_training):
    tokenizer = AutoTokenizer.from_pretrained(workspace / "base")
    tokenizer.add_tokens(["new", "w99"])
    tokenizer.save_pretrained(workspace / "base")
    write_rows(workspace / "new.csv", "text,label,topic", ["w3,negative,a", "w99,neutral,a"] * 20)
    has(refuse_training(), "`new.path` has a token that is none of the model's 60 on sample 1, 3", "Use the tokenizer")


# --- the model -------------------------------------------------------------------------------------------------------


def drop(*names):
    def drop_files(folder):
        for name in names:
            (folder / name).unlink()

    return drop_files


def strip_head(folder):
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)


def regression(folder):
    change_json(folder / "config.json", id2label={"0": "a"}, label2id={"a": 0})
    change_weights(
        folder, lambda all_: {n: w[:1].contiguous() if n.startswith("classifier") else w for n, w in all_.items()}
    )


def no_padding(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("command", ["train", "predict"])
@pytest.mark.parametrize(
    ("change", "part"),
    [
        (drop("tokenizer.json", "tokenizer_config.json"), "The folder `base` has no tokenizer: none of tokenizer*, "),
        (drop("tokenizer.json"), "No tokenizer can be loaded from `base`: Couldn't instantiate the backend tokenizer"),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{"),
            "No tokenizer can be loaded from `base`: Expecting property name enclosed in double quotes: line 1",
        ),
        (no_padding, "The tokenizer `base` has no padding token, but samples of several lengths share a batch."),
        (
            drop("model.safetensors"),
            "`model.path` is `base`, but no model can be loaded from there: Error no file named",
        ),
        (drop("config.json"), "`model.path` is `base`, but no model can be loaded from there: Unrecognized model"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            "`model.path` is `base`, but no model can be loaded from there: It looks like the config file at",
        ),
        (
            lambda folder: change_json(folder / "config.json", model_type="bertt"),
            "no model can be loaded from there: The checkpoint you are trying to load has model type `bertt`",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100),
            "`model.path` is `base`, but no model can be loaded from there: Error while deserializing header",
        ),
        (
            lambda folder: change_json(folder / "config.json", vocab_size=50),
            "The model `base` has weights that do not fit its `config.json`: `bert.embeddings.word_embeddings.weight` "
            "is of shape (60, 16) instead of (50, 16)",
        ),
        (
            strip_head,
            "The model `base` has no trained weights for classifier.bias, classifier.weight, so it does not know the "
            "prior task yet. Fine-tune it on the prior task first",
        ),
        (regression, "The model `base` has 1 class(es)"),
        (
            lambda folder: change_json(folder / "config.json", problem_type="multi_label_classification"),
            "The model `base` has 3 class(es) and the problem type `multi_label_classification`, but",
        ),
    ],
)
def test_model_folders_that_lack_something(workspace, refuse, command, change, part):
    change(workspace / "base")
    has(refuse(command, "config.toml"), part)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("./nope", "`./nope`, but there is no such folder. Correct the path."),
        ("../nope", "`../nope`, but there is no such folder"),
        ("/nope/nope", "`/nope/nope`, but there is no such folder"),
        ("~/nope", "`~/nope`, but there is no such folder"),
        ("nope/", "`nope/`, but there is no such folder"),
        ("runs/a/model", "`runs/a/model`, but there is no such folder"),
        ("base/nope", "`base/nope`, but there is no such folder"),
        ("new.csv/x", "`new.csv/x`, but there is no such folder"),
        ("new.csv", "`new.csv`, which is a file, but a folder is needed there. Name the folder."),
    ],
)
@pytest.mark.parametrize("key", ["model.path", "model.tokenizer"])
def test_models_that_are_no_folder(refuse_training, monkeypatch, path, part, key):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "mixcd.edge.model.model_place.reach_hub", lambda: pytest.fail("the hub was asked for a local path")
    )
    has(refuse_training(f"{key}={path}"), f"`{key}` is {part}")


@pytest.mark.parametrize("name", ["nope", "nobody/nope"])
def test_hub_names_without_a_hub(refuse_training, monkeypatch, name):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("mixcd.edge.model.model_place.reach_hub", lambda: False)
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", lambda *_, **__: pytest.fail("asked"))
    has(
        refuse_training(f"model.path={name}"),
        f"`model.path` is `{name}`, but no model can be loaded from there: no such folder is here, no copy was "
        "downloaded, and the Hugging Face hub is not reached. Name a folder",
    )
    has(refuse_training(f"model.tokenizer={name}"), f"No tokenizer can be loaded from `{name}`: no such folder is here")


@pytest.mark.parametrize(
    ("content", "part"), [(None, "Unrecognized model in other"), ("notes.txt", "Unrecognized model in other")]
)
def test_empty_and_foreign_folders_are_no_model(workspace, refuse_training, content, part):
    (workspace / "other").mkdir()
    if content:
        (workspace / "other" / content).write_text("mine")
    has(refuse_training("model.path=other"), "`model.path` is `other`, but no model can be loaded from there: ", part)
    has(refuse_training("model.tokenizer=other"), "The folder `other` has no tokenizer")


def test_losses_that_are_not_finite(workspace, refuse_training):
    def spoil(weights):
        weights["classifier.weight"][:] = float("nan")
        return weights

    change_weights(workspace / "base", spoil)
    line = refuse_training(leaves="run(/cache(/.lock|/manifest.json)?)?")
    has(line, "The base model's loss is NaN or infinite on prior sample 0, 1, 2, 3, 4 and 251 more.", "Check these")


@pytest.mark.parametrize(("command", "part_count"), [("train", 0), ("predict", 3)])
def test_a_base_model_that_is_right_on_too_little_leaves_no_cache_but_the_one_asked_for(
    workspace, refuse, command, part_count
):
    labels = {"negative": "neutral", "neutral": "positive", "positive": "negative"}
    text = (workspace / "prior.csv").read_text()
    (workspace / "prior.csv").write_text(re.sub("|".join(labels), lambda found: labels[found[0]], text))
    line = refuse(command, "config.toml", leaves="run(/cache(/.*)?)?")
    has(line, "The base model is right on ", "% of the prior samples, but rehearsal needs at least 20%", "Check that")
    found = read_manifest(Path("run/cache"))
    assert (0 if found is None else len(found.parts)) == part_count


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("base", "`base` holds no run of mixcd, but `config.json`, `model.safetensors`, "),
        ("new.csv", "`new.csv` is a file, but a run needs a folder. Set `run` to a new or empty folder."),
        ("new.csv/x", "`new.csv/x` cannot be used: Not a directory. Choose a place that can be read and written."),
        ("/proc/nope", "`/proc/nope` cannot be used: No such file or directory."),
        ("a" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("options", [("train",), ("train", "--overwrite"), ("train", "--resume")])
def test_run_folders_that_cannot_be(refuse, options, path, part):
    has(refuse(options[0], "config.toml", "--set", f"run={path}", *options[1:]), part)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("base", "`base` is not a prediction cache: it holds other files and no `manifest.json`."),
        ("new.csv", "`new.csv` is not a prediction cache"),
        ("new.csv/x", "`new.csv/x` cannot be used: Not a directory."),
        ("/proc/nope", "`/proc/nope` cannot be used: No such file or directory."),
    ],
)
@pytest.mark.parametrize("command", ["train", "predict"])
def test_cache_folders_that_cannot_be(refuse, command, path, part):
    has(refuse(command, "config.toml", "--set", f"rehearsal.cache={path}"), part)


def deny(monkeypatch, method, name):
    """Make a file or folder unreadable, as root too."""
    before = getattr(Path, method)

    def denied(self, *arguments, **options):
        if str(self) == name:  # as the command names it
            raise PermissionError(13, "Permission denied", str(self))
        return before(self, *arguments, **options)

    monkeypatch.setattr(Path, method, denied)


@pytest.mark.parametrize(
    ("method", "name", "part"),
    [
        ("read_text", "config.toml", "`config.toml` cannot be read: Permission denied. Make it readable."),
        ("open", "new.csv", "`new.path` names new.csv, which cannot be read: Permission denied. Make it readable."),
        ("mkdir", "run", "`run` cannot be used: Permission denied. Choose a place that can be read and written."),
        ("glob", "base", "`base` cannot be used: Permission denied. Choose a place that can be read and written."),
    ],
)
def test_places_that_may_not_be_used(refuse_training, monkeypatch, method, name, part):
    deny(monkeypatch, method, name)
    has(refuse_training(), part)


# --- caches ----------------------------------------------------------------------------------------------------------


def other_data(folder):
    replace(folder / "prior.csv", "w3", "w4")


def other_model(folder):
    shutil.copy(folder / "run" / "model" / "model.safetensors", folder / "base")


def other_tokenizer(folder):
    replace(folder / "base" / "tokenizer.json", '"w59"', '"w60"')


def fewer_data(folder):
    lines = (folder / "prior.csv").read_text().splitlines(keepends=True)
    (folder / "prior.csv").write_text("".join(lines[:100]))


def other_manifest(old, new):
    return lambda folder: replace(folder / "run" / "cache" / "manifest.json", old, new)


def other_part(change, place="."):
    return lambda folder: change(folder / "run" / "cache" / place / "part-000000.parquet")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (other_data, "The cache `run/cache` was made from another data and preprocessing."),
        (other_model, "The cache `run/cache` was made from another model."),
        (other_tokenizer, "The cache `run/cache` was made from another tokenizer"),
        (fewer_data, "The cache `run/cache` covers 540 samples, but the prior data have 89."),
        (other_manifest('"seed": 0', '"seed": 1'), "`run/cache/manifest.json` cannot be read: it was altered"),
        (other_manifest('"format": 3', '"format": 4'), "`run/cache/manifest.json` has format 4, but this version"),
        (other_manifest("{", "["), "`run/cache/manifest.json` cannot be read: "),
        (other_part(cut), "The cache part `run/cache/part-000000.parquet` was truncated or altered"),
        (other_part(flip), "The cache part `run/cache/part-000000.parquet` was truncated or altered"),
        (other_part(Path.unlink), "The cache part `run/cache/part-000000.parquet` is missing."),
        (
            other_part(flip, "held_out_prior"),
            "The cache part `run/cache/held_out_prior/part-000000.parquet` was truncated or altered",
        ),
    ],
)
def test_a_shared_cache_that_does_not_match(finished, refuse, change, part):
    change(finished)
    has(refuse("train", "config.toml", "--set", "run=second", "--set", "rehearsal.cache=run/cache"), part)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_replaced_unasked(finished, refuse):
    line = refuse("train", "config.toml")
    has(
        line,
        "`run` holds a run that finished.",
        "pass `--overwrite` to delete it and start anew, or set another `run`.",
    )
    assert "--resume" not in line


def test_an_unfinished_run_is_not_replaced_unasked(unfinished, refuse):
    line = refuse("train", "config.toml")
    has(
        line,
        "its last checkpoint is of step 28",
        "go on with `mixcd train run/config.toml --resume`, pass `--overwrite`",
    )


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("rehearsal.mix_ratio=0.5", "`rehearsal.mix_ratio` was 0.25 and is 0.5"),
        ("training.learning_rate=1e-3", "`training.learning_rate` was 0.005 and is 0.001"),
        ("training.seed=1", "`training.seed` was None and is 1"),
        ("model.path=run/model", "`model.path` was 'base' and is 'run/model'"),
        ("new.path=prior.csv", "`new.path` was 'new.csv' and is 'prior.csv'"),
        ("batch_size=16", "`batch_size` was None and is 16"),
        ("rehearsal.cache=other", "`rehearsal.cache` was None and is 'other'"),
    ],
)
def test_a_resumed_run_keeps_its_config(unfinished, refuse, setting, part):
    line = refuse("train", "config.toml", "--resume", "--set", setting)
    has(line, "The run in `run` was started with another config: ", part, "Resume with `mixcd train run/config.toml")


@pytest.mark.parametrize(
    ("setting", "rows"),
    [("training.per_device_train_batch_size=16", 16), ("training.gradient_accumulation_steps=2", 16)],
)
def test_a_resumed_run_keeps_its_block(unfinished, refuse, setting, rows):
    has(refuse("train", "config.toml", "--resume", "--set", setting), "8", f"{rows}")


@pytest.mark.parametrize("change", [other_data, fewer_data, other_tokenizer])
def test_a_resumed_run_keeps_its_data(unfinished, refuse, change):
    change(unfinished)
    has(refuse("train", "config.toml", "--resume"), "The cache `run/cache` ")


@pytest.mark.parametrize("setting", ["rehearsal.mix_ratio=0.01", "training.report_to=nope", "new.path=nope.csv"])
def test_a_refused_overwrite_keeps_the_run(finished, refuse, setting):
    refuse("train", "config.toml", "--overwrite", "--set", setting)


@pytest.mark.parametrize("options", [(), ("--resume",), ("--overwrite",)])
@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "`run/run.json` cannot be read: Expecting property name"),
        ("[]", "`run/run.json` cannot be read: "),
        ("{}", "`run/run.json` cannot be read: "),
        ('{"format": 2}', "`run/run.json` has format 2, but this version of mixcd reads up to 1. Upgrade mixcd"),
        ('{"format": 1, "state": "training"}', "`run/run.json` cannot be read: "),
        ('{"format": 1, "state": "odd"}', "`run/run.json` cannot be read: "),
    ],
)
def test_records_that_cannot_be_read(unfinished, refuse, content, part, options):
    (unfinished / "run" / "run.json").write_text(content)
    has(refuse("train", "config.toml", *options), part)


# --- the other commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("nope", "`nope` holds no run. Name the folder of a run that `mixcd train` made."),
        ("base", "`base` holds no run of mixcd, but `config.json`"),
        ("new.csv", "`new.csv` is a file, but a run needs a folder."),
    ],
)
def test_evaluate_without_a_run(refuse, path, part):
    has(refuse("evaluate", path), part)


def test_evaluate_an_unfinished_run(unfinished, refuse):
    has(refuse("evaluate", "run"), "There is no model `run/model`: the run got as far as ", "Go on with `mixcd train ")


def test_evaluate_into_what_exists(finished, refuse):
    for output in ("base", "new.csv"):
        line = refuse("evaluate", "run", "--output", output)
        has(line, f"`{output}` exists already, and nothing is overwritten. Name a new folder.")


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("./nope", "`--model` is `nope`, but "),
        ("base/nope", "`--model` is `base/nope`, but there is no such folder. Correct the path."),
        ("run", "`--model` is `run`, but no model can be loaded from there: "),
        ("new.csv", "`--model` is `new.csv`, which is a file, but a folder is needed there."),
        (
            "turned",
            "`--model` is `turned`, which knows positive, neutral, negative, but the base model knows negative, ",
        ),
    ],
)
def test_evaluate_models_that_cannot_be(finished, refuse, monkeypatch, model, part):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    shutil.copytree(finished / "base", finished / "turned")
    labels = ["positive", "neutral", "negative"]
    change_json(
        finished / "turned" / "config.json",
        id2label={str(number): label for number, label in enumerate(labels)},
        label2id={label: number for number, label in enumerate(labels)},
    )
    has(refuse("evaluate", "run", "--model", model), part)


def test_evaluate_other_data(finished, refuse):
    other_data(finished)
    has(refuse("evaluate", "run"), "The cache `run/cache/held_out_prior` was made from another data")


def test_evaluate_without_held_out_data(finished, refuse):
    replace(finished / "run" / "config.toml", "held_out = 0.1", "held_out = 0.0")
    has(refuse("evaluate", "run"), "The run `run` held out no prior data, so there is nothing to judge on.")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nope"], "`nope` does not exist. A partition is tried on what the base model predicted. Run `mixcd predict`"),
        (["base"], "`base` is not a prediction cache: it holds other files and no `manifest.json`."),
        (["new.csv"], "`new.csv` is not a prediction cache"),
        (["run/cache", "--by", "column:nope"], "The cache `run/cache` has no column `nope`; it has `topic`."),
        *(
            (
                ["run/cache", "--by", text],
                f'"{text}" is no partition: write "loss:10", "column:NAME" or "features:10". ',
            )
            for text in ("", "x", "loss:", "loss:1.5", "loss:-1", "loss:10:3", "column:")
        ),
        (["run/cache", "--by", "loss:0"], "`bins` is 0, but a partition needs at least 1 bin."),
    ],
)
def test_partition(finished, refuse, arguments, part):
    has(refuse("partition", *arguments), part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (other_manifest('"seed": 0', '"seed": 1'), "`run/cache/manifest.json` cannot be read: it was altered"),
        (other_part(flip), "The cache part `run/cache/part-000000.parquet` was truncated or altered"),
        (other_part(Path.unlink), "The cache part `run/cache/part-000000.parquet` is missing."),
    ],
)
def test_partition_of_an_altered_cache(finished, refuse, change, part):
    change(finished)
    has(refuse("partition", "run/cache"), part)


@pytest.mark.parametrize("share", ["0", "2", "-1", "nan", "1.0001"])
def test_predict_a_share_that_is_none(refuse, share):
    line = refuse("predict", "config.toml", "--share", share)
    has(line, f"`share` is {float(share)}, but it must lie in (0, 1]. Pass 1 to predict every prior sample.")


def test_predict_what_the_cache_does_not_match(finished, refuse):
    has(refuse("predict", "config.toml", "--share", "0.5"), "holds a share of 1 of the prior data, but 0.5 was asked")
    other_data(finished)
    has(refuse("predict", "config.toml"), "The cache `run/cache` was made from another data and preprocessing.")


INIT = ("--model", "base", "--prior", "prior.csv", "--new")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["config.toml", *INIT, "new.csv"], "`config.toml` exists already, and nothing is overwritten. Name another"),
        (["base", *INIT, "new.csv"], "`base` exists already"),
        (["x/y.toml", *INIT, "new.csv"], "`x/y.toml` cannot be written: there is no folder `x`. Make it"),
        (["new.csv/y.toml", *INIT, "new.csv"], "`new.csv/y.toml` cannot be written: there is no folder `new.csv`."),
        ([*INIT, "nope.csv"], "`new.path` names nope.csv, but there is no such file or folder."),
        ([*INIT, "numbers.csv"], "`new.path` has no column that holds text: a, b. Name data with a text column."),
        ([*INIT, "texts.csv"], "`new.path` has no column that looks like a label beside `a`: a, b."),
    ],
)
def test_init(workspace, refuse, arguments, part):
    write_rows(workspace / "numbers.csv", "a,b", ["1,2", "3,4"])
    write_rows(workspace / "texts.csv", "a,b", ["x,1.5", "y,2.5", "z,3.25"])
    has(refuse("init", *arguments), part)


def test_init_of_two_tasks(workspace, refuse):
    (workspace / "pairs.jsonl").write_text('{"source": "a", "target": "b"}\n')
    line = refuse("init", *INIT, "pairs.jsonl")
    has(line, "`prior.0.path` has the columns of classification, text, label, topic, but `new.path` has those of ")
    has(line, "sequence-to-sequence. One model learns both, so they must be of one task. Name data of one task.")


def test_init_names_prior_sets_apart(workspace, capfd):
    (workspace / "other").mkdir()
    shutil.copy(workspace / "prior.csv", workspace / "other")
    with pytest.raises(SystemExit):
        run(["init", *INIT, "new.csv", "--prior", "other/prior.csv"])
    with pytest.raises(SystemExit) as done:
        run(["train", "mixcd.toml", "--dry-run"])
    assert not done.value.code, capfd.readouterr().err


# --- the command line itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nope"], "No such command 'nope'."),
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["--nope"], "No such option: --nope."),
        (["train"], "Missing argument 'CONFIG'."),
        (["train", "config.toml", "--nope"], "No such option: --nope."),
        (["train", "config.toml", "more"], "Got unexpected extra argument(s) (more)."),
        (["train", "config.toml", "--set"], "Option '--set' requires an argument."),
        (["train", "config.toml", "--resume=1"], "Option '--resume' does not take a value."),
        (["predict", "config.toml", "--share", "x"], "Invalid value for '--share': "),
        (["predict"], "Missing argument 'CONFIG'."),
        (["partition"], "Missing argument 'cache'."),
        (["evaluate"], "Missing argument 'run'."),
        (["init"], "Missing option '--model'."),
        (["demo", "--seed", "-1"], "Invalid value for '--seed': Input should be greater than or equal to 0."),
        ([], "No command is named."),
        (["--debug"], "No command is named."),
    ],
)
def test_commands_and_options_that_are_none(refuse, arguments, part):
    line = refuse(*arguments)
    has(line, part)
    assert line.endswith(" See `mixcd --help`.")


@pytest.fixture
def fault(monkeypatch):
    def boom(*_arguments, **_options):
        raise RuntimeError("boom\nand more")

    monkeypatch.setattr("mixcd.edge.config.config.read_config", boom)


def test_an_internal_fault_is_one_line_with_a_hint(workspace, fault, capfd):
    with pytest.raises(SystemExit) as done:
        run(["train", "config.toml"])
    assert done.value.code == 1
    assert capfd.readouterr().err == (
        "Internal fault, RuntimeError: boom and more. Run the command again with `--debug` for the traceback, and "
        "report it.\n"
    )


@pytest.mark.parametrize("arguments", [["--debug", "train", "config.toml"], ["train", "config.toml", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(workspace, fault, capfd, arguments):
    with pytest.raises(SystemExit) as done:
        run(arguments)
    assert done.value.code == 1
    told = capfd.readouterr().err
    has(
        told, "Traceback (most recent call last):", "RuntimeError: boom\nand more\n", "\nInternal fault, RuntimeError: "
    )


def test_debug_shows_the_traceback_of_a_wrong_request_too(workspace, capfd):
    with pytest.raises(SystemExit) as done:
        run(["train", "config.toml", "--debug", "--set", "model.path=./nope"])
    assert done.value.code == 2
    told = capfd.readouterr().err
    has(told, "Traceback (most recent call last):")
    assert told.endswith("\n`model.path` is `./nope`, but there is no such folder. Correct the path.\n")


def test_another_process_says_which_it_is(workspace, monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        run(["train", "nope.toml"])
    assert capfd.readouterr().err.startswith("[process 1] There is no config `nope.toml`.")


def test_what_transformers_warns_of_is_shown_when_nothing_is_refused(workspace, capfd):
    with as_in_a_shell(), pytest.raises(SystemExit) as done:
        run(["train", "config.toml", "--set", "training.gradient_checkpointing=true"])
    assert not done.value.code
    has(capfd.readouterr().err, "FutureWarning: `gradient_checkpointing` is deprecated")


@pytest.mark.slow
def test_a_fresh_process_prints_one_line_as_well(workspace):
    shutil.copytree(workspace / "base", workspace / "bare")
    change_weights(workspace / "bare", lambda all_: {n: w for n, w in all_.items() if "classifier" not in n})
    done = subprocess.run(
        [sys.executable, "-m", "mixcd", "train", "config.toml", "--set", "model.path=bare"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "HF_DATASETS_CACHE": str(workspace / "hf-datasets")},
    )
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done.stderr
    has(done.stderr, "has no trained weights")
    assert not (workspace / "run").exists()


@pytest.mark.slow
def test_a_port_in_use_is_told_by_torchrun(workspace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        address = ("--master-addr", "127.0.0.1", "--master-port", port)
        launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", *address]
        done = subprocess.run(
            [*launched, "-m", "mixcd", "train", "config.toml"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 1
    has(done.stderr, f"port: {port}", "address already in use")
    assert not (workspace / "run").exists()
