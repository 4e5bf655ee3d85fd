import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import mixcd
from mixcd.errors import CacheError
from mixcd.fingerprint import fingerprint_weights
from mixcd.fresh_adapter import has_fresh_adapter, without_fresh_adapter
from tiny import make_model, make_rows, make_trainer


def adapt(base_weights, seed, **settings):
    model = make_model()
    model.load_state_dict(base_weights)
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(target_modules="all-linear", r=2, **settings))


def lora_weights(model, part):
    return [weight for name, weight in model.named_parameters() if part in name]


def test_an_adapter_is_fresh_until_it_learns(base_weights):
    model = adapt(base_weights, seed=1)
    assert has_fresh_adapter(model)
    with torch.no_grad():
        lora_weights(model, "lora_B")[0][0, 0] = 1e-6
    assert not has_fresh_adapter(model)
    assert not has_fresh_adapter(make_model())


def test_fresh_adapters_have_the_fingerprint_of_their_base_model(base_weights):
    bare = make_model()
    bare.load_state_dict(base_weights)
    one, other = adapt(base_weights, seed=1), adapt(base_weights, seed=2)
    assert not torch.equal(lora_weights(one, "lora_A")[0], lora_weights(other, "lora_A")[0])
    assert fingerprint_weights(one) == fingerprint_weights(other) == fingerprint_weights(bare)
    with torch.no_grad():
        lora_weights(one, "lora_B")[0][0, 0] = 1.0
        next(iter(other.base_model.model.bert.encoder.parameters())).add_(1.0)
    assert len({fingerprint_weights(model) for model in (one, other, bare)}) == 3


def test_the_base_model_predicts_alone_only_while_the_adapter_is_fresh(base_weights):
    model = adapt(base_weights, seed=1)
    calls = []
    for module in model.modules():
        if "lora" in type(module).__module__ and hasattr(module, "lora_A"):
            next(iter(module.lora_A.values())).register_forward_hook(lambda *_: calls.append(1))
    batch = {"input_ids": torch.tensor([[3, 4]]), "attention_mask": torch.ones(1, 2)}
    with without_fresh_adapter(model):
        model(**batch)
    assert not calls
    with torch.no_grad():
        lora_weights(model, "lora_B")[0][0, 0] = 1.0
    with without_fresh_adapter(model):
        model(**batch)
    assert calls


def test_a_cache_serves_every_fresh_adapter_on_its_model_and_no_other(base_weights, new_data, prior_data, tmp_path):
    for number, model in enumerate((adapt(base_weights, 1), adapt(base_weights, 2, lora_dropout=0.5))):
        trainer = make_trainer(model, new_data, tmp_path / str(number))
        rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, cache_dir=tmp_path / "cache")
        assert (rehearsal.predictions.forward_count > 0) == (number == 0)
    another = get_peft_model(make_model(seed=5), LoraConfig(target_modules="all-linear"))
    trainer = make_trainer(another, new_data, tmp_path)
    with pytest.raises(CacheError, match="was made from another model"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25, cache_dir=tmp_path / "cache")


def test_a_run_with_lora_goes_on_in_a_process_that_drew_another_adapter(base_weights, new_data, prior_data, tmp_path):
    def build(seed):
        settings = {"save_strategy": "steps", "save_steps": 5, "max_steps": 10}
        trainer = make_trainer(adapt(base_weights, seed), new_data, tmp_path, **settings)
        return trainer, mixcd.attach(trainer, prior_data, mix_ratio=0.25)

    trainer, rehearsal = build(seed=1)
    trainer.train()
    again, resumed = build(seed=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert resumed.counts.observed_count.tolist() == rehearsal.counts.observed_count.tolist()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["classifier"], "target_modules": ["query"]}])
def test_features_are_those_of_the_head_and_not_of_its_adapter(base_weights, new_data, prior_data, tmp_path, settings):
    bare, adapted = make_model(), make_model()
    for model in (bare, adapted):
        model.load_state_dict(base_weights)
    found = []
    config = LoraConfig(**{"target_modules": "all-linear", "r": 2, **settings})
    for number, model in enumerate((bare, get_peft_model(adapted, config))):
        trainer = make_trainer(model, new_data, tmp_path / str(number))
        found.append(mixcd.attach(trainer, prior_data, mix_ratio=0.25).predictions.arrays["features"])
    assert found[0].shape[1] == 16  # as wide as the head's input; an adapter's would be 2
    assert (found[0] == found[1]).all()


def test_an_adapter_that_has_learnt_is_part_of_the_base_model(base_weights, new_data, prior_data, tmp_path):
    model = adapt(base_weights, seed=1)
    with torch.no_grad():
        for weight in lora_weights(model, "lora_B"):
            weight.normal_(std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    bare = make_model()
    bare.load_state_dict(base_weights)
    loaded = PeftModel.from_pretrained(bare, tmp_path / "adapter", is_trainable=True)
    assert fingerprint_weights(loaded) == fingerprint_weights(model)
    trainer = make_trainer(loaded, new_data, tmp_path / "run")
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    expected = trainer.predict(prior_data).predictions.argmax(-1)
    assert rehearsal.predictions.prediction.tolist() == expected.tolist()


def test_quantised_weights_are_warned_of(base_weights, new_data, prior_data, tmp_path, caplog):
    model = make_model()
    model.load_state_dict(base_weights)
    trainer = make_trainer(model, new_data, tmp_path)
    model.is_quantized = True
    mixcd.attach(trainer, make_rows(50, seed=1, task="prior"), mix_ratio=0.25)
    assert "Rehearsal with quantised weights is untested" in caplog.text
