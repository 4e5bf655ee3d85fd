import tomllib
from inspect import signature
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcd.edge.bench.sweep.sweep_config import MethodConfig
from mixcd.edge.cli import partition
from mixcd.edge.config.config import Config, RehearsalConfig, list_values, parse_correctness, read_config, render
from mixcd.edge.config.data_config import COLUMNS, ColumnsConfig, Task
from mixcd.edge.task_kind import TASK_KINDS
from mixcd.ideas.collateral_damage_estimator import ESTIMATORS, Counts, Drift, Paper
from mixcd.ideas.partition_strategy import PARTITIONS, ByColumn, ByFeatures, ByPriorLoss, parse_partition
from mixcd.ideas.partition_strategy.combined import Combined
from mixcd.ideas.probe import Probe
from mixcd.matter.correctness import RULES, NearTarget, RightClass, RightTokens
from mixcd.run.own_loop.rehearse import rehearse
from mixcd.run.trainer.attach import attach
from mixcd.words.errors import SettingError

LEAST = """\
run = "runs/a"
[model]
path = "base"
[new]
path = "new.csv"
[[prior]]
path = "old.csv"
[rehearsal]
mix_ratio = 0.25
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def fault(path, *settings):
    with pytest.raises(SettingError) as error:
        read_config(path, settings)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_defaults_are_filled_in(write):
    config = read_config(write(LEAST))
    assert config.rehearsal.partition is None
    assert config.partition == ByPriorLoss(10)
    assert config.new.held_out == 0.1
    assert not config.model.trust_remote_code
    assert config.cache_folder == Path("runs/a/cache")
    assert config.training == {}


def test_a_resolved_config_is_itself_a_config(write):
    config = read_config(write(LEAST + 'cache = "c"\n[training]\nlr_scheduler_kwargs = { a = [1, 2] }\n'))
    assert read_config(write(render(config))) == config
    assert config.cache_folder == Path("c")


values = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.text(max_size=20))


@given(
    training=st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), values, max_size=4),
    held_out=st.floats(0, 0.99),
    path=st.text(min_size=1, max_size=20),
    mix_ratio=st.floats(0.01, 0.99),
)
def test_rendering_loses_nothing(training, held_out, path, mix_ratio):
    config = Config.model_validate(
        {
            "run": path,
            "model": {"path": path},
            "new": {"path": [path], "held_out": held_out},
            "prior": [{"path": path, "name": path, "held_out": {"split": path}}],
            "rehearsal": {"mix_ratio": mix_ratio},
            "training": training,
        }
    )
    assert Config.model_validate(tomllib.loads(render(config))) == config


def test_settings_change_values_by_key(write):
    config = read_config(
        write(LEAST),
        [
            "training.learning_rate=1e-4",
            "prior.0.path=other.csv",
            "new.held_out={split='test'}",
            "run=b c",
            "batch_size=8",
        ],
    )
    assert config.training == {"learning_rate": 1e-4}
    assert config.prior[0].path == "other.csv"
    assert config.new.held_out.split == "test"
    assert (config.run, config.batch_size) == ("b c", 8)
    assert list_values(config)["prior.0.path"] == "other.csv"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lag", "`--set lag` is not key=value"),
        ("=3", "`--set =3` is not key=value"),
        ("prior.1.path=x", "there is no `1` in a list of 1"),
        ("prior.x=1", "there is no `x` in a list of 1"),
        ("run.x.y=1", "there is no `x` in 'runs/a'"),
    ],
)
def test_settings_that_lead_nowhere_are_refused(write, setting, message):
    assert message in fault(write(LEAST), setting)


def test_all_faults_are_told_at_once_each_with_its_key(write):
    message = fault(
        write(
            """\
