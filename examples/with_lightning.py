"""Rehearsal in a Lightning module."""

import sys

import lightning
import torch
from toy import collate, make_model, make_rows

import mixcd


class FineTuning(lightning.LightningModule):
    def __init__(self, model, rehearsal):
        super().__init__()
        self.model, self.rehearsal = model, rehearsal

    def training_step(self, batch, _number):
        with self.rehearsal.observe(self.model, batch) as inputs:
            return self.model(**inputs).loss

    def on_train_batch_end(self, *_):
        self.rehearsal.commit()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


model = make_model()
rehearsal = mixcd.rehearse(
    model,
    make_rows(400, seed=1),
    make_rows(1000, seed=0),
    cache_dir=sys.argv[1],
    mix_ratio=0.25,
    batch_size=16,
    collate_fn=collate,
)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", use_distributed_sampler=False, **quiet)
trainer.fit(FineTuning(model, rehearsal), rehearsal.loader())
print(f"{rehearsal.counts.observed_count.sum():.0f} prior samples rehearsed, {rehearsal.vitals()}")
