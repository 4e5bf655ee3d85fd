"""Saved adapters: all their weights arrive, or they are refused; merged, the model is what it was with them on."""

import json
import shutil

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    VBLoRAConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from mixcd.edge.model.loading import open_model
from mixcd.edge.model.saved_adapter import find_adapter, find_base, find_shared, put_adapter
from mixcd.words.errors import SettingError

IDS = torch.tensor([[5, 6, 7, 8]])
LAYERS = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
KINDS = {
    "LoRA": LoraConfig(**LAYERS),
    "DoRA": LoraConfig(use_dora=True, **LAYERS),
    "a LoRA with its own head": LoraConfig(modules_to_save=["lm_head"], **LAYERS),
    "a LoRA of embeddings": LoraConfig(target_modules=["embed_tokens"], task_type="CAUSAL_LM"),
    "IA3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "layers that share a bank": VBLoRAConfig(num_vectors=8, vector_length=4, topk=2, **LAYERS),
    "new tokens": TrainableTokensConfig(token_indices=[3, 4], target_modules=["embed_tokens"], task_type="CAUSAL_LM"),
    "a prompt": PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "a prefix": PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
}


def make_llama(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **settings}))


def say(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def save_adapter(folder, config, model=None):
    """Save an adapter that has learnt something; what the model says with it on comes back."""
    adapted = get_peft_model(model or make_llama(), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn_like(weight))
    adapted.save_pretrained(folder)
    return say(adapted) if hasattr(adapted.get_base_model(), "lm_head") else None


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


@pytest.fixture
def base(tmp_path):
    """The folder of a whole model, with an adapter made for it beside it in `adapter`."""
    make_llama().save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "adapter", KINDS["LoRA"])
    change_config(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_arrives(tmp_path, kind):
    said = save_adapter(tmp_path, KINDS[kind])
    torch.testing.assert_close(say(put_adapter(make_llama(), tmp_path, "tuned")), said)


def test_an_adapter_of_a_part_of_the_model_is_refused(tmp_path):
    save_adapter(tmp_path, LoraConfig(target_modules=["q_proj", "v_proj"]), make_llama().model)
    with pytest.raises(SettingError, match="which does not fit the base model: the model has no place for its we"):
        put_adapter(make_llama(), tmp_path, "tuned")


@pytest.mark.parametrize(
    ("made", "given", "told"),
    [
        ({"num_hidden_layers": 2}, {}, "the model has no place for its weights base_model.model.model.layers.1."),
        ({}, {"num_hidden_layers": 2}, "it brings no weights for base_model.model.model.layers.1."),
        ({"hidden_size": 16}, {}, "size mismatch"),
    ],
)
def test_an_adapter_of_a_model_of_another_size_is_refused(tmp_path, made, given, told):
    save_adapter(tmp_path, KINDS["LoRA"], make_llama(**made))
    with pytest.raises(SettingError, match=f"`tuned` is the adapter .*, which does not fit .* {told}"):
        put_adapter(make_llama(**given), tmp_path, "tuned")


@pytest.mark.parametrize("lost", ["v_proj", "lm_head"])
def test_an_adapter_that_lost_weights_is_refused(tmp_path, lost):
    save_adapter(tmp_path, KINDS["a LoRA with its own head"])
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(path).items() if lost not in name}, path)
    with pytest.raises(SettingError, match=f"it brings no weights for .*{lost}.* Name the base model that it was made"):
        put_adapter(make_llama(), tmp_path, "tuned")


def test_a_folder_with_an_adapter_opens_as_one_whole_model_that_can_be_trained(base):
    said = say(put_adapter(make_llama(), base.parent / "adapter", "model.path"))
    opened = open_model(base.parent / "adapter", "model.path")
    assert type(opened) is LlamaForCausalLM
    torch.testing.assert_close(say(opened), said)
    assert opened.state_dict().keys() == make_llama().state_dict().keys()
    assert all(weight.requires_grad for weight in opened.parameters())


