"""One process of `test_two_processes.py`: trains, and writes what it drew and learnt."""

import argparse
import json
import os
from pathlib import Path

import torch

import mixcd
from kernel_losses import HiddenLoss
from mixcd.matter.base_model.model_fingerprint import fingerprint_weights
from tiny import StopAt, make_model, make_rows, make_trainer, record_blocks
from tiny_tasks import FAMILIES

STEPS = 12
CAUSAL = FAMILIES["causal language model"]


def count_gathered_tables(accelerator):
    """Return a list that grows with every gather of a table: the trainer itself gathers numbers only."""
    calls, gather = [], accelerator.gather

    def counted(tensor):
        calls.extend([None] * (tensor.ndim == 2))
        return gather(tensor)

    accelerator.gather = counted
    return calls


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accumulation", type=int)
    parser.add_argument("--resume", type=int)
    parser.add_argument("--stop", type=int, help="ask one process to stop while this step is planned")
    parser.add_argument("--estimator", default="auto")
    parser.add_argument("--probe", help="what a probe of some samples is for")
    parser.add_argument("--hidden", action="store_true", help="train a language model whose loss shows no logits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_data, build, model = make_rows, make_trainer, make_model(dropout=0.0)
    if args.hidden:
        make_data, build, model = CAUSAL.make_rows, CAUSAL.make_trainer, HiddenLoss(CAUSAL.make_model().config)
        torch.manual_seed(0)
        model.init_weights()
    trainer = build(
        model,
        make_data(120, seed=2, task="new"),
        args.folder,
        max_steps=STEPS,
        gradient_accumulation_steps=args.accumulation,
        per_device_train_batch_size=4,
        save_strategy="steps",
        save_steps=6,
        ddp_backend="gloo",
    )
    rehearsal = mixcd.attach(
        trainer,
        make_data(2500, seed=1, task="prior"),
        mix_ratio=0.25,
        partition=mixcd.ByPriorLoss(5),
        estimator=args.estimator,
        probe=mixcd.Probe(100, every=3, use=args.probe) if args.probe else None,
    )
    blocks = record_blocks(rehearsal, STEPS)
    gathers = count_gathered_tables(trainer.accelerator)
    if args.stop is not None and trainer.args.process_index == 0:
        trainer.add_callback(StopAt(rehearsal, args.stop))
    trainer.train(resume_from_checkpoint=args.resume and str(args.folder / f"checkpoint-{args.resume}"))
    result = {
        "blocks": blocks,
        "observed_count": rehearsal.counts.observed_count.tolist(),
        "beliefs": {
            step: [array.tolist() for array in belief] for step, belief in rehearsal._loop.state.beliefs.items()
        },
        "prior_pass_forward_count": rehearsal.predictions.forward_count,
        "gather_count": len(gathers),
        "probed_count": rehearsal._loop.state.probed.total.counts.observed_count.tolist(),
        "probed_damaged_count": rehearsal._loop.state.probed.total.counts.damaged_count.tolist(),
        "steps_done": trainer.state.global_step,
        "prior_shares": [sum(number >= 120 for number in block) for block in blocks.values()],
        "weights": fingerprint_weights(trainer.model),
    }
    (args.folder / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(result))
    torch.distributed.barrier()  # no process leaves while another still talks to it
    torch.distributed.destroy_process_group()
    os._exit(0)  # what was asked is written; gloo's threads now and then abort a process that ends by itself


if __name__ == "__main__":
    main()
