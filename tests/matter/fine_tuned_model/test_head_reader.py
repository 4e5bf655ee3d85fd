"""A pass that shows no logits is read off its head's input, and shows the same as one that does."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CohereConfig,
    CohereForCausalLM,
    DataCollatorWithFlattening,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import mixcd
from kernel_losses import HIDDEN, HiddenLoss
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.fine_tuned_model.head_reader import HeadReader, require_true_head
from mixcd.matter.fine_tuned_model.prediction_observer import NEW_SAMPLE, PredictionObserver
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import UnsupportedTrainerError
from tiny_tasks import SMALL, WORDS, causal_row, collate

RULE = mixcd.RightTokens(is_shifted=True)
CONFIG = LlamaConfig(**SMALL, num_key_value_heads=2)
ROWS = [causal_row(np.random.default_rng(seed), "prior") for seed in range(8)]
IDS = torch.tensor([7, NEW_SAMPLE, 3, 0, NEW_SAMPLE, NEW_SAMPLE, 5, 9])
REHEARSED = (IDS != NEW_SAMPLE).numpy()


def make(kind, config=CONFIG):
    torch.manual_seed(0)
    return kind(config).train()


def observe(model, batch, *, ids=IDS, rule=RULE):
    observer = PredictionObserver(rule, with_logits=True)
    with observer.watch(model, ids, batch):
        model(**batch).loss.backward()
    return observer, observer.read(observer.take())


def require_same(found, wanted, which=REHEARSED):
    assert found.correct[which].tolist() == wanted.correct[which].tolist()
    np.testing.assert_allclose(found.loss[which], wanted.loss[which], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.logits[which], wanted.logits[which], rtol=0, atol=1e-5)


# --- the same as by logits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: torch.compile(model, backend="eager")])
def test_what_hidden_logits_would_show_is_read(kind, wrap):
    _, wanted = observe(make(LlamaForCausalLM), collate(ROWS))
    model = wrap(make(kind))
    for _ in range(2):  # what is compiled must be seen again
        observer, found = observe(model, collate(ROWS))
        assert observer.reads_head
        require_same(found, wanted)
        assert np.isnan(found.loss[~REHEARSED]).all()  # new rows' losses are not read


def test_a_pass_that_shows_logits_is_read_off_them():
    observer, found = observe(make(LlamaForCausalLM), collate(ROWS))
    assert not observer.reads_head
    assert np.isfinite(found.loss).all()


def test_what_is_read_belongs_to_the_pass_that_trains():
    model, batch = make(HiddenLoss), collate(ROWS)
    _, wanted = observe(make(LlamaForCausalLM), batch)
    observer = PredictionObserver(RULE, with_logits=True)
    with observer.watch(model, IDS, batch):
        loss = model(**batch).loss
        with torch.no_grad():
            model(**{**batch, "input_ids": batch["input_ids"].flip(0)})
        loss.backward()
    require_same(observer.read(observer.take()), wanted)


def test_samples_joined_in_one_row_are_told_apart():
    joined = DataCollatorWithFlattening()([{"input_ids": one["input_ids"], "labels": one["labels"]} for one in ROWS])
    _, wanted = observe(make(LlamaForCausalLM), joined)
    _, found = observe(make(HiddenLoss), joined)
    require_same(found, wanted)


def test_an_encoder_decoder_is_read_where_its_head_is_its_decoders():
    class HiddenT5(T5ForConditionalGeneration):
        def forward(self, **batch):
            output = super().forward(**batch)
            output["logits"] = None
            return output

    config = T5Config(
        vocab_size=WORDS, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    config.dropout_rate, config.scale_decoder_outputs = 0.0, False
    batch = {**collate(ROWS), "labels": torch.randint(3, WORDS, (8, 3))}
    rule = mixcd.RightTokens(is_shifted=False)
    shown, hidden = make(T5ForConditionalGeneration, config), make(HiddenT5, config)
    hidden.load_state_dict(shown.state_dict())
    _, wanted = observe(shown, batch, rule=rule)
    _, found = observe(hidden, batch, rule=rule)
    require_same(found, wanted)
    config.scale_decoder_outputs = True
    with pytest.raises(UnsupportedTrainerError, match="are not the model's own logits"):
        require_true_head(Inference(shown, PriorDataset(ROWS), rule, collate, 4))


def test_mixed_precision_is_that_of_the_pass():
    class Mixed(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, **batch):
            with torch.autocast("cpu", torch.bfloat16):
                return self.model(**batch)

    _, wanted = observe(Mixed(make(LlamaForCausalLM)), collate(ROWS))
    _, found = observe(Mixed(make(HiddenLoss)), collate(ROWS))
    require_same(found, wanted)


def test_an_adapted_head_is_read_without_dropout_and_moves_no_random_number():
    def adapt(model):
        adapter = LoraConfig(target_modules=["q_proj", "lm_head"], r=2, lora_dropout=0.5, init_lora_weights=False)
        torch.manual_seed(1)
        return get_peft_model(model, adapter)

    wanted = adapt(make(LlamaForCausalLM)).eval()(**collate(ROWS)).logits
    model = adapt(make(LlamaForCausalLM))
    head = HeadReader(model)
    with head.watch():
        model.eval()(**collate(ROWS))
        model.train()
        state = torch.get_rng_state()
        torch.testing.assert_close(head.predict(head._states), wanted, rtol=0, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(module.training for module in model.modules())


# --- memory ---------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Notes the most numbers of an array that is made."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.count = max(self.count, made.numel())
        return made


def test_no_array_of_all_tokens_and_the_vocabulary_is_made():
    config = LlamaConfig(**{**SMALL, "vocab_size": 30_000, "max_position_embeddings": 512}, num_key_value_heads=2)
    model = make(HiddenLoss, config)
    targets = {"labels": torch.randint(3, 30_000, (2, 300))}
    head = HeadReader(model)
    with head.watch(), torch.no_grad():
        output = model(input_ids=targets["labels"], labels=targets["labels"])
        with Largest() as largest:
            head.score(targets, output, True, None)
    assert 2**19 < largest.count <= 2**20  # the tokens have 18 million logits


def test_nothing_is_kept_after_the_block():
    model = make(HiddenLoss)
    head = HeadReader(model)
    with head.watch():
        model(**collate(ROWS))
    assert head._states is None
    assert not model.model._forward_hooks


# --- whose logits are its head's output -----------------------------------------------------------------------------

TINY = {**SMALL, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": WORDS, "n_positions": 16}
KINDS = {
    "a cap on logits": (Gemma2ForCausalLM, Gemma2Config(**TINY, head_dim=16, final_logit_softcapping=0.05)),
    "logits that are divided": (GraniteForCausalLM, GraniteConfig(**TINY, logits_scaling=8.0)),
    "logits that are multiplied": (CohereForCausalLM, CohereConfig(**TINY, logit_scale=0.0625)),
    "a head with a bias": (GPTJForCausalLM, GPTJConfig(**GPT, rotary_dim=4)),
    "a head of tied weights": (GPT2LMHeadModel, GPT2Config(**GPT)),
}


def infer(model):
    return Inference(model, PriorDataset(ROWS), RULE, collate, 4)


@pytest.mark.parametrize(("kind", "config"), KINDS.values(), ids=KINDS)
def test_what_a_model_does_to_its_logits_is_done(kind, config):
    model, batch = make(kind, config).eval(), collate(ROWS)
    if kind is GPTJForCausalLM:
        torch.nn.init.normal_(model.lm_head.bias)
    head = HeadReader(model)
    with head.watch(), torch.no_grad():
        logits = model(**batch).logits
        torch.testing.assert_close(head.predict(head._states), logits, rtol=0, atol=1e-6)
    require_true_head(infer(model))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_logits_that_are_made_otherwise_are_refused(precision):
    class Scaled(LlamaForCausalLM):
        def forward(self, **batch):
            output = super().forward(**batch)
            output["logits"] = output.logits * 1.2
            return output

    require_true_head(infer(make(LlamaForCausalLM).to(precision)))
    with pytest.raises(UnsupportedTrainerError, match="`Scaled`.*`ForCausalLMLoss`.*are not the model's own logits"):
        require_true_head(infer(make(Scaled).to(precision)))


def test_a_masked_language_model_whose_head_is_more_than_one_layer_is_refused():
    model = make(BertForMaskedLM, BertConfig(**SMALL))
    inference = Inference(model, PriorDataset(ROWS), mixcd.RightTokens(is_shifted=False), collate, 4)
    with pytest.raises(UnsupportedTrainerError, match="are not the model's own logits"):
        require_true_head(inference)


class Bare(torch.nn.Module):
    """No model of transformers: where its head is cannot be asked."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS, 4)

    def forward(self, input_ids, **_):
        return {"loss": self.embedding(input_ids).sum()}


