#!/usr/bin/env bash
# PEFT 0.21.2: `disable_adapter()` of a sequence classifier with prompt, prefix or P-tuning raises UnboundLocalError: it
# sets `prepare_inputs_for_generation` aside, which such a model does not have, and its clean-up hides the real error.
# For LoRA and for language models the same call works.
# Seen: "UnboundLocalError: cannot access local variable 'old_prepare_inputs_for_generation' ...".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$work/venv/bin/python" -W ignore - <<'PY'
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

config = BertConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
for kind in (PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig):
    model = get_peft_model(BertForSequenceClassification(config), kind(task_type="SEQ_CLS", num_virtual_tokens=2))
    try:
        with model.disable_adapter():
            raise SystemExit("it works now")
    except UnboundLocalError as error:
        print(f"{kind.__name__}: {type(error).__name__}: {error}")
        assert "old_prepare_inputs_for_generation" in str(error)
PY
