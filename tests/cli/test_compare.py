"""`mixcd compare`: what it prints and writes, its exit codes, what it refuses."""

import csv
import json

import pytest
from datasets import load_dataset

from mixcd.cli import run
from mixcd.cli.comparison_tables import make_tables, print_comparison
from mixcd.comparison.comparison import Comparison, SampleDamage, compare_outcomes
from mixcd.evaluation import TaskChange
from outcomes import make_uneven
from tiny import make_rows
from workspace import LABELS, save_named, write_csv


@pytest.fixture
def call(capfd):
    def call(*arguments, code=0):
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            run(("compare", *arguments))
        captured = capfd.readouterr()
        assert (done.value.code or 0) == code, captured.err
        return captured

    return call


@pytest.fixture
def refuse(folders, call):
    def refuse(*arguments):
        """The one line on stderr; nothing is printed."""
        told = call(*arguments, code=2)
        assert told.out == ""
        (line,) = told.err.splitlines()
        return line

    return refuse


def test_the_report_ends_in_a_verdict(folders, call):
    printed = call("base", "tuned", "--data", "held.csv").out
    assert printed.startswith("score    0.")
    for part in (
        "right→wrong",
        "McNemar p = ",
        "By label: lift ",
        "By prior loss: lift ",
        "By topic: lift ",
        "label=neg",
    ):
        assert part in printed
    assert "The 20 most damaged of " in printed
    verdict, rehearsal = printed.splitlines()[-2:]
    assert verdict.startswith("Damage: ")
    assert "Hardest hit: `" in verdict
    assert rehearsal.startswith("Rehearsal: damage is uneven. Drawn by `")


def test_the_base_model_against_itself_broke_nothing(folders, call):
    printed = call("base", "base", "--data", "held.csv", "--fail-above", "0").out
    assert "0 right→wrong, 0 wrong→right" in printed
    assert "Nothing broke: none of the 800 samples went from right to wrong." in printed
    assert "By " not in printed


def test_json_is_all_that_is_printed_and_what_is_written(folders, call):
    told = call("base", "tuned", "--data", "held.csv", "--format", "json", "--output", "out.json")
    assert told.out == (folders / "out.json").read_text("utf-8")
    found = json.loads(told.out)
    assert found["is_damaged"] is True
    assert found["change"]["damaged_count"] == sum(
        one["damaged_count"] for one in next(each for each in found["partitions"] if each["name"] == "topic")["bins"]
    )
    assert len(found["most_damaged"]) == 20
    assert found["verdict"].startswith("Damage: ")
    assert found["damaged_interval"][0] <= found["damaged_share"] <= found["damaged_interval"][1]


def test_json_has_null_for_what_is_not_known(folders, call):
    found = json.loads(call("base", "base", "--data", "held.csv", "--format", "json").out)
    assert all(each["lift"]["value"] is None and each["lift"]["high"] is None for each in found["partitions"])


def test_damage_above_the_rate_exits_3(folders, call):
    told = call("base", "tuned", "--data", "held.csv", "--fail-above", "0.01", code=3)
    assert told.err == "The damaged share is above 0.01, at its lower bound.\n"
    assert "Damage: " in told.out
    call("base", "tuned", "--data", "held.csv", "--fail-above", "0.9")


def test_too_few_samples_are_told_and_fail_no_gate_in_silence(folders, call):
    write_csv(folders / "few.csv", make_rows(20, seed=5, task="prior"))
    printed = call("base", "tuned", "--data", "few.csv").out
    assert "Too few samples to tell: there are 20, and an interval needs at least 30." in printed
    told = call("base", "tuned", "--data", "few.csv", "--fail-above", "0.5", code=2)
    assert told.err.startswith("There are 20 samples, but a bound of the damaged share needs at least 30.")


def test_one_sample_is_compared(folders, call):
    write_csv(folders / "one.csv", make_rows(1, seed=5, task="prior"))
    assert "on 1 samples" in call("base", "tuned", "--data", "one.csv").out


def test_guesses_are_taken_off_when_the_user_says_so(folders, call):
    printed = call("base", "tuned", "--data", "held.csv", "--choices", "3").out
    assert "that guessing among 3 choices explains" in printed


def test_settings_go_through(folders, call):
    printed = call("base", "tuned", "--data", "held.csv", "--column", "topic", "--tolerance", "0.9").out
    assert "By label" not in printed
    assert "within the tolerance of 90.0%." in printed
    call("base", "tuned", "--data", "held.csv", "--max-length", "2", "--batch-size", "3")


