"""Two gloo processes on the real Trainer draw as one process with accumulation does."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("two_process_worker.py")


def launch(processes, folder, *arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-addr=127.0.0.1",
        f"--master-port={port}", str(WORKER), str(folder), *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_draw_as_one_with_accumulation(tmp_path):
    (alone,) = launch(1, tmp_path / "one", "--accumulation=2")
    first, second = launch(2, tmp_path / "two", "--accumulation=1")
    assert first["blocks"] == second["blocks"] == alone["blocks"]
    assert first["beliefs"] == second["beliefs"]
    assert first["observed_count"] == second["observed_count"] == alone["observed_count"]
    assert first["prior_pass_forward_count"] > 0  # rank 0 predicts, rank 1 reads
    assert second["prior_pass_forward_count"] == 0


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(tmp_path):
    whole, _ = launch(2, tmp_path / "run", "--accumulation=1")
    resumed, _ = launch(2, tmp_path / "run", "--accumulation=1", "--resume=6")
    assert resumed["blocks"] == {step: block for step, block in whole["blocks"].items() if int(step) >= 6}
    assert resumed["weights"] == whole["weights"]
    assert resumed["beliefs"] == whole["beliefs"]
