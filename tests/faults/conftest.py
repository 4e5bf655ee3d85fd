import shutil
import time

import pytest

import real_run


@pytest.fixture(scope="session")
def template(base_weights, tmp_path_factory):
    """A workspace with dropout, so that the random state matters, and many small checkpoints."""
    folder = tmp_path_factory.mktemp("faults") / "template"
    return real_run.make_template(folder, base_weights, "max_steps = 120", "save_steps = 5")


@pytest.fixture(scope="session")
def reference(template, tmp_path_factory):
    """What the uninterrupted run left, how long it was active, and how many forward passes its prior pass made."""
    folder = real_run.copy_template(template, tmp_path_factory.mktemp("reference") / "workspace")
    process = real_run.start(folder, "--resume")
    while not (folder / "hf").exists() and process.poll() is None:
        time.sleep(0.002)
    began = time.monotonic()
    code, _, err = real_run.end(process)
    active_s = time.monotonic() - began
    assert code == 0, err[-2000:]
    forward_count = real_run.read_record(folder)["counters"]["prior_pass_forward_count"]
    yield real_run.Reference(folder, real_run.read_outcome(folder / "run"), active_s, forward_count)
    shutil.rmtree(folder)
