"""`mixcd train` under torchrun and accelerate launch: two gloo processes, one run folder."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from forked import COMMAND, run_forked
from workspace import make_workspace

TORCHRUN = ("torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1")
ACCELERATE = (
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes=2",
    "--num_machines=1",
    "--mixed_precision=no",
)


def launch(launcher, folder, *arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"HF_DATASETS_CACHE": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if launcher is None:
        return run_forked(COMMAND, "train", "config.toml", *arguments, cwd=folder, env=own)
    port_option = "--master-port" if launcher is TORCHRUN else "--main_process_port"
    return subprocess.run(
        [sys.executable, "-m", *launcher, f"{port_option}={port}", "-m", "mixcd", "train", "config.toml", *arguments],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(base_weights, tmp_path_factory):
    """One run alone and one on two processes, of the same config, without dropout."""
    folders = {}
    for name, launcher in (("alone", None), ("two", TORCHRUN)):
        folder = folders[name] = tmp_path_factory.mktemp(name)
        make_workspace(folder, base_weights, prior_count=3000, dropout=0.0)
        config = folder / "config.toml"
        config.write_text("batch_size = 16\n" + config.read_text() + 'ddp_backend = "gloo"\n')
        done = launch(launcher, folder)
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


def read_steps(folder):
    return pq.read_table(folder / "run" / "steps.parquet").to_pydict()


@pytest.mark.slow
def test_two_launched_processes_train_as_one(runs):
    alone, two = (read_steps(folder) for folder in runs.values())
    assert two["step"] == alone["step"] == list(range(1, 31))
    assert two["prior_share"] == alone["prior_share"] == [0.25] * 30
    for column in ("new_loss", "prior_loss", "damage_rate"):  # the same samples, up to the last bits of the sums
        np.testing.assert_allclose(two[column], alone[column], rtol=1e-3, atol=1e-5)
    assert two["damaged"] == alone["damaged"]
    records = [json.loads((folder / "run" / "run.json").read_text()) for folder in runs.values()]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[1]["counters"]["forward_count"] == 30
    assert 0 < records[1]["counters"]["prior_pass_forward_count"] < records[0]["counters"]["prior_pass_forward_count"]
    for path in sorted((runs["alone"] / "run" / "cache").glob("*.parquet")):
        assert path.read_bytes() == (runs["two"] / "run" / "cache" / path.name).read_bytes(), path


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_as_one(runs):
    folder = runs["two"]
    whole = read_steps(folder)
    shutil.copytree(folder / "run", folder / "kept")
    record = json.loads((folder / "run" / "run.json").read_text())
    (folder / "run" / "run.json").write_text(json.dumps({**record, "state": "training"}))
    for path in ("model", "checkpoints/checkpoint-28", "checkpoints/checkpoint-30"):
        shutil.rmtree(folder / "run" / path)  # as if it had been killed before step 28
    done = launch(None, folder, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming from checkpoint-21" in done.stdout
    resumed = read_steps(folder)
    assert resumed["step"] == list(range(22, 31))
    np.testing.assert_allclose(resumed["prior_loss"][-9:], whole["prior_loss"][-9:], rtol=1e-3, atol=1e-5)
    assert resumed["damaged"][-9:] == whole["damaged"][-9:]


@pytest.mark.slow
def test_accelerate_launches_it_too(base_weights, tmp_path):
    make_workspace(tmp_path, base_weights)
    done = launch(ACCELERATE, tmp_path, "--set", "training.max_steps=5", "--set", "training.ddp_backend=gloo")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    assert done.stdout.count("The fine-tuned model is in") == 1


@pytest.mark.slow
def test_a_wrong_request_ends_all_processes(base_weights, tmp_path):
    make_workspace(tmp_path, base_weights)
    done = launch(TORCHRUN, tmp_path, "--set", "prior.0.path=nope.csv", "--set", "training.ddp_backend=gloo")
    assert done.returncode != 0
    assert "`prior.0.path` names nope.csv, but there is no such file or folder" in done.stderr
    assert not (tmp_path / "run").exists()
