#!/usr/bin/env bash
# transformers 5.23.0: what `DataCollatorWithFlattening` joins in one row is kept apart by `position_ids` only while
# `use_cache` is off. A model called with its default, `use_cache=True`, lets each sample attend to those before it. One
# would guess that a cache changes no output. (`Trainer` turns it off; a call by hand does not.)
# Seen: "second sample alone and joined, apart by: 0.000 without the cache, more than 0.001 with it: True".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
"$work/venv/bin/python" -W ignore - <<'PY'
import torch
from transformers import DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    initializer_range=0.5,
)
model = LlamaForCausalLM(config).eval()
rows = [{"input_ids": [3, 4, 5, 6], "labels": [3, 4, 5, 6]}, {"input_ids": [7, 8, 9], "labels": [7, 8, 9]}]
batch = {name: value for name, value in DataCollatorWithFlattening()(rows).items() if name in ("input_ids", "position_ids")}
with torch.no_grad():
    alone = model(input_ids=torch.tensor([rows[1]["input_ids"]])).logits[0]
    apart = {cache: (model(**batch, use_cache=cache).logits[0, 4:] - alone).abs().max().item() for cache in (False, True)}
print(f"second sample alone and joined, apart by: {apart[False]:.3f} without the cache, more than 0.001 with it: {apart[True] > 0.001}")
assert apart[False] < 1e-4 < 0.001 < apart[True]
PY
