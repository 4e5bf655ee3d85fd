import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mixcd.edge.bench.sweep.find_task import find_task, load_function
from mixcd.edge.bench.sweep.sweep_config import (
    SweepConfig,
    describe_method,
    list_runs,
    make_spec,
    read_sweep,
    resolve_method,
)
from mixcd.edge.bench.sweep.sweep_method import BUILT_IN, ESTIMATORS, ProbeSettings, choose_estimator
from mixcd.edge.bench.sweep.sweep_run import Judge, make_plain_trainer, require_task, run_once
from mixcd.ideas.partition_strategy import ByColumn, ByPriorLoss
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import DataError, SettingError
from mixcd.words.vocabulary import Partition
from toy_sweep import write_toy


@pytest.fixture
def write(tmp_path):
    """Write `sweep.toml`, more text at its end, and read it."""
    module = write_toy(tmp_path)

    def write(more="", *settings):
        path = tmp_path / "sweep.toml"
        path.write_text(f"{path.read_text()}\n{more}")
        return read_sweep(path, settings)

    write.module = module
    return write


def refusal(write, *arguments):
    with pytest.raises(SettingError) as failure:
        write(*arguments)
    assert not re.search(r"\?\.|\.\.| ,|  ", str(failure.value))
    return str(failure.value)


# --- reading --------------------------------------------------------------------------------------------------------


