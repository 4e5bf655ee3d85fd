"""Rehearsal in a plain PyTorch loop: three lines of it are mixcd's; what was kept and lost at the end."""

import sys

import torch
from toy import collate, make_model, make_rows

import mixcd

model = make_model()  # the base model: it knows the prior task
rehearsal = mixcd.rehearse(
    model,
    make_rows(400, seed=1),
    make_rows(1000, seed=0),
    cache_dir=sys.argv[1],
    mix_ratio=0.25,
    batch_size=16,
    collate_fn=collate,
    held_out=make_rows(200, seed=2),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model.train()
for _epoch in range(2):
    for batch in rehearsal.loader():
        with rehearsal.observe(model, batch) as inputs:
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rehearsal.commit()
print(f"{rehearsal.counts.observed_count.sum():.0f} prior samples rehearsed; {rehearsal.evaluate()}")
