"""Starts the processes of a group, as `torchrun` would."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path

from forked import Forked


def launch(processes, folder, *arguments, worker="two_process_worker.py"):
    """Start the processes of a group, as `torchrun` would; return what each wrote."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        group = []
        for rank in range(processes):
            env = {
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
                **{"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)},
                "CUDA_VISIBLE_DEVICES": "",  # they would share a GPU
            }
            script = Path(__file__).with_name(worker)
            group.append(stack.enter_context(Forked(script, folder, *arguments, env=env)))
        for process in group:
            _, err = process.communicate()
            assert process.returncode == 0, err[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]