def test_places_are_seen_from_the_files_folder_and_name_the_sweep(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    sweep = write()
    assert sweep.task == str(tmp_path / f"{write.module}.py:toy")
    assert sweep.results == str(tmp_path / "out" / "toy.parquet")
    assert sweep.work == str(tmp_path / "work")


def test_settings_change_the_file(write):
    sweep = write("", "name=other", "seeds=[7]", "method.counts.floor=0.5", 'methods=["counts"]')
    assert sweep.results.endswith("other.parquet")
    assert list_runs(sweep) == [("counts", 0.25, 7), ("counts", 0.5, 7)]
    assert resolve_method(sweep, "counts").floor == 0.5


@pytest.mark.parametrize(
    ("more", "settings", "part"),
    [
        ("", ["name=a/b"], "`name` is 'a/b': string should match pattern"),
        ("", ["mix_ratios=[0.25, 1.0]"], "`mix_ratios` are [0.25, 1.0], but each must lie inside (0, 1)"),
        ("", ["mix_ratios=[0]"], "`mix_ratios` are [0.0], but each must lie inside (0, 1)"),
        ("", ["mix_ratios=[nan]"], "`mix_ratios` are [nan], but"),
        ("", ["mix_ratios=[]"], "`mix_ratios` is []: list should have at least 1 item"),
        ("", ["mix_ratios=[0.5, 0.25, 0.5]"], "`mix_ratios` names `0.5` twice, but each can be run once"),
        ("", ["seeds=[3, 1, 3]"], "`seeds` names `3` twice, but each can be run once"),
        ("", ["seeds=[-1]"], "`seeds.0` is -1: input should be greater than or equal to 0"),
        ("", ["seeds=[4294967296]"], "`seeds.0` is 4294967296: input should be less than 4294967296"),
        ("", ["seeds=[1.5]"], "`seeds.0` is 1.5: input should be a valid integer"),
        ("", ['methods=["none", "uniform", "none"]'], "`methods` names `none` twice, but each can be run once"),
        ("", ["methods=[]"], "`methods` is []: list should have at least 1 item"),
        ("", ["wise_ft=[1.0]"], "`wise_ft` are [1.0], but each must lie inside (0, 1)"),
        ("", ["wise_ft=[0.5, 0.5]"], "`wise_ft` names `0.5` twice"),
        ("", ["metods=[]"], "`metods` is unknown, did you mean `methods`?"),
        ("[method.x]\nflor = 0.1", [], "`method.x.flor` is unknown, did you mean `floor`?"),
        ("[method.x]\nfloor = 2", [], "`method.x.floor` is 2: input should be less than or equal to 1"),
        ("[method.x]\nlag = 0", [], "`method.x.lag` is 0: input should be greater than or equal to 1"),
        ("[method.x]\nfeatures = 0", [], "`method.x.features` is 0"),
        ("[method.x]\nmix_ratios = [2.0]", [], "`method.x.mix_ratios` are [2.0], but each must lie inside (0, 1)"),
        ("[method.x]\nwise_ft = [0.0]", [], "`method.x.wise_ft` are [0.0], but each must lie inside (0, 1)"),
        ("[method.x]\npartition = []", [], "`method.x.partition` is []: list should have at least 1 item"),
        (
            '[method.x]\nestimator = "cuonts"',
            [],
            "`method.x.estimator` is 'cuonts', which is not an estimator, did you mean `counts`?",
        ),
        ("[method.probe.probe]\nevry = 1", [], "`method.probe.probe.evry` is unknown, did you mean `every`?"),
        ("[method.x.probe]\nsample_count = 0", [], "`method.x.probe.sample_count` is 0"),
        ("[method.x.probe]\nuse = 'both'", [], "`method.x.probe.use` is 'both': input should be 'audit' or 'estimate'"),
        ("[method]\nx = 3", [], "`method.x` is 3: input should be a table of keys and values"),
    ],
)
def test_values_outside_what_makes_sense_are_refused_by_their_place(write, more, settings, part):
    message = refusal(write, more, *settings)
    assert f"sweep.toml`: {part}" in message
    assert message.endswith(" Correct the file, or pass `--set`.")


def test_all_faults_are_told_at_once(write):
    message = refusal(write, "[method.x]\nfloor = 2\nlg = 1", "seeds=[]", "mix_ratios=[3]")
    assert "4 faults: " in message
    assert all(part in message for part in ("`seeds`", "`mix_ratios`", "`method.x.floor`", "`method.x.lg`"))


def test_a_newer_format_is_refused(write):
    assert "is written for format 2, but this version of mixcd reads up to 1" in refusal(write, "", "format=2")


@pytest.mark.parametrize(
    ("more", "settings", "part"),
    [
        (
            "",
            ['methods=["cuonts"]'],
            "`methods` names `cuonts`, which is unknown, did you mean `counts`? Name a method that is built in, or "
            "describe it in a table `[method.cuonts]`.",
        ),
        ('[method.counts]\nlike = "conts"', [], "`method.counts.like` is `conts`, which is unknown, did you mean"),
        (
            "[method.counts]\nsettings = { discont = 0.9 }",
            [],
            '`method.counts`: `settings` names `discont`, but the estimator "counts" has `discount`, `smoothing`. '
            "Correct them.",
        ),
        (
            "[method.uniform]\nsettings = { discount = 0.9 }",
            [],
            '`settings` names `discount`, but the estimator "uniform" has no settings',
        ),
        (
            '[method.counts]\nlike = "drift"\nsettings = { nois = 0.9 }',
            [],
            '`settings` names `nois`, but the estimator "drift" has `discount`, `ridge`, `noise`, `score`',
        ),
        ('[method.counts]\npartition = ["los:10"]', [], '"los:10" is no partition'),
        (
            "[method.counts]\ntraining = { learning_rat = 1e-3 }",
            [],
            "`method.counts`: `training.learning_rat` is not in TrainingArguments of transformers, did you mean",
        ),
        (
            "[method.none]\ntraining = { max_steps = 5 }",
            [],
            "`method.none.training.max_steps` cannot be set: all methods get the task's steps",
        ),
        ("[method.none]\ntraining = { seed = 5 }", [], "`method.none.training.seed` cannot be set: it is the"),
        ("[method.none]\ntraining = { output_dir = 'x' }", [], "`training.output_dir` cannot be set"),
        (
            "[method.uniform]\ntrainer_settings = { strength = 1 }",
            [],
            "`method.uniform` has `trainer_settings`, but names no `trainer` that takes them. Name it, or remove them.",
        ),
    ],
)
def test_methods_that_contradict_themselves_are_refused(write, more, settings, part):
    assert part in refusal(write, more, *settings)


# --- methods --------------------------------------------------------------------------------------------------------


def test_a_built_in_method_needs_no_description(write):
    assert resolve_method(write(), "counts") == BUILT_IN["counts"]


def test_a_method_is_like_the_one_of_its_name_or_like_uniform(write):
    sweep = write('[method.counts]\nfloor = 0.5\n[method.mine]\nlag = 3\n[method.soft]\nlike = "oracle-soft"\nlag = 2')
    assert resolve_method(sweep, "counts").estimator == "counts"
    assert resolve_method(sweep, "counts").floor == 0.5
    assert (resolve_method(sweep, "mine").estimator, resolve_method(sweep, "mine").lag) == ("uniform", 3)
    soft = resolve_method(sweep, "soft")
    assert (soft.estimator, soft.floor, soft.lag, soft.probe) == ("oracle-soft", 0.0, 2, BUILT_IN["oracle-soft"].probe)


def test_a_partition_is_parsed(write):
    sweep = write('[method.counts]\npartition = ["loss:3", "column:label"]')
    assert resolve_method(sweep, "counts").partition == ByPriorLoss(3) * ByColumn("label")


@pytest.mark.parametrize(
    ("like", "change", "expected"),
    [
        ("uniform", "every = 5", ProbeSettings(every=5)),
        ("oracle-hard", "every = 50", ProbeSettings(sample_count=5000, every=50, is_charged=False)),
        ("oracle-hard", "samples_a_draw = 2", ProbeSettings(samples_a_draw=2, every=25, is_charged=False)),
        ("candidate-scoring", "sample_count = 9", ProbeSettings(sample_count=9)),
        ("unbiased", "is_charged = false", ProbeSettings(samples_a_draw=1, is_charged=False)),
        ("uniform", "sample_count = 9\nuse = 'audit'", ProbeSettings(sample_count=9, use="audit")),
    ],
)
def test_a_probe_changes_what_is_said_of_it_and_keeps_the_rest(write, like, change, expected):
    sweep = write(f'[method.x]\nlike = "{like}"\n[method.x.probe]\n{change}')
    assert resolve_method(sweep, "x").probe == expected


def test_wise_ft_shares_are_the_sweeps_unless_a_method_has_its_own(write):
    sweep = write("[method.counts]\nwise_ft = []\n[method.mine]\nwise_ft = [0.9]", "wise_ft=[0.5, 0.8]")
    shares = {name: resolve_method(sweep, name).wise_ft for name in ("none", "counts", "mine")}
    assert shares == {"none": (0.5, 0.8), "counts": (), "mine": (0.9,)}


def test_every_built_in_method_can_be_made():
    for name, method in BUILT_IN.items():
        assert method.estimator in (None, *ESTIMATORS), name
        assert method.estimator is None or choose_estimator(method), name


def test_a_permuted_partition_keeps_the_sizes_of_its_bins():
    class Predictions:
        base_correct = np.ones(50, bool)

    partition = Partition(np.arange(50) // 20, ("a", "b", "c"))
    estimator = choose_estimator(BUILT_IN["permuted"]).bind(partition, Predictions())
    assert estimator.partition.bin_sizes.tolist() == [20, 20, 10]
    assert estimator.partition.bin_ids.tolist() != partition.bin_ids.tolist()


# --- runs -----------------------------------------------------------------------------------------------------------


def test_runs_are_methods_times_mix_ratios_times_seeds_and_one_without_rehearsal(write):
    sweep = write(
        '[method.counts]\nmix_ratios = [0.125]\n[method.plain]\nlike = "none"',
        'methods=["none", "uniform", "counts", "plain"]',
    )
    assert list_runs(sweep) == [
        (name, mix_ratio, seed)
        for seed in (0, 1)
        for name, mix_ratio in [("none", 0.0), ("uniform", 0.25), ("uniform", 0.5), ("counts", 0.125), ("plain", 0.0)]
    ]


def test_all_runs_share_one_cache_that_has_what_the_greediest_needs(write):
    plain = write()
    assert make_spec(plain, ("uniform", 0.25, 0)).features == 0
    greedy = write('[method.mine]\nlike = "drift"\nfeatures = 5', 'methods=["uniform", "drift", "mine"]')
    assert [make_spec(greedy, (name, 0.25, 0)).features for name in ("uniform", "drift", "mine")] == [64, 64, 5]


def test_settings_are_described_alike_for_alike_methods_only(write):
    sweep = write(
        "[method.a]\nfloor = 0.1\nlag = 3\n[method.b]\nlag = 3\nfloor = 0.1\nmix_ratios = [0.1]\nwise_ft = [0.5]\n"
        "[method.c]\nfloor = 0.1\nlag = 4\n[method.counts]\n"
    )
    a, b, c, counts, none = (describe_method(sweep, name) for name in ("a", "b", "c", "counts", "none"))
    assert a == b != c
    assert counts == none == "{}"
    assert json.loads(a) == {"floor": 0.1, "lag": 3}


def test_a_described_trainer_does_not_depend_on_the_folder(write):
    sweep = write(f'[method.x]\ntrainer = "{write.module}.py:make_told_trainer"\ntrainer_settings = {{ a = 1 }}')
    assert json.loads(describe_method(sweep, "x")) == {
        "trainer": f"{write.module}.py:make_told_trainer",
        "trainer_settings": {"a": 1},
    }


def test_what_a_worker_is_sent_is_the_same_sweep(write):
    sweep = write(
        '[method.x]\nlike = "oracle-hard"\nfloor = 0.0\nsettings = {}\n[method.x.probe]\nevery = 7\n'
        f'[method.y]\ntrainer = "{write.module}.py:make_told_trainer"\ntrainer_settings = {{ a = [1, 2.5, "b"] }}',
        "wise_ft=[0.5]",
    )
    sent = SweepConfig.model_validate_json(sweep.model_dump_json(exclude_unset=True))
    assert sent == sweep
    for name in ("x", "y", "none", "counts"):
        assert resolve_method(sent, name) == resolve_method(sweep, name)
        assert describe_method(sent, name) == describe_method(sweep, name)


# --- functions ------------------------------------------------------------------------------------------------------


def test_functions_are_loaded_from_their_file(write, tmp_path):
    function = load_function(f"{tmp_path / write.module}.py:toy")
    assert function.__module__ == write.module
    assert load_function(f"{tmp_path / write.module}.py:toy") is function


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("nope.py:toy", "There is no file `{folder}/nope.py`. Write FILE.py:FUNCTION, seen from the sweep's folder."),
        ("{module}.py", "There is no file `{folder}/{module}.py`. Write FILE.py:FUNCTION"),
        ("{module}.py:toi", "`{folder}/{module}.py` has no function `toi`, did you mean `toy`?"),
        ("{module}.py:NOT_A_FUNCTION", "`{folder}/{module}.py` has no function `NOT_A_FUNCTION`"),
        ("{module}.py:", "`{folder}/{module}.py` has no function ``"),
        ("broken_{module}.py:toy", "`{folder}/broken_{module}.py` cannot be loaded: SyntaxError: "),
        ("raising_{module}.py:toy", "cannot be loaded: ZeroDivisionError: division by zero. It must be a Python file"),
        ("text_{module}.txt:toy", "cannot be loaded: ModuleNotFoundError: No module named 'text_"),
        ("json.py:toy", "`{folder}/json.py` has the name of another module, `"),
    ],
)
def test_functions_that_cannot_be_loaded_are_refused(write, tmp_path, text, part):
    (tmp_path / f"broken_{write.module}.py").write_text("def :")
    (tmp_path / f"raising_{write.module}.py").write_text("1 / 0")
    (tmp_path / f"text_{write.module}.txt").write_text("")
    (tmp_path / "json.py").write_text("def toy(): pass")
    named = {"module": write.module, "folder": tmp_path}
    with pytest.raises(SettingError) as failure:
        find_task(write("", f"task={text.format(**named)}").task)
    assert part.format(**named) in str(failure.value)


