"""Raw rows of causal language models in `mixcd.compare`: prepared as TRL's trainer does, judged by target tokens."""

import random
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import mixcd
import tiny_sft
from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.words.errors import DataError, SettingError
from task_workspace import write_rows


@pytest.fixture
def folder(task_workspace):
    return task_workspace("text-generation")


@pytest.fixture
def tuned(folder):
    """The base model after plain fine-tuning on the new task, in `tuned/`."""
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    rows = tiny_sft.make_rows(40, "new", kind="chat completion")
    trainer = tiny_sft.make_sft_trainer(base, rows, folder / "trainer", max_steps=20)
    trainer.train()
    trainer.save_model(folder / "tuned")
    return folder / "tuned"


def prepare(folder, rows, **settings):
    """Rows as the trainer itself prepares them."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    return tiny_sft.make_sft_trainer(model, rows, folder / "trainer", **settings).train_dataset


@pytest.mark.parametrize(
    ("kind", "assistant_only"), [("chat completion", False), ("chat", False), ("chat", True), ("completion", False)]
)
def test_raw_rows_are_judged_like_those_that_the_trainer_prepares(folder, tuned, kind, assistant_only):
    rows = tiny_sft.make_rows(60, "prior", kind=kind)
    write_rows(folder / "raw.jsonl", rows.to_list())
    prepared = prepare(folder, rows, assistant_only_loss=assistant_only)
    rule = mixcd.RightTokens(0.5)
    raw = mixcd.compare("base", "tuned", "raw.jsonl", correctness=rule, assistant_only_loss=assistant_only)
    by_hand = mixcd.compare("base", "tuned", prepared, correctness=rule)
    assert raw.change == by_hand.change
    assert raw.change.damaged_count > 0
    assert [(one.sample_id, one.loss_after) for one in raw.most_damaged] == [
        (one.sample_id, one.loss_after) for one in by_hand.most_damaged
    ]


def test_several_sets_of_conversations_are_prepared(folder, tuned):
    rows = tiny_sft.make_rows(60, "prior", kind="chat")
    rule = mixcd.RightTokens(0.5)
    whole = mixcd.compare("base", "tuned", rows, correctness=rule)
    parted = mixcd.compare(
        "base", "tuned", {"a": rows.select(range(40)), "b": rows.select(range(40, 60))}, correctness=rule
    )
    assert parted.change == whole.change
    assert "prior_set" in {one.name for one in parted.partitions}


def test_texts_are_prepared_too(folder):
    rows = tiny_sft.make_rows(60, "prior", kind="text").to_list()
    del rows[0]["topic"]  # a column of the others all the same
    comparison = mixcd.compare("base", "base", rows, correctness=mixcd.RightTokens(0.1))
    assert comparison.change.sample_count == 60
    assert {one.name for one in comparison.partitions} == {"prior loss", "text", "topic"}


def test_models_and_random_numbers_are_left_as_they_were(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    kept = (dict(vars(model)), model.config.to_dict(), tokenizer.backend_tokenizer.to_str())
    seen = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    mixcd.compare(model, model, tiny_sft.make_rows(40, "prior"), tokenizer=tokenizer)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == seen
    assert (dict(vars(model)), model.config.to_dict(), tokenizer.backend_tokenizer.to_str()) == kept


def test_an_adapter_is_compared_with_the_base_model_that_it_was_made_for(folder):
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder / "base"),
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"]),
    )
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.5)
    adapted.save_pretrained(folder / "adapter")
    rule = mixcd.RightTokens(0.5)
    by_adapter = mixcd.compare("base", "adapter", "prior.jsonl", correctness=rule)
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    assert by_adapter.change == mixcd.compare("base", "merged", "prior.jsonl", correctness=rule).change
    assert by_adapter.change.damaged_count > 0


def test_a_cache_serves_the_base_model(folder, tuned):
    rule = mixcd.RightTokens(0.5)
    without = mixcd.compare("base", "tuned", "prior.jsonl", correctness=rule)
    for _ in range(2):
        assert (
            mixcd.compare("base", "tuned", "prior.jsonl", correctness=rule, cache_dir="cache").change == without.change
        )


def test_rows_are_padded_at_their_end_whatever_the_tokenizer_does(folder):
    torch.manual_seed(0)
    small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": len(tiny_sft.WORDS)}
    GPT2LMHeadModel(GPT2Config(**small)).save_pretrained("gpt")
    tokenizer = tiny_sft.make_tokenizer()
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained("gpt")
    rows = tiny_sft.make_rows(20, "prior", kind="completion").to_list()
    rows += [{**row, "prompt": f"{row['prompt']} add take add"} for row in rows]
    alone, together = (
        mixcd.compare("gpt", "gpt", rows, correctness=mixcd.RightTokens(loss_tolerance=1e-4), batch_size=size)
        for size in (1, 40)
    )
    assert alone.change == together.change
    bins = [next(one.bins for one in each.partitions if one.name == "prior loss") for each in (alone, together)]
    assert [one.change for one in bins[0]] == [one.change for one in bins[1]]


def test_the_rule_is_chosen(folder, tuned):
    strict, lenient = (
        mixcd.compare("base", "tuned", "prior.jsonl", correctness=mixcd.RightTokens(share)) for share in (1.0, 0.5)
    )
    assert strict.change.damaged_count > lenient.change.damaged_count > 0
    by_loss = mixcd.compare("base", "tuned", "prior.jsonl", correctness=mixcd.RightTokens(loss_tolerance=0.1))
    assert by_loss.change.right_before == by_loss.change.sample_count


def test_little_to_lose_is_noted_with_the_share_that_would_do(folder):
    rows = tiny_sft.make_rows(60, "prior", kind="completion").to_list()
    for row in rows:
        row["completion"] = f"{row['completion']} 0"
    (note,) = mixcd.compare("base", "base", rows, columns=[], correctness=mixcd.RightTokens()).notes
    assert note.startswith(
        "The base model is right on only 0.0% of the samples, and no others can be damaged. Half of "
    )
    assert "of their target tokens right, which `--least-share 0." in note
    assert mixcd.compare("base", "base", rows, columns=[]).notes == ()  # by token there is something to lose


def test_conversations_without_a_chat_template_are_refused(folder):
    tokenizer = tiny_sft.make_tokenizer()
    tokenizer.chat_template = None
    (folder / "base" / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder / "base")
    with pytest.raises(DataError) as refused:
        mixcd.compare("base", "base", "prior.jsonl")
    assert str(refused.value) == (
        "`data` has conversations in its column `prompt`, but the tokenizer `base` has no chat template to write them "
        "with. Save one there as `chat_template.jinja`, take the tokenizer of a chat model, or give texts."
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": [{"who": "a"}], "completion": [{"who": "b"}]}], "TRL refuses to prepare `data`: "),
        (
            [{"chat": "add 3"}],
            "`data` has the columns `chat`, but TRL reads one of these formats: `messages`; `prompt`",
        ),
        ([{"prompt": "add 3", "completion": "beyond"}] * 2, "`data` has a token that is none of the model's 37 on "),
        (
            [{"prompt": " ".join(["add"] * 70), "completion": "3"}],
            "No row of `data` has a target left after truncation",
        ),
    ],
)
def test_rows_that_cannot_be_prepared_are_refused(folder, rows, told):
    tokenizer = tiny_sft.make_tokenizer()
    tokenizer.add_tokens(["beyond"])
    tokenizer.save_pretrained(folder / "base")
    with pytest.raises(DataError) as refused:
        mixcd.compare("base", "base", rows)
    assert str(refused.value).startswith(told)


def test_assistant_only_asks_for_conversations(folder):
    rows = tiny_sft.make_rows(10, "prior", kind="completion")
    with pytest.raises(
        DataError, match="TRL refuses to prepare `data`: .*`assistant_only_loss=True`.* not conversational"
    ):
        mixcd.compare("base", "base", rows, assistant_only_loss=True)


def test_rows_whose_answer_is_cut_off_are_left_out_and_named(folder, caplog):
    rows = tiny_sft.make_rows(60, "prior", kind="completion").to_list()
    rows[0]["prompt"] = " ".join(["add"] * 30)
    assert mixcd.compare("base", "base", rows, max_length=20).change.sample_count == 59
    assert "1 of 60 rows of `data` have no target left after truncation to `max_length` and are dropped" in caplog.text


def test_texts_without_a_tokenizer_are_refused(folder):
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    with pytest.raises(DataError, match="`data` has texts in `prompt`, but the model folder has no tokenizer."):
        mixcd.compare(model, model, "prior.jsonl")


def test_a_missing_package_is_named_with_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(SettingError, match="but the package `trl` cannot be imported: .* Run `pip install trl`."):
        mixcd.compare("base", "base", "prior.jsonl")


def test_rules_for_tokens_are_refused_for_classes(folders):
    with pytest.raises(SettingError, match="The rule is to count target tokens, but the labels of `data` are of shape"):
        mixcd.compare("base", "tuned", "held.csv", correctness=mixcd.RightTokens(0.5))


def test_columns_of_another_task_are_refused(folders):
    with pytest.raises(SettingError, match="A column is named as `question`, which is of another task than the base"):
        mixcd.compare("base", "tuned", "held.csv", names=ColumnsConfig(question="text"))


def test_assistant_only_asks_for_a_language_model(folders):
    with pytest.raises(SettingError, match="`data` has other rows, or the model is a `BertForSequenceClassification`"):
        mixcd.compare("base", "tuned", "held.csv", assistant_only_loss=True)


def test_assistant_only_asks_for_raw_rows(folder):
    rows = prepare(folder, tiny_sft.make_rows(10, "prior"))
    with pytest.raises(SettingError, match="`assistant_only_loss` masks raw conversations of a causal language model"):
        mixcd.compare("base", "base", rows, assistant_only_loss=True)
