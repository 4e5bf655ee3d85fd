import dataclasses
from contextlib import suppress

import pytest
from transformers import TrainingArguments

from mixcd.edge.config.config import Config
from mixcd.edge.train.arguments import check_arguments, make_arguments, resolve_arguments
from mixcd.words.errors import SettingError


def make_config(training, **changes):
    return Config.model_validate(
        {
            "run": "runs/a",
            "model": {"path": "base"},
            "new": {"path": "new.csv"},
            "prior": [{"path": "old.csv"}],
            "rehearsal": {"mix_ratio": 0.25},
            "training": {"use_cpu": True, **training},
            **changes,
        }
    )


def test_arguments_pass_through():
    made = make_arguments(make_config({"learning_rate": 1, "lr_scheduler_type": "cosine", "max_steps": 7}))
    assert (made.learning_rate, made.lr_scheduler_type, made.max_steps) == (1, "cosine", 7)
    assert made.output_dir == "runs/a/checkpoints"


def test_every_argument_of_transformers_has_a_type_that_is_understood():
    for field in dataclasses.fields(TrainingArguments):
        assert not isinstance(field.type, str), field.name  # a type, not its text: values can be checked
        with suppress(SettingError):  # and no other error
            check_arguments({field.name: object()})


def test_values_in_a_list_and_of_classes_are_left_to_transformers():
    check_arguments({"debug": ["underflow_overflow"], "label_names": [1], "parallelism_config": {}})


def test_all_faults_are_told_at_once():
    with pytest.raises(SettingError) as error:
        check_arguments(
            {
                "learning_rat": 1,
                "max_steps": "ten",
                "fp16": 1,
                "seed": 1.5,
                "output_dir": "x",
                "zzz": 1,
                "optim": "nope",
            }
        )
    message = str(error.value)
    for part in (
        "`training.learning_rat` is not in TrainingArguments of transformers, did you mean `learning_rate`?",
        "`training.max_steps` is 'ten', but transformers wants a whole number",
        "`training.fp16` is 1, but transformers wants true or false",
        "`training.seed` is 1.5, but transformers wants a whole number",
        "`training.output_dir` cannot be set",
        "`training.optim` is 'nope', but transformers wants one of adamw_torch, ",
        "`training.zzz` is not in TrainingArguments of transformers (known: ",
    ):
        assert part in message


@pytest.mark.parametrize("training", [{"load_best_model_at_end": True}, {"warmup_steps": -1}])
def test_what_transformers_refuses_is_told_in_its_words(training):
    with pytest.raises(SettingError, match="transformers refuses the config's `training`: .+ Correct it"):
        make_arguments(make_config(training))


@pytest.mark.parametrize(("rows", "processes", "accumulation"), [(4, 1, 8), (8, 2, 2), (16, 2, 1)])
def test_the_batch_size_is_that_of_a_step_over_all_processes(monkeypatch, rows, processes, accumulation):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    seen = resolve_arguments(make_config({"per_device_train_batch_size": rows}, batch_size=32))
    assert seen["gradient_accumulation_steps"] == accumulation


@pytest.mark.parametrize(("rows", "processes"), [(5, 1), (8, 3), (64, 1)])
def test_rows_and_processes_must_divide_the_batch(monkeypatch, rows, processes):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(
        SettingError, match=f"`batch_size` is 32, but .* make {rows * processes}, which does not divide"
    ):
        make_arguments(make_config({"per_device_train_batch_size": rows}, batch_size=32))


def test_a_backend_for_several_processes_does_not_stop_a_single_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert make_arguments(make_config({"ddp_backend": "gloo"})).world_size == 1