@pytest.fixture(autouse=True)
def _paths(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


# --- a config of `mixcd train` as the task --------------------------------------------------------------------------


@pytest.fixture
def config_task(workspace):
    """A sweep whose task is the workspace's config; more of the config can be changed."""

    def read(**replaced):
        path = workspace / "config.toml"
        text = path.read_text()
        for old, new in replaced.items():
            assert old in text, old
            text = text.replace(old, new)
        path.write_text(text)
        (workspace / "sweep.toml").write_text(
            'name = "toy"\ntask = "config.toml"\nresults = "out.parquet"\nwork = "work"\n'
            'methods = ["none", "uniform", "counts"]\nmix_ratios = [0.25]\nseeds = [0, 1]\n'
        )
        return read_sweep(workspace / "sweep.toml")

    return read


def test_a_config_of_train_is_a_task(config_task, workspace):
    sweep = config_task()
    folder = workspace / "work" / "seed-3"
    task = find_task(sweep.task)(3, folder)
    require_task(task)
    assert (len(task.prior), len(task.held_out_prior)) == (540, 60)
    assert (len(task.new), len(task.held_out_new)) == (216, 24)
    assert task.training["max_steps"] == 30
    assert not (workspace / "run").exists()
    folder.mkdir(parents=True)
    judge = Judge(task, folder)
    for name, mix_ratio in (("none", 0.0), ("uniform", 0.25), ("counts", 0.25)):
        (row,) = run_once(task, make_spec(sweep, (name, mix_ratio, 3)), folder, judge, make_plain_trainer)
        assert row["steps"] == row["forward_count"] == 30
        assert row["observed_count"] == (0 if name == "none" else 60)
        assert 0.5 < row["prior_before_test"] <= 1
        assert row["new_after_test"] > row["new_before_test"]


def test_another_seed_holds_out_other_rows(config_task, workspace):
    sweep = config_task()
    texts = [
        {
            row["text"]
            for row in PriorDataset(find_task(sweep.task)(seed, workspace / "work").held_out_prior).rows(range(60))
        }
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_held_out_rows_are_in_random_order_so_that_both_halves_are_alike(config_task, workspace):
    changes = {
        'path = "prior.csv"': 'path = "prior.csv"\nname = "a"',
        "[rehearsal]": '[[prior]]\npath = "new.csv"\nname = "b"\n\n[rehearsal]',
    }
    task = find_task(config_task(**changes).task)(0, workspace / "work")
    of_a = {row["text"] for row in csv.DictReader((workspace / "prior.csv").open())}
    halves = np.array([row["text"] in of_a for row in task.held_out_prior]).reshape(2, -1).mean(1)
    assert halves.mean() == pytest.approx(60 / 84, abs=0.05)
    assert np.ptp(halves) < 0.3


def test_a_batch_of_several_micro_batches_stays_one(config_task, workspace):
    task = find_task(config_task(**{'run = "run"': 'run = "run"\nbatch_size = 32'}).task)(0, workspace / "work")
    assert task.training["gradient_accumulation_steps"] == 4


def test_what_a_config_says_of_saving_and_evaluating_is_left_to_the_sweep(config_task, workspace):
    more = 'eval_strategy = "steps"\neval_steps = 7\nsave_strategy = "steps"\nload_best_model_at_end = true\nmax_steps'
    sweep = config_task(max_steps=more)
    folder = workspace / "work" / "seed-0"
    folder.mkdir(parents=True)
    task = find_task(sweep.task)(0, folder)
    (row,) = run_once(task, make_spec(sweep, ("none", 0.0, 0)), folder, Judge(task, folder), make_plain_trainer)
    assert row["steps"] == 30
    assert not list(folder.rglob("checkpoint-*"))


def test_a_config_without_a_number_of_steps_is_refused(config_task):
    with pytest.raises(SettingError) as failure:
        find_task(config_task(**{"max_steps = 30": "num_train_epochs = 1"}).task)
    assert "config.toml` sets no `training.max_steps`, but a sweep compares methods at equal compute. Set it." in str(
        failure.value
    )


def test_a_config_that_is_not_there_is_refused(config_task, workspace):
    sweep = config_task()
    Path(sweep.task).unlink()
    with pytest.raises(SettingError, match="There is no config"):
        find_task(sweep.task)


def test_a_config_that_holds_nothing_out_is_refused(config_task, workspace):
    sweep = config_task(**{'path = "prior.csv"': 'path = "prior.csv"\nheld_out = 0.0'})
    with pytest.raises(DataError, match="holds out no data of one of the tasks, but a sweep judges on them"):
        find_task(sweep.task)(0, workspace / "work")


def test_a_worker_reads_the_same_methods_from_what_it_is_sent(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(
        'name = "a"\ntask = "t.py:make"\nresults = "r.parquet"\nwork = "w"\nmethods = ["none", "drift", "sharp"]\n'
        'mix_ratios = [0.25]\nseeds = [0]\n[method.sharp]\nlike = "drift"\nsettings = { noise = 0.0 }\n'
    )
    sweep = read_sweep(path)
    sent = SweepConfig.model_validate_json(sweep.model_dump_json(exclude_unset=True))
    assert [resolve_method(sent, name) for name in sweep.methods] == [
        resolve_method(sweep, name) for name in sweep.methods
    ]
    assert resolve_method(sent, "sharp").estimator == "drift"
