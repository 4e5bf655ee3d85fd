#!/usr/bin/env bash
# PEFT 0.21.2: leaving `with model.disable_adapter():` makes every weight of the active adapter trainable, also those
# that were frozen before. One would guess that a context manager puts back what it found.
# Seen: "trainable before: 2, after: 4".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$work/venv/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model

model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), LoraConfig(target_modules=["0", "1"], r=2))
for name, weight in model.named_parameters():
    if "lora_A" in name:
        weight.requires_grad_(False)
count = lambda: sum(weight.requires_grad for weight in model.parameters())
before = count()
with model.disable_adapter():
    pass
print(f"trainable before: {before}, after: {count()}")
assert (before, count()) == (2, 4)
PY
