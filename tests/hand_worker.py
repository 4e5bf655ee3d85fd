"""One process of `test_hand_rehearsal.py`: a loop of one's own with Accelerate."""

import argparse
import json
import os
from pathlib import Path

import torch
from accelerate import Accelerator

import mixcd
from tiny import collate, make_model, make_rows, record_blocks

STEPS = 12


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accumulation", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=args.accumulation)
    model = make_model(dropout=0.0)
    rehearsal = mixcd.rehearse(
        model,
        make_rows(120, seed=2, task="new"),
        make_rows(2500, seed=1, task="prior"),
        args.folder / "cache",
        mix_ratio=0.25,
        batch_size=4,
        accumulation_steps=args.accumulation,
        accelerator=accelerator,
        collate_fn=collate,
        held_out=make_rows(200, seed=3, task="prior"),
        probe=mixcd.Probe(100, every=3),
    )
    blocks = record_blocks(rehearsal, STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, rehearsal.loader())
    model.train()
    step = 0
    for batch in loader:
        with accelerator.accumulate(model):
            with rehearsal.observe(model, batch) as inputs:
                loss = model(**inputs).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            rehearsal.commit()
            step += 1
        if step == STEPS:
            break
    if accelerator.is_main_process:
        rehearsal.evaluate()  # the other process waits for nothing here
    evaluation, report = rehearsal.evaluate().prior, args.folder / "report.html"
    rehearsal.report(report)
    accelerator.wait_for_everyone()
    result = {
        "evaluation": {"before": evaluation.score_before, "after": evaluation.score_after},
        "report_is_there": report.exists(),
        "probed_count": rehearsal._loop.state.probed.total.counts.observed_count.tolist(),
        "blocks": {str(step): blocks[step] for step in range(STEPS)},
        "observed_count": rehearsal.counts.observed_count.tolist(),
        "beliefs": {
            str(step): [array.tolist() for array in belief] for step, belief in rehearsal._loop.state.beliefs.items()
        },
    }
    (args.folder / f"rank-{accelerator.process_index}.json").write_text(json.dumps(result))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    os._exit(0)  # as in `two_process_worker.py`


if __name__ == "__main__":
    main()
