import subprocess
import sys

import pytest

from forked import COMMAND, run_forked
from mixcd.edge.demo import demo


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mixcd", *arguments], capture_output=True, text=True, timeout=600, check=False
    )


def test_version_and_help():
    assert run("--version").stdout == "mixcd 0.1.0\n"
    assert "demo" in run("--help").stdout


def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for options, message in (
        ([], "exists and is not empty, and nothing is overwritten unasked"),
        (["--overwrite"], "holds no earlier demo, so it is not replaced"),
    ):
        done = run_forked(COMMAND, "demo", "--quick", "--output", tmp_path, *options)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
        assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_quick_demo_runs_through_and_replaces_only_a_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "QUICK", demo.DemoSize(base_steps=6, steps=4, test_count=60, prior_count=160))
    done = run_forked(COMMAND, "demo", "--quick", "--output", tmp_path / "demo")
    assert done.returncode == 0, done.stderr[-2000:]
    for word in ("no rehearsal", "uniform", "mix-cd", "one seed, an illustration", "prior pass"):
        assert word in done.stdout
    assert (tmp_path / "demo" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "demo" / "base" / "model.safetensors").exists()
    assert run_forked(COMMAND, "demo", "--quick", "--output", tmp_path / "demo").returncode == 2


def test_a_missing_package_is_named_with_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from mixcd.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "The command line needs the package `typer`, which is not installed. Run `pip install 'mixcd[cli]'`.\n"
    )


@pytest.mark.parametrize("command", ["sweep", "frontier"])
def test_without_the_bench_its_two_commands_name_it(monkeypatch, command):
    monkeypatch.setitem(sys.modules, "plotly", None)
    done = run_forked(COMMAND, command, "any.file")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"`mixcd {command}` needs the package `plotly`, which is not installed. Run `pip install 'mixcd[bench]'`.\n"
    )
    assert run_forked(COMMAND, command, "--help").returncode == 0
