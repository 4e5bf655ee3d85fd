"""The largest array of the prior pass over SmolLM2-135M with TRL's fused head, against one of tokens × vocabulary.

Made-up rows of equal length; every tensor that PyTorch makes during the prior pass is looked at. With the fused head
off the same pass shows what the logits would have taken. Exit status 1 if the fused pass makes an array as large as
the logits of one batch.

    python benchmarks/fused_prior_pass.py
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trl import SFTConfig, SFTTrainer

from mixcd.matter.base_model.prior_predictions import predict_prior
from mixcd.matter.correctness import RightTokens
from mixcd.run.trainer.trainer_support import collator_of

sys.path.insert(0, str(Path(__file__).parent / "tasks"))

from chat import load_published

ROWS, TOKENS, BATCH_SIZE = 16, 96, 16
MEBIBYTE = 2**20


class LargestArray(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation returns, in bytes; the weights' own views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and look at what it returns."""
        del types
        inputs = {one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        found = func(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if torch.is_tensor(one) and one.untyped_storage().data_ptr() not in inputs:
                self.size = max(self.size, one.numel() * one.element_size())
        return found


def measure(trainer: SFTTrainer, rows: Dataset, *, is_fused: bool) -> int:
    """Return the bytes of the largest array of a prior pass."""
    rule = RightTokens(is_shifted=True, is_fused=is_fused)
    with tempfile.TemporaryDirectory() as folder, LargestArray() as largest:
        predict_prior(
            trainer.model,
            rows,
            Path(folder) / "cache",
            collate_fn=collator_of(trainer, rows),
            correctness=rule,
            batch_size=BATCH_SIZE,
            progress=False,
            least_share_right=0.0,
            features=16,
        )
    return largest.size


def main() -> int:
    """Measure, and print.

    Returns:
        The exit status.
    """
    disable_progress_bars()
    torch.set_num_threads(1)
    model, tokenizer = load_published()
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, model.config.vocab_size, (ROWS, TOKENS)).tolist()
    rows = Dataset.from_dict({"input_ids": tokens, "labels": tokens})
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(output_dir=folder, report_to="none", bf16=False, use_cpu=True, disable_tqdm=True)
        trainer = SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
        fused, plain = (measure(trainer, rows, is_fused=one) for one in (True, False))
    logits = BATCH_SIZE * TOKENS * model.config.vocab_size * 4
    print(
        f"logits of one batch, {BATCH_SIZE} × {TOKENS} tokens × {model.config.vocab_size}: {logits / MEBIBYTE:.0f} MiB"
    )
    print(f"largest array of the prior pass: {fused / MEBIBYTE:.0f} MiB fused, {plain / MEBIBYTE:.0f} MiB otherwise")
    return int(fused >= logits)


if __name__ == "__main__":
    sys.exit(main())
