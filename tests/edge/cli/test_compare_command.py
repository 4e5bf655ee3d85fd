"""`mixcd compare`: what it prints and writes, its exit codes, what it refuses."""

import csv
import json

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM

from mixcd.edge.cli import run
from mixcd.edge.cli.comparison_tables import make_tables, print_comparison
from mixcd.edge.compare.comparison import Comparison, SampleDamage, compare_outcomes
from mixcd.run.outcome.evaluation import TaskChange
from outcomes import make_uneven
from task_workspace import write_rows as write_json_rows
from tiny import make_rows
from tiny_tasks import FAMILIES
from workspace import LABELS, make_tokenizer, save_named, write_csv


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
        "`out.json` exists already, and nothing is overwritten unasked. Name another file, or pass "
        "`overwrite=True` (on the command line `--overwrite`).\n"
    )
    assert (folders / "out.json").read_text() == "mine"
    call("base", "tuned", "--data", "held.csv", "--output", "out.json", "--overwrite")
    assert json.loads((folders / "out.json").read_text())["tolerance"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--output", "one", "--report", "one"), "`one` is named twice, but the comparison needs a file of its own."),
        (("--output", "base"), "`base` is a folder, but the comparison is a file. Name a file."),
        (("--output", "no/out.json"), "`no/out.json` cannot be written: there is no folder `no`. Make it first."),
        (("--format", "jsn"), "`--format` is `jsn`, which is not a format, did you mean `json`?"),
        (("--tolerance", "2"), "`tolerance` is 2.0, but it is a share of the samples, from 0 to below 1. Pass 0.01"),
        (("--choices", "1"), "`choices` is 1, but a multiple-choice question has at least 2 options."),
        (("--column", "topik"), "`columns` names `topik`, which `data` does not have, did you mean `topic`?"),
        (("--text", "txt"), "`data` has no column `txt`; did you mean `text`?"),
        (("--split", "test"), "`data` names a file, which has no split `test`. Leave `split` out."),
        (("--fail-above", "2"), "Invalid value for '--fail-above': "),
        (("--least-share", "0"), "`least_share` is 0.0, but it is a share of the target tokens, in (0, 1]. Pass a"),
        (("--loss-tolerance", "-1"), "`loss_tolerance` is -1.0, but it must be finite and not negative: nats a token."),
        (("--near", "-1"), "Invalid value for '--near': "),
        (
            ("--near", "1", "--least-share", "0.5"),
            "`--least-share` and `--near` are two rules, but one must judge. Pass one of them.",
        ),
        (
            ("--least-share", "0.5"),
            "The rule is to count target tokens, but the labels of `data` are of shape ",
        ),
        (("--near", "0.5"), "The model returned `logits` of shape ("),
        (
            ("--question", "text"),
            "A column is named as `question`, which is of another task than the base model's, whose columns are "
            "`text`, `text_pair`, `label`. Leave it out, or name a model of that task.",
        ),
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


def test_labels_in_another_order_are_matched_by_name(folders, call, base_model):
    order = [2, 0, 1]
    with torch.no_grad():
        for weight in base_model.classifier.parameters():
            weight.copy_(weight[order].clone())
    save_named(base_model, folders / "permuted", [LABELS[number] for number in order])
    assert "0 right→wrong, 0 wrong→right" in call("base", "permuted", "--data", "held.csv").out


def test_other_tokenizers_are_one_line(folders, refuse):
    path = folders / "tuned" / "tokenizer.json"
    stored = json.loads(path.read_text())
    words = stored["model"]["vocab"]
    words["w3"], words["w4"] = words["w4"], words["w3"]
    path.write_text(json.dumps(stored))
    told = refuse("base", "tuned", "--data", "held.csv")
    assert told.startswith("The models have different tokenizers: the fine-tuned model numbers `w")


def test_weights_that_are_no_numbers_are_one_line(folders, refuse, tuned_model):
    with torch.no_grad():
        tuned_model.classifier.bias.fill_(float("nan"))
    save_named(tuned_model, folders / "broken")
    told = refuse("base", "broken", "--data", "held.csv")
    assert told.startswith("The fine-tuned model's loss is NaN or infinite on prior sample 0, 1, 2, 3, 4 and 795 more.")


def test_columns_of_thousands_of_values_and_of_missing_ones_are_binned(folders, call):
    rows = list(make_rows(800, seed=5, task="prior"))
    with (folders / "wide.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "author", "score", "empty"])
        for number, row in enumerate(rows):
            author = f"a{number}" if number < 300 else f"often {number % 100}"
            score = "" if number % 10 == 0 else number / 7
            words = " ".join(f"w{token}" for token in row["input_ids"])
            writer.writerow([words, LABELS[row["label"]], author, score, ""])
    found = json.loads(call("base", "tuned", "--data", "wide.csv", "--format", "json").out)
    bins = {one["name"]: {each["name"]: each["sample_count"] for each in one["bins"]} for one in found["partitions"]}
    assert len(bins["author"]) == 51
    assert bins["author"]["author: 350 other values"] == 300 + 50 * 5
    assert len(bins["score"]) == 11
    assert bins["score"]["score missing"] == 80
    assert bins["empty"] == {"empty missing": 800}


def rename(path, new_names):
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    write_json_rows(path, [{new_names.get(name, name): value for name, value in row.items()} for row in rows])


def test_the_dtype_is_named_wherever_the_comparison_is_shown(folders, call):
    printed = call("base", "tuned", "--data", "held.csv", "--output", "out.json", "--report", "report.html").out
    assert "\nweights  float32\n" in printed
    assert json.loads((folders / "out.json").read_text("utf-8"))["dtype"] == "float32"
    assert "weights held in" in (folders / "report.html").read_text("utf-8")


def test_questions_are_read_from_columns_of_other_names(task_workspace, call):
    folder = task_workspace("question-answering")
    expected = json.loads(call("base", "base", "--data", "prior.jsonl", "--format", "json").out)
    rename(folder / "prior.jsonl", {"question": "ask", "context": "body", "answers": "gold"})
    named = ("--question", "ask", "--context", "body", "--answers", "gold")
    found = json.loads(call("base", "base", "--data", "prior.jsonl", *named, "--format", "json").out)
    assert found["change"] == expected["change"]
    told = call("base", "base", "--data", "prior.jsonl", code=2).err
    assert told.startswith("`data` has no column `question`")


def test_sources_and_targets_are_read_from_columns_of_other_names(task_workspace, call):
    folder = task_workspace("sequence-to-sequence")
    rename(folder / "prior.jsonl", {"source": "en", "target": "de"})
    printed = call("base", "base", "--data", "prior.jsonl", "--source", "en", "--target", "de").out
    assert "on 300 samples" in printed


def test_conversations_are_compared_by_a_share_of_their_tokens(task_workspace, call):
    folder = task_workspace("text-generation")
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=torch.manual_seed(0)))
    model.save_pretrained(folder / "tuned")
    arguments = ("base", "tuned", "--data", "prior.jsonl", "--least-share", "0.5", "--format", "json")
    found = json.loads(call(*arguments).out)
    assert found["change"]["damaged_count"] > 0
    worst = found["most_damaged"][0]
    row = json.loads((folder / "prior.jsonl").read_text().splitlines()[worst["sample_id"]])
    assert worst["label"] == row["completion"][0]["content"]
    assert worst["text"] == f"<user> {row['prompt'][0]['content']} <assistant>"
    assert worst["prediction"] is None
    by_loss = call("base", "tuned", "--data", "prior.jsonl", "--loss-tolerance", "0.1", "--assistant-only-loss").out
    assert "score    1.000" in by_loss


def test_numbers_are_right_when_they_are_near(workspace, call):
    family = FAMILIES["regression"]
    torch.manual_seed(0)
    for name in ("base", "tuned"):
        family.make_model().save_pretrained(workspace / name)
        make_tokenizer().save_pretrained(workspace / name)
    write_json_rows(workspace / "numbers.jsonl", family.make_rows(60, 1, "prior"))
    assert "on 60 samples" in call("base", "tuned", "--data", "numbers.jsonl", "--near", "1.5").out
    told = call("base", "tuned", "--data", "numbers.jsonl", code=2).err
    assert told.startswith("The labels of `data` are numbers to be predicted (a regression), and how near is right is ")
    assert "`mixcd compare --near`" in told
