"""Rehearsal with TRL's `SFTTrainer` and LoRA on raw conversations: `python examples/with_sft.py MODEL OUTPUT`."""

import sys

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import mixcd


def conversations(word, change, count=200):
    """Toy conversations, so that the example runs anywhere; put your own in their place."""
    numbers = [(f"{word} {number % 20}", str(number % 20 + change)) for number in range(count)]
    return Dataset.from_list(
        [
            {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
            for asked, said in numbers
        ]
    )


args = SFTConfig(
    sys.argv[2], max_steps=20, assistant_only_loss=True, report_to="none", use_cpu=True, bf16=False, learning_rate=1e-3
)
trainer = SFTTrainer(
    sys.argv[1], args, train_dataset=conversations("add", 3), peft_config=LoraConfig(target_modules="all-linear")
)
rehearsal = mixcd.attach(trainer, conversations("add", 1), mix_ratio=0.25)
trainer.train()
print(f"{rehearsal.counts.observed_count.sum():.0f} prior samples rehearsed, {rehearsal.vitals()}")
