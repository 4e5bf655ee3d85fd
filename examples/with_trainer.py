"""Rehearsal with `transformers.Trainer`: one line of it is mixcd's."""

import sys

from toy import collate, make_model, make_rows
from transformers import Trainer, TrainingArguments

import mixcd

args = TrainingArguments(sys.argv[1], max_steps=20, per_device_train_batch_size=16, report_to="none", use_cpu=True)
trainer = Trainer(make_model(), args, data_collator=collate, train_dataset=make_rows(400, seed=1))
rehearsal = mixcd.attach(trainer, make_rows(1000, seed=0), mix_ratio=0.25, held_out=make_rows(200, seed=2))
trainer.train()
print(f"{rehearsal.counts.observed_count.sum():.0f} prior samples rehearsed; {rehearsal.evaluate()}")