def test_an_adapter_on_an_adapter_is_made_for_it_and_opens_with_both(base, tmp_path):
    opened = open_model(tmp_path / "adapter", "model.path")
    said = save_adapter(tmp_path / "upper", LoraConfig(target_modules=["k_proj"], task_type="CAUSAL_LM"), opened)
    assert find_base(tmp_path / "upper") == str(tmp_path / "adapter")
    torch.testing.assert_close(say(open_model(tmp_path / "upper", "model.path")), said)


def test_a_head_that_the_base_model_lacks_may_come_with_the_adapter(tmp_path):
    said = save_adapter(tmp_path / "adapter", KINDS["a LoRA with its own head"])
    make_llama().model.save_pretrained(tmp_path / "bare")
    config = json.loads((tmp_path / "bare" / "config.json").read_text("utf-8"))
    (tmp_path / "bare" / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    change_config(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "bare"))
    torch.testing.assert_close(say(open_model(tmp_path / "adapter", "base")), said)
    with pytest.raises(SettingError, match=r"has no trained weights for lm_head.weight"):
        open_model(tmp_path / "bare", "base")
    save_adapter(tmp_path / "headless", KINDS["LoRA"])
    change_config(tmp_path / "headless", base_model_name_or_path=str(tmp_path / "bare"))
    with pytest.raises(SettingError, match=r"headless` has no trained weights for lm_head.weight"):
        open_model(tmp_path / "headless", "base")


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("no/such/folder", "`base_model_name_or_path` of the adapter .* is `no/such/folder`, but there is no such"),
        (None, "names no model as the one that it was made for. Write that model's folder or hub name to"),
        ("adapter", "names itself as the one that it was made for"),
    ],
)
def test_an_adapter_whose_base_model_is_not_there_is_refused(base, monkeypatch, named, told):
    monkeypatch.chdir(base.parent)
    change_config(base.parent / "adapter", base_model_name_or_path=named)
    with pytest.raises(SettingError, match=told):
        open_model("adapter", "model.path")


def test_a_damaged_adapter_is_refused(base):
    folder = base.parent / "adapter"
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 50)
    with pytest.raises(SettingError, match="or restore the folder as PEFT's `save_pretrained` wrote it"):
        open_model(folder, "model.path")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(SettingError, match="adapter_config.json` cannot be read: "):
        open_model(folder, "model.path")


def test_a_whole_model_and_an_adapter_in_one_folder_are_refused(base):
    shutil.copytree(base.parent / "adapter", base, dirs_exist_ok=True)
    with pytest.raises(SettingError, match="does not say whether the adapter is merged into that model already"):
        find_adapter(base, "tuned")


def test_what_cannot_be_merged_is_no_base_model(base):
    folder = base.parent
    save_adapter(folder / "prompt", KINDS["a prompt"])
    change_config(folder / "prompt", base_model_name_or_path=str(base))
    with pytest.raises(SettingError, match="an adapter of the kind PROMPT_TUNING, which has no weights to merge"):
        open_model(folder / "prompt", "model.path")
    make_llama(tie_word_embeddings=True).save_pretrained(folder / "tied")
    save_adapter(folder / "shared", KINDS["a LoRA of embeddings"], make_llama(tie_word_embeddings=True))
    change_config(folder / "shared", base_model_name_or_path=str(folder / "tied"))
    with pytest.raises(SettingError, match=r"an adapter of model.embed_tokens, whose weights the model uses in anothe"):
        open_model(folder / "shared", "model.path")


@pytest.mark.parametrize(
    ("layer", "tied", "found"),
    [("embed_tokens", True, ["model.embed_tokens"]), ("q_proj", True, []), ("embed_tokens", False, [])],
)
def test_only_adapted_weights_that_are_used_twice_are_shared(layer, tied, found):
    config = LoraConfig(target_modules=[layer], task_type="CAUSAL_LM")
    assert find_shared(get_peft_model(make_llama(tie_word_embeddings=tied), config)) == found
