"""What `mixcd frontier` prints, draws and refuses."""

import json
import re

import pytest

from frontier_rows import make_row, make_sweep
from mixcd.edge.bench.sweep.sweep_results import write_results
from mixcd.edge.cli import run

ALL = ("uniform", "drift", "none", "oracle-hard")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "toy.parquet", make_sweep(methods=ALL))
    return tmp_path


@pytest.fixture
def call(folder, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments, code=0):
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            run(("frontier", *arguments))
        captured = capfd.readouterr()
        assert (done.value.code or 0) == code, captured.err
        assert code == 0 or (captured.out == "" and captured.err.count("\n") == 1)
        return captured.err.rstrip("\n") if code else captured.out

    return call


def find_row(table, method):
    return next((line.split() for line in table.splitlines() if line.startswith(f" {method} ")), None)


def test_tables_show_scores_comparisons_and_volumes(call):
    shown = call("toy.parquet")
    scores, comparison, volumes = re.split(r"^(?=Less|Hypervolume)", shown, flags=re.M)
    assert scores.startswith("toy, test half: scores in %")
    assert find_row(scores, "drift") == ["drift", "0.1*", "3", "62.8", "88.0", "27.2", "20.0", "0", "%"]
    assert find_row(scores, "oracle-hard")[-3:] == ["0", "%,", "free"]
    assert comparison.startswith("Less uniform, in points, seed by seed")
    assert find_row(comparison, "drift") == ["drift", "0.1", "3", "+1.8", "+0.0", "+1.8", "42.9", "%"]
    assert find_row(comparison, "none") == ["none", "0", "0", "–", "–", "-10.0†", "–"]
    assert find_row(comparison, "uniform") is None
    assert volumes.startswith("Hypervolume ×10⁴ above the base model's new score")
    assert find_row(volumes, "none") == ["none", "1", "3", "0.0", "–", "0"]


def test_json_holds_the_whole_report(call):
    report = json.loads(call("toy.parquet", "--format", "json", "--half", "validation", "--against", "drift"))
    assert (report["task"], report["half"], report["against"], report["oracle"]) == (
        "toy",
        "validation",
        "drift",
        "oracle-hard",
    )
    point = report["methods"][-1]["points"][0]
    assert point["matched"]["gain"]["value"] == pytest.approx(-0.018)
    assert len(point["prior"]["interval"]) == 2


def test_several_files_of_one_task_are_joined(call, folder):
    write_results(folder / "a.parquet", make_sweep(methods=("uniform",)))
    write_results(folder / "b.parquet", make_sweep(methods=("drift", "none", "oracle-hard")))
    assert call("a.parquet", "b.parquet") == call("toy.parquet")


def test_one_seed_is_shown_without_intervals_and_it_is_said(call, folder):
    write_results(folder / "one.parquet", make_sweep(seeds=1))
    shown = call("one.parquet")
    assert "Fewer than 2 seeds: there are no intervals, and one seed decides nothing.\n" in shown
    assert "…" not in shown


def test_pictures_are_written_whole_and_never_replaced_unasked(call, folder):
    arguments = ("toy.parquet", "--png", "out.png", "--html", "out.html")
    call(*arguments)
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "out.html").read_text("utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in folder.iterdir()) == ["out.html", "out.png", "toy.parquet"]
    (folder / "out.html").write_text("mine")
    line = call("toy.parquet", "--html", "out.html", code=2)
    assert line.startswith("`out.html` exists already, and nothing is overwritten unasked.")
    assert (folder / "out.html").read_text() == "mine"
    call(*arguments, "--overwrite")
    assert (folder / "out.html").read_text("utf-8") != "mine"


def test_the_page_needs_no_network_and_escapes_names(call, folder):
    evil = "<script>alert(1)</script>"
    rows = [
        {**row, "method": evil if row["method"] == "drift" else row["method"], "task": "<img src=x>$a^"}
        for row in make_sweep()
    ]
    write_results(folder / "evil.parquet", rows)
    call("evil.parquet", "--html", "out.html", "--png", "out.png")
    page = (folder / "out.html").read_text("utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)\s*=", page)
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page


def test_names_are_shown_as_they_are(call, folder):
    names = {"uniform": "uniform", "drift": "[red]_a$b^\x1b[2J", "none": "_none"}
    rows = [{**row, "method": names[row["method"]]} for row in make_sweep()]
    write_results(folder / "odd.parquet", rows)
    shown = call("odd.parquet", "--png", "odd.png")
    assert "[red]_a$b^ [2J" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nope.parquet"], "`nope.parquet` cannot be read as a results file: "),
        (["text.parquet"], "`text.parquet` cannot be read as a results file: "),
        (
            ["empty.parquet"],
            "`empty.parquet` holds no runs, but a frontier needs at least one. Run `mixcd sweep` first",
        ),
        (["toy.parquet", "other.parquet"], "The results are of the tasks `toy` and `other`, but a frontier is of one"),
        (
            ["toy.parquet", "again.parquet"],
            "The run of `drift` at mix ratio 0.1, seed 0 is there twice, with different",
        ),
        (["toy.parquet", "--half", "tset"], "`tset` is not a half of the held-out data, did you mean `test`?"),
        (["toy.parquet", "--half", ""], "`` is not a half of the held-out data (known: `test`, `validation`)."),
        (["toy.parquet", "--format", "jsn"], "`--format` is `jsn`, which is not a format, did you mean `json`?"),
        (["toy.parquet", "--against", "drfit"], "names the method `drfit`, but the results hold no run of it, did you"),
        (["toy.parquet", "--oracle", "oracle"], "hold no run of it, did you mean `oracle-hard`?"),
        (
            ["toy.parquet", "--png", "toy.parquet", "--overwrite"],
            "`toy.parquet` is named twice, but a picture needs",
        ),
        (["toy.parquet", "--png", "x", "--html", "x"], "`x` is named twice"),
        (["toy.parquet", "--report", "toy.parquet", "--overwrite"], "`toy.parquet` is named twice"),
        (["toy.parquet", "--png", "no/x.png"], "`no/x.png` cannot be written: there is no folder `no`. Make it first."),
        (["toy.parquet", "--html", "folder", "--overwrite"], "`folder` is a folder, but a picture is a file."),
        ([], "Missing argument 'RESULTS'"),
    ],
)
def test_wrong_requests_are_one_line_and_write_nothing(call, folder, arguments, part):
    (folder / "text.parquet").write_text("text")
    (folder / "folder").mkdir()
    write_results(folder / "empty.parquet", [])
    write_results(folder / "other.parquet", [make_row(task="other")])
    write_results(folder / "again.parquet", [make_row("drift", 0.1, prior=0.1)])
    before = sorted(folder.rglob("*"))
    assert part in call(*arguments, code=2)
    assert sorted(folder.rglob("*")) == before


def test_only_the_methods_asked_for_are_shown_beside_those_compared_with(call, folder):
    write_results(folder / "more.parquet", make_sweep(methods=(*ALL, "counts")))
    whole, part = (json.loads(call("more.parquet", "--format", "json", *more)) for more in ((), ("--only", "drift")))
    assert [method["name"] for method in part["methods"]] == ["drift", "none", "oracle-hard", "uniform"]
    kept = [method for method in whole["methods"] if method["name"] == "drift"]
    assert kept[0]["points"][0]["matched"] == part["methods"][0]["points"][0]["matched"]
    assert "did you mean `drift`?" in call("more.parquet", "--only", "drif", code=2)