run = 3
batchsize = 8
[model]
pth = "base"
max_length = 0
[new]
path = ["a", 3]
held_out = 1.5
[new.columns]
txt = "a"
[[prior]]
path = "a"
held_out = {}
[rehearsal]
mix_ratio = 2
partition = ["los:10"]
estimator = "auot"
"""
        )
    )
    for part in (
        "faults: ",
        "`run` is 3: input should be a valid string",
        "`batchsize` is unknown, did you mean `batch_size`?",
        "`model.path` is missing",
        "`model.pth` is unknown, did you mean `path`?",
        "`model.max_length` is 0: input should be greater than or equal to 1",
        "`new.path.1` is 3",
        "`new.held_out` is 1.5: input should be less than 1",
        "`new.columns.txt` is unknown, did you mean `text`?",
        "`prior.0.held_out` needs a `path` or a `split` of its own",
        "`rehearsal.mix_ratio` is 2",
        '`rehearsal.partition`: "los:10" is no partition: write "loss:10"',
        "`rehearsal.estimator` is 'auot'",
        "Correct the file, or pass `--set`.",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("format = 2\n", "is written for format 2, but this version of mixcd reads up to 1. Upgrade mixcd."),
        ("format = 0\n", "`format` is 0"),
        ("batch_size = 1\n", "`batch_size` is 1"),
        ("a = [\n", "is not TOML"),
        ("zzz = 1\n", "`zzz` is unknown (known: `format`, `run`"),
    ],
)
def test_faults_at_the_top(write, change, message):
    assert message in fault(write(change + LEAST))


def test_contradictions_are_refused(write):
    assert "`batch_size` and `training.gradient_accumulation_steps` contradict each other" in fault(
        write("batch_size = 8\n" + LEAST + "[training]\ngradient_accumulation_steps = 2\n")
    )
    assert "`prior` has 2 data sets, so each needs a `name` of its own" in fault(
        write(LEAST + '[[prior]]\npath = "x"\n')
    )


def test_files_that_are_no_config_are_refused(tmp_path):
    assert "There is no config" in fault(tmp_path / "none.toml")
    assert "is a folder, but a config is a TOML file" in fault(tmp_path)
    (tmp_path / "latin.toml").write_bytes('run = "é"'.encode("latin-1"))
    assert "is not UTF-8: invalid continuation byte at byte 7" in fault(tmp_path / "latin.toml")


def test_partitions_are_made_of_their_text():
    assert parse_partition(["loss"]) == ByPriorLoss(10)
    assert parse_partition(["column:a:b"]) == ByColumn("a:b")
    combined = parse_partition(["loss:3", "column:topic"])
    assert isinstance(combined, Combined)
    assert combined.column_names == ("topic",)
    assert parse_partition(["features:8"]) == ByFeatures(8)
    assert parse_partition(["column:topic", "features:8"]).reads_features
    for text in ("", "loss:", "loss:x", "column:", "topic", "features", "features:", "features:x"):
        with pytest.raises(SettingError, match="is no partition"):
            parse_partition([text])


@pytest.mark.parametrize("text", ["loss:0", "features:0"])
def test_partitions_without_bins_are_refused(text):
    with pytest.raises(SettingError, match="`bins` is 0"):
        parse_partition([text])


def test_what_is_no_partition_is_told_what_one_is():
    with pytest.raises(SettingError) as failure:
        parse_partition(["feature:8"])
    assert str(failure.value) == (
        '"feature:8" is no partition: write "loss:10", "column:NAME" or "features:10". The number is how many bins.'
    )


def test_the_schema_knows_every_section():
    schema = Config.model_json_schema()
    assert set(schema["$defs"]) == {
        "AdapterConfig",
        "ColumnsConfig",
        "DataConfig",
        "HeldOutConfig",
        "ModelConfig",
        "PriorConfig",
        "ProbeConfig",
        "RehearsalConfig",
    }
    assert schema["additionalProperties"] is False
    undescribed = [
        f"{name}.{key}"
        for name, section in schema["$defs"].items()
        for key, value in section["properties"].items()
        if "description" not in value
    ]
    assert undescribed == []


FOREIGN = {
    "classification": {"question", "context", "answers", "source", "target"},
    "question-answering": {"text", "text_pair", "label", "source", "target"},
    "sequence-to-sequence": {"text", "text_pair", "label", "question", "context", "answers"},
    "text-generation": {"text", "text_pair", "label", "question", "context", "answers", "source", "target"},
}


@pytest.mark.parametrize("task", FOREIGN)
def test_columns_of_other_tasks_are_refused_together(write, task):
    own = set(ColumnsConfig.model_fields) - FOREIGN[task]
    read_config(write(LEAST), [f"task={task}", *(f"new.columns.{key}=x" for key in own)])
    message = fault(
        write(LEAST),
        f"task={task}",
        *(f"{place}.columns.{key}=x" for place in ("new", "prior.0") for key in FOREIGN[task]),
    )
    for place in ("new", "prior.0"):
        for key in FOREIGN[task]:
            assert f"`{place}.columns.{key}` is of another task than `{task}`, wh" in message
    known = "TRL reads by the names `messages`, `prompt` and `completion`, or `text`"
    assert (
        known if task == "text-generation" else f"which has {', '.join(f'`{key}`' for key in COLUMNS[task])}"
    ) in message


def test_rules_for_tokens_are_for_tasks_with_tokens(write):
    graded = ["rehearsal.least_share=0.5", "rehearsal.loss_tolerance=0.1"]
    for task in ("sequence-to-sequence", "text-generation"):
        config = read_config(write(LEAST), [f"task={task}", graded[0]])
        assert (config.rehearsal.least_share, config.rehearsal.loss_tolerance) == (0.5, None)
        assert "`rehearsal.least_share` and `rehearsal.loss_tolerance` are two rules" in fault(
            write(LEAST), f"task={task}", *graded
        )
    message = fault(write(LEAST), "task=question-answering", *graded)
    for key in ("least_share", "loss_tolerance"):
        assert f"`rehearsal.{key}` grades target tokens, which samples of `question-answering` do not have" in message


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("task=translation", "`task` is 'translation': input should be 'classification', 'question-answering', "),
        ("rehearsal.least_share=0", "`rehearsal.least_share` is 0: input should be greater than 0"),
        ("rehearsal.least_share=1.1", "`rehearsal.least_share` is 1.1: input should be less than or equal to 1"),
        ("rehearsal.loss_tolerance=-1", "`rehearsal.loss_tolerance` is -1: input should be greater than or equal to 0"),
        ("rehearsal.loss_tolerance=inf", "`rehearsal.loss_tolerance` is inf: input should be a finite number"),
        ("adapter.rank=0", "`adapter.rank` is 0: input should be greater than or equal to 1"),
        ("adapter.rnk=2", "`adapter.rnk` is unknown, did you mean `rank`?"),
        ("adapter.dropout=1", "`adapter.dropout` is 1: input should be less than 1"),
        ("adapter.target_modules=[]", "`adapter.target_modules` "),
    ],
)
def test_values_of_tasks_and_adapters_outside_what_makes_sense(write, setting, part):
    assert part in fault(write(LEAST), setting)


@pytest.mark.parametrize(
    ("value", "estimator"),
    [
        ('"auto"', "auto"),
        ('"paper"', Paper()),
        ('"shrunk"', Counts(smoothing="shrunk")),
        ('{ name = "counts", discount = 0.98 }', Counts(discount=0.98)),
        ('{ name = "drift", ridge = 2, score = "drop" }', Drift(ridge=2, score="drop")),
    ],
)
def test_an_estimator_is_a_name_or_a_name_with_settings(write, value, estimator):
    config = read_config(write(LEAST), [f"rehearsal.estimator={value}"])
    assert config.estimator == estimator
    written = write(render(config))
    assert read_config(written).estimator == estimator


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("{ discount = 0.9 }", "`rehearsal.estimator` is None, which is not an estimator"),
        ('{ name = "count" }', "`rehearsal.estimator` is 'count', which is not an estimator, did you mean `counts`?"),
        ('{ name = "auto", discount = 0.9 }', '"auto" is no estimator'),
        ('{ name = "counts", discont = 0.9 }', '`settings` names `discont`, but the estimator "counts" has `discount`'),
        (
            '{ name = "counts", discount = "x" }',
            "is 'x': input should be a valid number",
        ),
        (
            '{ name = "counts", smoothing = "none" }',
            "is 'none': input should be 'beta'",
        ),
        ('{ name = "drift", ridge = 0 }', "`ridge` is 0, but it must be positive"),
        ('{ name = "counts", discount = [1] }', '`discount` of the estimator "counts" is [1]: input should be'),
    ],
)
def test_an_estimator_that_makes_no_sense_is_refused_by_its_key(write, value, part):
    with pytest.raises(SettingError) as failure:
        read_config(write(LEAST), [f"rehearsal.estimator={value}"])
    assert part in str(failure.value)
    assert "`rehearsal.estimator`" in str(failure.value)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ('"right-class"', RightClass()),
        ('{ name = "right-tokens", least_share = 0.7 }', RightTokens(0.7)),
        ('{ name = "near-target", tolerance = 0.5 }', NearTarget(0.5)),
    ],
)
def test_a_rule_is_a_name_or_a_name_with_settings(write, value, rule):
    config = read_config(write(LEAST), [f"rehearsal.correctness={value}"])
    assert parse_correctness(config.rehearsal.correctness) == rule
    assert read_config(write(render(config))) == config


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ('"right-clas"', '"right-clas" is no rule, did you mean `right-class`?'),
        ('"near-target"', 'The rule "near-target" needs `tolerance`'),
        ('{ name = "right-tokens", least_share = 2 }', "`least_share` is 2"),
        ("{ least_share = 0.5 }", '"" is no rule'),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_by_its_key(write, value, part):
    message = fault(write(LEAST), f"rehearsal.correctness={value}")
    assert part in message
    assert "`rehearsal.correctness`" in message


def test_two_rules_contradict_each_other(write):
    settings = ["task=text-generation", "rehearsal.correctness=right-tokens", "rehearsal.least_share=0.5"]
    assert "`rehearsal.correctness` and `rehearsal.least_share` are two rules" in fault(write(LEAST), *settings)


def test_what_attach_takes_a_config_takes_by_the_same_name():
    taken = set(signature(attach).parameters) - {"trainer", "prior_data"}
    elsewhere = {
        "held_out": "`prior.held_out`",
        "cache_dir": "`cache`",
    }  # a config says where the data and the cache are
    assert taken - set(RehearsalConfig.model_fields) == set(elsewhere)
    assert taken - set(signature(rehearse).parameters) == set()


def test_floor_features_and_probe_are_as_in_attach(write):
    settings = ["rehearsal.floor=0.2", "rehearsal.features=8", "rehearsal.probe={ sample_count = 16, every = 5 }"]
    config = read_config(write(LEAST), settings)
    assert (config.rehearsal.floor, config.rehearsal.features) == (0.2, 8)
    assert config.probe == Probe(16, every=5, use="audit")
    assert read_config(write(render(config))) == config
    assert read_config(write(LEAST)).probe is None
    for setting, part in (
        ("rehearsal.floor=1.5", "`rehearsal.floor` is 1.5"),
        ("rehearsal.features=-1", "`rehearsal.features` is -1"),
        ("rehearsal.probe={ every = 2 }", "`rehearsal.probe.sample_count` is missing"),
        ("rehearsal.probe={ sample_count = 1, use = 'x' }", "`rehearsal.probe.use` is 'x'"),
    ):
        assert part in fault(write(LEAST), setting)


def test_help_and_schema_name_all_that_the_tables_hold():
    schema = Config.model_json_schema()["$defs"]["RehearsalConfig"]["properties"]
    for name in ESTIMATORS:
        assert name in schema["estimator"]["description"]
        assert name in MethodConfig.model_fields["estimator"].description
    for name in PARTITIONS:
        for text in (
            schema["partition"]["description"],
            MethodConfig.model_fields["partition"].description,
            signature(partition).parameters["by"].annotation.__metadata__[0].help,
        ):
            assert f'"{name}:' in text
    assert all(f'"{name}"' in schema["correctness"]["description"] for name in RULES)
    assert get_args(Task) == tuple(COLUMNS) == tuple(TASK_KINDS)
