#!/usr/bin/env bash
# PEFT 0.21.2 on a transformers 5.23.0 model with tied embeddings: an adapter on `embed_tokens` changes the input
# embedding only, but `merge_and_unload()` adds it to the weight that the output head shares, without an error. So the
# merged model is another model than the one that was trained. It also stays frozen: no weight of it is trainable.
# Seen: "outputs differ by more than 0.1 after merging: True, trainable weights of the merged model: 0".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$work/venv/bin/python" -W ignore - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
    tie_word_embeddings=True,
)
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules=["embed_tokens"], r=2)).eval()
with torch.no_grad():
    for name, weight in model.named_parameters():
        if "lora_embedding" in name:
            weight.normal_()
ids = torch.arange(8)[None]
with torch.no_grad():
    trained = model(input_ids=ids).logits
    merged = model.merge_and_unload()
    after = merged(input_ids=ids).logits
is_other = bool((trained - after).abs().max() > 0.1)
trainable = sum(weight.requires_grad for weight in merged.parameters())
print(f"outputs differ by more than 0.1 after merging: {is_other}, trainable weights of the merged model: {trainable}")
assert is_other and trainable == 0
PY
