#!/usr/bin/env bash
# TRL 1.16.0: `SFTTrainer` puts a `forward` on the model's instance, so `copy.deepcopy(trainer.model)` has weights of its
# own and predicts with those of the original: a copy that was kept as the base model changes while the other trains.
# One would guess that a deep copy stands on its own, as before the trainer was built.
# Seen: "copied before: stays as it was; copied from the trainer: predicts as the trained one".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 datasets==5.2.0 trl==1.16.0
cat > "$work/copy_model.py" <<'PY'
import copy
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

words = ["<unk>", "</s>", "<pad>"] + [f"w{number}" for number in range(20)]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), pad_token_id=2, **sizes))
copied_before = copy.deepcopy(model)
args = SFTConfig(tempfile.mkdtemp(), max_steps=5, learning_rate=0.1, report_to="none", use_cpu=True, bf16=False)
rows = Dataset.from_list([{"text": "w1 w2 w3 w4"}] * 16)
trainer = SFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
copied_after = copy.deepcopy(trainer.model)


@torch.no_grad()
def predict(one):
    return one.eval()(input_ids=torch.tensor([[4, 5, 6]])).logits


base = predict(copied_before)
trainer.train()
trained = predict(trainer.model)
if torch.equal(base, trained) or not torch.equal(predict(copied_before), base):
    raise SystemExit("training changed nothing, or the early copy, too")
if not torch.equal(predict(copied_after), trained):
    raise SystemExit("it changed: the copy predicts with its own weights")
print("copied before: stays as it was; copied from the trainer: predicts as the trained one")
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore "$work/copy_model.py" 2> /dev/null | tail -1
