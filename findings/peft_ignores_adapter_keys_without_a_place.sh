#!/usr/bin/env bash
# PEFT 0.21.2: `PeftModel.from_pretrained` loads an adapter none of whose weights has a place in the model, and raises
# nothing: the adapter stays as it was initialised, and adds nothing. (LoRA made on `model.model`, put on `model`.) One
# would guess an error, as for a whole model's weights. What arrived is told only by calling `load_adapter` again.
# Seen: "weights of the adapter that arrived: 0 of 2, error: none, without a place: 2".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
(cd "$work" && "$work/venv/bin/python" -W ignore - <<'PY'
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
)
made = get_peft_model(LlamaForCausalLM(config).model, LoraConfig(target_modules=["q_proj"], r=2))
with torch.no_grad():
    for name, weight in made.named_parameters():
        if "lora_" in name:
            weight.fill_(7.0)
made.save_pretrained("adapter")
loaded = PeftModel.from_pretrained(LlamaForCausalLM(config), "adapter")
own = [weight for name, weight in loaded.named_parameters() if "lora_" in name]
arrived = sum(bool((weight == 7.0).all()) for weight in own)
homeless = len(loaded.load_adapter("adapter", "default").unexpected_keys)
print(f"weights of the adapter that arrived: {arrived} of {len(own)}, error: none, without a place: {homeless}")
assert (arrived, len(own), homeless) == (0, 2, 2)
PY
)
