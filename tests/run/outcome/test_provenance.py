import subprocess
from pathlib import Path

import torch

from mixcd.run.outcome import provenance
from mixcd.run.outcome.provenance import describe_software


def git(folder, *command):
    named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *named, *command]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_versions_are_those_of_the_installed_packages():
    assert describe_software()["torch"] == torch.__version__
    assert describe_software().keys() >= {"python", "mixcd", "transformers", "accelerate", "datasets", "numpy"}


def test_the_commit_is_that_of_the_checkout_that_tracks_the_source(tmp_path):
    file, foreign = tmp_path / "own.py", tmp_path / "installed.py"
    for path in (file, foreign):
        path.write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "own.py")
    git(tmp_path, "commit", "-qm", "One")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert provenance._find_commit(file) == head
    assert provenance._find_commit(foreign) is None  # lies in the checkout, but is no part of it
    file.write_text("2")
    assert provenance._find_commit(file) == f"{head}-dirty"


def test_without_a_checkout_or_git_there_is_no_commit(tmp_path, monkeypatch):
    assert provenance._find_commit(tmp_path / "own.py") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._find_commit(Path(provenance.__file__)) is None
