import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)

import mixcd
from mixcd.matter.base_model.batched_inference import evaluating
from mixcd.matter.base_model.model_fingerprint import fingerprint_model
from mixcd.matter.correctness import choose_rule
from mixcd.matter.model_shape.fresh_adapter import has_fresh_adapter, without_adapter
from mixcd.words.errors import CacheError, UnsupportedTrainerError
from tiny import make_model, make_rows, make_trainer
from tiny_tasks import FAMILIES

BATCH = {
    "input_ids": torch.tensor([[3, 4], [5, 6]]),
    "attention_mask": torch.ones(2, 2),
    "labels": torch.tensor([0, 1]),
}


def adapt(base_weights, seed, **settings):
    model = make_model()
    model.load_state_dict(base_weights)
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(target_modules="all-linear", r=2, **settings))


def lora_weights(model, part):
    return [weight for name, weight in model.named_parameters() if part in name]


def is_fresh(model):
    with evaluating(model):
        return has_fresh_adapter(model, lambda: model(**BATCH))


def print_of(model):
    return fingerprint_model(model, mixcd.RightClass(), BATCH, 2)["model"]


def test_an_adapter_is_fresh_until_it_changes_an_output(base_weights):
    model = adapt(base_weights, seed=1)
    assert is_fresh(model)
    with torch.no_grad():
        lora_weights(model, "lora_B")[0][0, 0] = 1e-3
    assert not is_fresh(model)
    assert not is_fresh(make_model())


@pytest.mark.parametrize("part", ["original_module", "modules_to_save"])
def test_an_adapter_with_a_head_that_learnt_is_not_fresh(base_weights, part):
    model = adapt(base_weights, seed=1, modules_to_save=["classifier"])
    assert is_fresh(model)
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if part in name).add_(0.1)
    assert not is_fresh(model)


def test_an_adapter_of_tokens_that_no_row_holds_is_not_fresh_once_it_learnt(base_weights):
    model = make_model()
    model.load_state_dict(base_weights)
    model = get_peft_model(model, LoraConfig(target_modules=["query", "word_embeddings"], r=2))
    assert is_fresh(model)
    with torch.no_grad():
        lora_weights(model, "lora_embedding_A")[0][:, 50] = 1.0
    assert not is_fresh(model)


def test_fresh_adapters_have_the_fingerprint_of_their_base_model(base_weights):
    bare = make_model()
    bare.load_state_dict(base_weights)
    one, other = adapt(base_weights, seed=1), adapt(base_weights, seed=2, modules_to_save=["classifier"])
    assert not torch.equal(lora_weights(one, "lora_A")[0], lora_weights(other, "lora_A")[0])
    assert print_of(one) == print_of(other) == print_of(bare)
    with torch.no_grad():
        lora_weights(one, "lora_B")[0][0, 0] = 1.0
        next(iter(other.base_model.model.bert.encoder.parameters())).add_(1.0)
    assert len({print_of(model) for model in (one, other, bare)}) == 3


def test_the_active_one_of_several_adapters_makes_the_fingerprint(base_weights):
    model = adapt(base_weights, seed=1)
    model.add_adapter("second", LoraConfig(target_modules="all-linear", r=2))
    bare = print_of(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.second" in name:
                weight.fill_(0.1)
    assert print_of(model) == bare
    model.set_adapter("second")
    assert print_of(model) != bare


def test_what_was_frozen_stays_frozen(base_weights, new_data, prior_data, tmp_path):
    model = adapt(base_weights, seed=1, modules_to_save=["classifier"])
    for name, weight in model.named_parameters():
        if "lora_A" in name or "modules_to_save" in name:
            weight.requires_grad_(False)
    before = {name: (weight.requires_grad, weight.clone()) for name, weight in model.named_parameters()}
    trainer = make_trainer(model, new_data, tmp_path)
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=prior_data)
    trainer.train()
    rehearsal.evaluate()
    for name, weight in model.named_parameters():
        trainable, value = before[name]
        assert weight.requires_grad == trainable, name
        assert trainable or torch.equal(weight, value), name


def test_the_base_model_predicts_with_the_head_that_it_has(base_weights, new_data, prior_data, tmp_path):
    bare = make_model()
    bare.load_state_dict(base_weights)
    torch.nn.init.normal_(bare.classifier.weight)
    model = get_peft_model(bare, LoraConfig(target_modules=["query"], r=2, modules_to_save=["classifier"]))
    trained = {name.removeprefix("classifier."): value for name, value in base_weights.items() if "classifier" in name}
    model.base_model.model.classifier.modules_to_save["default"].load_state_dict(trained)
    trainer = make_trainer(model, new_data, tmp_path)
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    expected = trainer.predict(prior_data).predictions.argmax(-1)
    assert rehearsal.predictions.prediction.tolist() == expected.tolist()
    assert rehearsal.predictions.correct.mean() > 0.7


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
    assert print_of(loaded) == print_of(model)
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


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
def test_prompts_that_are_learnt_are_followed_in_classification(base_weights, new_data, prior_data, tmp_path, kind):
    model = make_model(dropout=0.0)
    model.load_state_dict(base_weights)
    model = get_peft_model(model, kind(task_type="SEQ_CLS", num_virtual_tokens=2))
    trainer = make_trainer(model, new_data, tmp_path, learning_rate=0.0)
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=prior_data)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 20
    assert rehearsal.counts.damaged_count.sum() == 0
    with pytest.raises(UnsupportedTrainerError, match="cannot be switched off"), without_adapter(model):
        pass


def test_a_prompt_before_the_input_of_a_language_model_is_refused_by_name():
    family = FAMILIES["causal language model"]
    settings = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 2}
    batch = {"labels": torch.tensor([[1, 2]])}
    prompted = get_peft_model(family.make_model(), PromptTuningConfig(**settings))
    with pytest.raises(UnsupportedTrainerError, match="virtual tokens before the input .* Use prefix tuning or LoRA"):
        choose_rule(None, prompted, batch, "prior_data")
    prefixed = get_peft_model(family.make_model(), PrefixTuningConfig(**settings))
    assert choose_rule(None, prefixed, batch, "prior_data").is_shifted
