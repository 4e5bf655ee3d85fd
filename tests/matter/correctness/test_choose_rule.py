import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    Blip2Config,
    Blip2ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from mixcd.matter.correctness import EachToken, NearTarget, RightClass, RightLabels, RightSpan, RightTokens, choose_rule
from mixcd.matter.model_shape.model_kind import find_shift, is_causal
from mixcd.words.errors import DataError, SettingError, UnsupportedTrainerError
from tiny_tasks import FAMILIES

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
TOKENS = {"labels": torch.ones(1, 4, dtype=torch.int64)}


def bert(kind, **more):
    return kind(BertConfig(**SMALL, **more))


def llama():
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2))


def t5():
    return T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2))


@pytest.mark.parametrize(
    ("model", "batch", "rule"),
    [
        (bert(BertForSequenceClassification), {"labels": torch.tensor([1])}, RightClass()),
        (torch.nn.Linear(2, 2), {"label": torch.tensor([1])}, RightClass()),
        (bert(BertForSequenceClassification, num_labels=3), {"labels": torch.ones(1, 3)}, RightLabels()),
        (
            bert(BertForQuestionAnswering),
            {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([2])},
            RightSpan(),
        ),
        (llama(), TOKENS, EachToken(is_shifted=True)),
        (gpt2(), TOKENS, EachToken(is_shifted=True)),
        (FAMILIES["images and text"].make_model(), TOKENS, EachToken(is_shifted=True)),
        (t5(), TOKENS, EachToken(is_shifted=False)),
        (bert(BertForTokenClassification), TOKENS, EachToken(is_shifted=False)),
    ],
)
def test_the_rule_is_what_model_and_labels_are_made_for(model, batch, rule):
    assert choose_rule(None, model, batch, "prior_data") == rule


def test_adapters_and_subclasses_are_what_they_wrap():
    from peft import LoraConfig, get_peft_model

    class Own(LlamaForCausalLM):
        pass

    wrapped = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    own = Own(LlamaConfig(**SMALL, num_key_value_heads=2))
    for model in (wrapped, own):
        assert choose_rule(None, model, TOKENS, "prior_data") == EachToken(is_shifted=True)


def test_the_callers_rule_is_taken_and_learns_what_the_model_is():
    wanted = RightTokens(0.8)
    assert choose_rule(wanted, llama(), TOKENS, "prior_data") == RightTokens(0.8, is_shifted=True)
    assert choose_rule(wanted, t5(), TOKENS, "prior_data") == RightTokens(0.8, is_shifted=False)
    assert choose_rule(NearTarget(1.0), llama(), TOKENS, "prior_data") == NearTarget(1.0)
    for said in (RightTokens(is_shifted=True), RightTokens(is_shifted=False), EachToken(is_shifted=False)):
        assert choose_rule(said, torch.nn.Linear(2, 2), TOKENS, "prior_data") == said
    for kind in (BertForMaskedLM, BertForTokenClassification):
        assert choose_rule(wanted, bert(kind), TOKENS, "prior_data") == RightTokens(0.8, is_shifted=False)


def test_a_model_that_does_not_shift_its_labels_is_judged_on_the_labels_themselves():
    model = BartForCausalLM(BartConfig(vocab_size=20, d_model=8, decoder_layers=1, decoder_attention_heads=2))
    assert choose_rule(None, model, TOKENS, "prior_data") == EachToken(is_shifted=False)
    assert not is_causal(model)


def test_a_model_that_sees_images_and_has_an_encoder_of_text_too_is_not_taken_for_a_causal_one():
    sight = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    config = Blip2Config(
        vision_config={**sight, "image_size": 8, "patch_size": 4},
        qformer_config={**sight, "encoder_hidden_size": 8, "vocab_size": 20},
        text_config={**text, "model_type": "t5"},
    )
    assert find_shift(Blip2ForConditionalGeneration(config)) is False


def test_the_classes_of_multiple_choice_are_the_choices_whatever_the_config_says():
    model = bert(BertForMultipleChoice, num_labels=1)
    assert choose_rule(None, model, {"labels": torch.tensor([3])}, "prior_data") == RightClass()


def test_a_model_of_masked_tokens_needs_a_rule():
    said = r"predicts masked tokens.*masked anew each time.*`correctness=mixcd.EachToken\(is_shifted=F"
    with pytest.raises(UnsupportedTrainerError, match=f"`BertForMaskedLM` {said}"):
        choose_rule(None, bert(BertForMaskedLM), TOKENS, "prior_data")


def test_a_model_of_tokens_that_is_not_known_is_told_both_settings_and_their_meaning():
    both = r"is_shifted=True\)` if .* predicts label t \+ 1, .*is_shifted=False\)` if it predicts label t\."
    for rule in (None, RightTokens(0.5)):
        with pytest.raises(UnsupportedTrainerError, match=f"what a token of `Linear` predicts is not known.*{both}"):
            choose_rule(rule, torch.nn.Linear(2, 2), TOKENS, "prior_data")


@pytest.mark.parametrize(
    ("model", "shift"),
    [
        (llama(), False),
        (gpt2(), False),
        (t5(), True),
        (bert(BertForTokenClassification), True),
        (bert(BertForMaskedLM), True),
    ],
)
def test_a_rule_that_contradicts_the_model_is_refused(model, shift):
    name = type(model).__name__
    told = f"`is_shifted={shift}`, but `{name}` is trained to predict label .* Pass `is_shifted={not shift}`"
    with pytest.raises(SettingError, match=told):
        choose_rule(RightTokens(0.01, is_shifted=shift), model, TOKENS, "prior_data")


def test_a_regression_needs_a_tolerance():
    single = bert(BertForSequenceClassification, num_labels=1)
    for model, labels in ((single, torch.tensor([1])), (torch.nn.Linear(2, 2), torch.tensor([1.0]))):
        with pytest.raises(SettingError, match=r"a regression.*Pass `correctness=mixcd.NearTarget\(tolerance\)`"):
            choose_rule(None, model, {"labels": labels}, "prior_data")


def test_what_is_no_rule_and_a_batch_without_labels_are_refused():
    with pytest.raises(SettingError, match='`correctness` is "exact", which is no rule .known: `right-class`, '):
        choose_rule("exact", llama(), TOKENS, "prior_data")
    with pytest.raises(DataError, match="`prior_data` has no labels"):
        choose_rule(None, llama(), {"input_ids": torch.ones(1, 1)}, "prior_data")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("right-class", RightClass()),
        ("right-labels", RightLabels()),
        ("right-span", RightSpan()),
        ("right-tokens", RightTokens(is_shifted=True)),
    ],
)
def test_a_rule_may_be_given_by_name(name, rule):
    assert choose_rule(name, llama(), TOKENS, "prior_data") == rule


def test_unknown_and_unfinished_names_of_rules_are_refused():
    with pytest.raises(SettingError, match="`correctness` is 1, which is no rule. Pass a name .right-class, "):
        choose_rule(1, llama(), TOKENS, "prior_data")
    with pytest.raises(SettingError, match=r"Pass `mixcd.NearTarget\(tolerance\)`, in the unit"):
        choose_rule("near-target", llama(), TOKENS, "prior_data")


def test_label_sets_of_whole_numbers_are_refused_with_what_to_cast():
    model = FAMILIES["multi-label"].make_model()
    with pytest.raises(DataError, match="whole numbers, but a classifier of several labels .* Cast the column"):
        choose_rule(None, model, {"labels": torch.tensor([[0, 1], [1, 1]])}, "prior_data")