class NoStates(HiddenLoss):
    """Computes hidden states without calling its backbone."""

    def forward(self, input_ids, labels, **_):
        return {"loss": self.lm_head(self.model.embed_tokens(input_ids)).sum()}


class OtherStates(HiddenLoss):
    """Calls its backbone with fewer tokens."""

    def forward(self, input_ids, labels, **_):
        return {"loss": self.model(input_ids[:, 1:]).last_hidden_state.sum()}


@pytest.mark.parametrize(
    ("make_model", "reason"),
    [
        (Bare, r"`Bare` shows no logits .* in its `dict`: `its loss` .*no output embeddings \(`get_output_embeddings"),
        (lambda: make(NoStates), "`NoStates` shows.*`ForCausalLMLoss`.*its backbone returned no `last_hidden_state`"),
        (lambda: make(OtherStates), r"the head's input is of shape \(8, 4, 32\) for labels of shape \(8, 5\)"),
    ],
)
def test_a_head_that_is_not_found_is_refused(make_model, reason):
    batch, observer, model = collate(ROWS), PredictionObserver(RULE), make_model()
    with (
        pytest.raises(UnsupportedTrainerError, match=rf"(?s){reason}.*Let training show logits"),
        observer.watch(model, IDS, batch),
    ):
        model(**dict(batch))["loss"].backward()
