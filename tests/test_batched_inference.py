"""Batched inference keeps nothing of a batch but its results, and these out of the way of the next batch's logits."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import CausalLMOutput

from mixcd.batched_inference import predict_rows
from mixcd.correctness_rule.right_tokens import RightTokens

STATUS, FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROWS, TOKENS, VOCABULARY, BATCH_SIZE = 1600, 32, 8000, 8  # 8 MiB of logits a batch, which glibc takes from the heap


class Guess(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids):
        return CausalLMOutput(logits=torch.randn(*input_ids.shape, VOCABULARY) + self.bias)


def read_mebibytes(name):
    return int(re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text("ascii"))[1]) / 1024


@pytest.mark.skipif(not FORGET_PEAK.exists(), reason="the system does not tell a process's peak of memory")
def test_memory_does_not_grow_from_batch_to_batch():
    rows = [{"input_ids": [1] * TOKENS, "labels": [1] * TOKENS}] * ROWS
    FORGET_PEAK.write_text("5", "ascii")
    before = read_mebibytes("VmRSS")
    with torch.no_grad():
        found, forward_count = predict_rows(
            Guess(),
            rows,
            np.arange(ROWS),
            rule=RightTokens(is_shifted=True),
            collate_fn=lambda part: {name: torch.tensor([row[name] for row in part]) for name in part[0]},
            batch_size=BATCH_SIZE,
            data_name="prior",
        )
    grown = read_mebibytes("VmHWM") - before
    assert (found["loss"].shape, forward_count) == ((ROWS,), ROWS // BATCH_SIZE)
    assert grown < 120, f"{grown:.0f} MiB"  # 50 are the logits of a batch, their sum, and what is made of them
