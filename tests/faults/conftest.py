import shutil

import pytest
import real_run


@pytest.fixture(scope="session")
def template(base_weights, tmp_path_factory):
    """A workspace with dropout, so that the random state matters, and many small checkpoints."""
    folder = tmp_path_factory.mktemp("faults") / "template"
    return real_run.make_template(folder, base_weights, "max_steps = 120", "save_steps = 5")


@pytest.fixture(scope="session")
def reference(template, tmp_path_factory):
    """What the uninterrupted run left, and how many forward passes its prior pass made."""
    folder = real_run.copy_template(template, tmp_path_factory.mktemp("reference") / "workspace")
    code, _, err = real_run.run(folder, "--resume")
    assert code == 0, err[-2000:]
    forward_count = real_run.read_record(folder)["counters"]["prior_pass_forward_count"]
    yield real_run.Reference(folder, real_run.read_outcome(folder / "run"), forward_count)
    shutil.rmtree(folder)
