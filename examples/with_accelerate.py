"""Rehearsal with Accelerate, on one process or several: `accelerate launch examples/with_accelerate.py CACHE`."""

import sys

import torch
from accelerate import Accelerator
from toy import collate, make_model, make_rows

import mixcd

accelerator = Accelerator(gradient_accumulation_steps=2)
model = make_model().to(accelerator.device)
rehearsal = mixcd.rehearse(
    model,
    make_rows(400, seed=1),
    make_rows(1000, seed=0),
    cache_dir=sys.argv[1],
    mix_ratio=0.25,
    batch_size=8,
    accumulation_steps=2,
    accelerator=accelerator,
    collate_fn=collate,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, rehearsal.loader())
model.train()
for batch in loader:
    with accelerator.accumulate(model):
        with rehearsal.observe(model, batch) as inputs:
            loss = model(**inputs).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    if accelerator.sync_gradients:
        rehearsal.commit()
accelerator.print(f"{rehearsal.counts.observed_count.sum():.0f} prior samples rehearsed, {rehearsal.vitals()}")
accelerator.end_training()