def test_files_of_every_kind_and_splits_are_read(folders, call):
    data = load_dataset("csv", data_files="held.csv", split="train")
    data.to_parquet("held.parquet")
    data.train_test_split(0.25, shuffle=False).save_to_disk("saved")
    expected = call("base", "tuned", "--data", "held.csv").out
    assert call("base", "tuned", "--data", "held.parquet").out == expected
    assert "on 200 samples" in call("base", "tuned", "--data", "saved", "--split", "test").out
    assert "on 1,600 samples" in call("base", "tuned", "--data", "held.csv", "--data", "held.csv").out


def test_the_cache_is_filled_once(folders, call):
    first = call("base", "tuned", "--data", "held.csv", "--cache", "cache").out
    assert (folders / "cache" / "manifest.json").exists()
    assert call("base", "tuned", "--data", "held.csv", "--cache", "cache").out == first


def test_nothing_is_written_unasked(folders, call):
    before = {path.name for path in folders.iterdir()}
    call("base", "tuned", "--data", "held.csv")
    assert {path.name for path in folders.iterdir()} - before <= {"hf-datasets"}


def test_a_file_that_is_there_is_replaced_only_if_asked(folders, call):
    (folders / "out.json").write_text("mine")
    told = call("base", "tuned", "--data", "held.csv", "--output", "out.json", code=2).err
    assert told == (
        "`out.json` exists already, and nothing is overwritten unasked. Name another file, or pass `--overwrite`.\n"
    )
    assert (folders / "out.json").read_text() == "mine"
    call("base", "tuned", "--data", "held.csv", "--output", "out.json", "--overwrite")
    assert json.loads((folders / "out.json").read_text())["tolerance"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--output", "base"), "`base` is a folder, but the comparison is a file. Name a file."),
        (("--output", "no/out.json"), "`no/out.json` cannot be written: there is no folder `no`. Make it first."),
        (("--format", "jsn"), "`--format` is `jsn`, which is no format, did you mean `json`?"),
        (("--tolerance", "2"), "`tolerance` is 2.0, but it is a share of the samples, from 0 to below 1. Pass such as"),
        (("--choices", "1"), "`choices` is 1, but a multiple-choice question has at least 2 options."),
        (("--column", "topik"), "`columns` names `topik`, which `data` does not have, did you mean `topic`?"),
        (("--text", "txt"), "`data` has no column `txt`; did you mean `text`?"),
        (("--split", "test"), "`data` names a file, which has no split `test`. Leave `split` out."),
        (("--fail-above", "2"), "Invalid value for '--fail-above': "),
    ],
)
def test_a_wrong_request_is_one_line(refuse, arguments, told):
    assert refuse("base", "tuned", "--data", "held.csv", *arguments).startswith(told)


def test_other_labels_are_one_line(folders, refuse, base_model):
    save_named(base_model, folders / "other", ("negative", "neutral", "great"))
    assert refuse("base", "other", "--data", "held.csv") == (
        "The models know other labels: only the base model has `positive`; only the fine-tuned model has `great`. They "
        "are compared on the same labels. Name models of the same task."
    )


def test_data_that_are_not_there_are_one_line(refuse):
    assert refuse("base", "tuned", "--data", "no.csv").startswith("`data` names no.csv, but there is no such file")


def test_hostile_texts_are_shown_inert(folders, call):
    texts = ["\x1b[31mred\x07", "[bold]x[/bold]", "\u202ertl", "w20 " + "x" * 10_000, "<script>alert(1)</script>"]
    rows = list(make_rows(400, seed=5, task="prior"))
    with (folders / "hostile.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "topic"])
        for number, row in enumerate(rows):
            words = " ".join(f"w{token}" for token in row["input_ids"])
            hostile = texts[number % len(texts)]
            writer.writerow([f"{words} {hostile}", LABELS[row["label"]], hostile])
    printed = call("base", "tuned", "--data", "hostile.csv").out
    assert "By topic" in printed
    assert not any(mark in printed for mark in ("\x1b", "\x07", "\u202e", "x" * 200))
    assert "[bold]x[/bold]" in printed


def test_many_bins_are_cut_and_counted(capsys):
    from rich.console import Console

    before, after, topic = make_uneven()
    names = [("topic", topic)]
    comparison = compare_outcomes(before, after, names, most_damaged=[SampleDamage(3, 0.1, 2.0, None, None, "a text")])
    print_comparison(comparison, Console(width=100))
    printed = capsys.readouterr().out
    assert "bins more" not in printed
    assert "label" not in printed
    assert "a text" in printed
    assert list(make_tables(Comparison(TaskChange(100, 100, 0, 0), ()))) == []
