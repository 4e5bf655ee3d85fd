"""Adapters that were saved and not merged: opened as models everywhere, refused where their weights do not arrive."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from command import call
from mixcd.errors import SettingError
from mixcd.model_loading import open_model
from mixcd.saved_adapter import find_shared, merge_saved, put_adapter
from tiny import make_model
from tiny_sft import make_model as make_chat_model
from workspace import make_tokenizer


def save_adapter(model, folder, base, **settings):
    """An adapter that has learnt something."""
    torch.manual_seed(3)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(**{"target_modules": ["query"], "r": 2, **settings}))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    adapted.save_pretrained(folder)
    stored = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**stored, "base_model_name_or_path": str(base)}))
    make_tokenizer().save_pretrained(folder)
    return adapted


def test_an_adapter_as_base_model_is_trained_whole(workspace, base_model):
    save_adapter(base_model, workspace / "adapter", workspace / "base")
    assert call("train", "config.toml", "--set", "model.path=adapter", "--set", "run=second") == 0
    assert not (workspace / "second" / "model" / "adapter_config.json").exists()
    before, after = open_model("adapter", "model"), open_model("second/model", "model")
    moved = [name for name, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[name])]
    assert len(moved) > 10


def test_an_adapter_goes_on_top_of_an_adapter(workspace, base_model):
    save_adapter(base_model, workspace / "adapter", workspace / "base")
    settings = ("--set", "model.path=adapter", "--set", "run=second", "--set", "adapter.rank=4")
    assert call("train", "config.toml", *settings) == 0
    assert (workspace / "second" / "model" / "model.safetensors").exists()


def test_an_opened_adapter_predicts_as_it_did(workspace, base_model):
    adapted = save_adapter(base_model, workspace / "adapter", workspace / "base").eval()
    batch = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3)}
    opened = open_model("adapter", "model").eval()
    torch.testing.assert_close(opened(**batch).logits, adapted(**batch).logits)


def test_an_adapter_whose_weights_do_not_arrive_is_refused(base_model, tmp_path):
    save_adapter(base_model.bert, tmp_path / "adapter", "base")
    with pytest.raises(SettingError, match="does not go on the base model: the model has no place for its weights"):
        put_adapter(base_model, tmp_path / "adapter", "tuned")


def test_an_adapter_that_lacks_weights_is_refused(base_model, tmp_path):
    save_adapter(base_model, tmp_path / "adapter", "base")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(SettingError, match="it brings no weights for"):
        put_adapter(base_model, tmp_path / "adapter", "tuned")


def test_an_adapter_of_shared_weights_is_not_merged(tmp_path):
    model = make_chat_model()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    settings = {"target_modules": ["q_proj", "embed_tokens"]}
    adapted = save_adapter(model, tmp_path / "adapter", "base", **settings)
    assert find_shared(adapted) == ["model.embed_tokens"]
    with pytest.raises(SettingError, match="whose weights the model uses in another place too: merged, it would"):
        merge_saved(model, tmp_path / "adapter", "model.path")
    assert find_shared(get_peft_model(make_model(), LoraConfig(target_modules=["query"]))) == []
