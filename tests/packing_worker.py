"""One process of `test_packing_trainers.py`: trains on packed rows, and writes what it drew and learnt."""

import argparse
import json
import os
from pathlib import Path

import torch

import mixcd
from mixcd.matter.base_model.model_fingerprint import fingerprint_weights
from tiny import record_blocks
from tiny_packed import make_packing_trainer, make_texts

STEPS = 12


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accumulation", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    trainer = make_packing_trainer(
        args.folder, max_steps=STEPS, gradient_accumulation_steps=args.accumulation, ddp_backend="gloo"
    )
    rehearsal = mixcd.attach(trainer, make_texts(150, seed=1), mix_ratio=0.25)
    blocks = record_blocks(rehearsal, STEPS)
    trainer.train()
    mixture = rehearsal._loop.state.mixture
    result = {
        "blocks": blocks,
        "mixture": [mixture.new_row_count, mixture.prior_tokens, mixture.all_tokens],
        "observed_count": rehearsal.counts.observed_count.tolist(),
        "weights": fingerprint_weights(trainer.model),
    }
    (args.folder / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(result))
    torch.distributed.barrier()  # no process leaves while another still talks to it
    torch.distributed.destroy_process_group()
    os._exit(0)  # what was asked is written; gloo's threads now and then abort a process that ends by itself


if __name__ == "__main__":
    main()
