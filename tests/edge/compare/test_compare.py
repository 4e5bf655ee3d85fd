"""`mixcd.compare` on real models, tiny: what it finds, what it costs, what it refuses."""

import copy
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

import mixcd
from mixcd.edge.compare import models as compared_models
from mixcd.edge.compare.comparison import PRIOR_LOSS
from mixcd.edge.compare.samples import renumber_labels
from mixcd.edge.compare.verdict import judge_damage
from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.edge.model.loading import open_model
from mixcd.matter.base_model.prior_predictions import predict_prior
from mixcd.words.errors import CacheError, DataError, SettingError
from tiny import CLASSES, collate, make_rows
from tiny_tasks import FAMILIES, SMALL
from tiny_tasks import collate as collate_task
from workspace import LABELS, as_texts, make_tokenizer, save_named


@pytest.fixture(scope="module")
def rows():
    return make_rows(800, seed=5, task="prior")


def permute(model, order):
    """A model whose class i is the given model's class order[i]."""
    permuted = copy.deepcopy(model)
    with torch.no_grad():
        permuted.classifier.weight.copy_(model.classifier.weight[order])
        permuted.classifier.bias.copy_(model.classifier.bias[order])
    return permuted


def count_forwards(model):
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def names_of(comparison):
    return [one.name for one in comparison.partitions]


def test_it_names_the_topics_that_broke(base_model, tuned_model, rows):
    comparison = mixcd.compare(base_model, tuned_model, rows, collate_fn=collate)
    assert comparison.is_damaged
    assert sorted(names_of(comparison)) == ["label", PRIOR_LOSS, "topic"]
    topics = next(one for one in comparison.partitions if one.name == "topic").bins
    assert topics[0].name in {"topic=topic 2", "topic=topic 3", "topic=topic 4"}  # of tokens 20 to 29
    assert topics[0].name in judge_damage(comparison)
    assert judge_damage(comparison).startswith("Damage: ")
    assert comparison.notes == ("Left out, because nearly every value is different: `text`.",)


def test_the_counts_are_those_of_predicting_one_by_one(base_model, tuned_model, rows):
    comparison = mixcd.compare(base_model, tuned_model, rows, collate_fn=collate, batch_size=5)
    right = []
    for model in (base_model.eval(), tuned_model.eval()):
        batches = [collate([row]) for row in rows]
        with torch.no_grad():
            right.append(np.array([int(model(**batch).logits.argmax()) == int(batch["labels"]) for batch in batches]))
    assert comparison.change.right_before == right[0].sum()
    assert comparison.change.damaged_count == (right[0] & ~right[1]).sum()
    assert comparison.change.gained_count == (~right[0] & right[1]).sum()
    assert {one.sample_id for one in comparison.most_damaged} <= set(np.flatnonzero(right[0] & ~right[1]).tolist())


def test_a_model_against_itself_broke_nothing(base_model, rows):
    comparison = mixcd.compare(base_model, base_model, rows, collate_fn=collate)
    assert comparison.change.damaged_count == comparison.change.gained_count == 0
    assert comparison.most_damaged == ()
    assert judge_damage(comparison).startswith("Nothing broke")


def test_it_costs_two_passes_and_leaves_the_models_as_they_were(base_model, tuned_model, rows):
    calls = [count_forwards(model) for model in (base_model, tuned_model)]
    base_model.train()
    tuned_model.eval()
    mixcd.compare(base_model, tuned_model, rows, collate_fn=collate)
    assert len(calls[0]) == len(calls[1]) <= len(rows) / 32
    assert base_model.training
    assert not tuned_model.training


@pytest.mark.parametrize("name", FAMILIES)
def test_every_task_that_has_a_rule_is_compared(name, tmp_path):
    family = FAMILIES[name]
    torch.manual_seed(0)
    base = family.make_model()
    data = family.make_rows(60, 1, "prior")
    family.make_trainer(base, data, tmp_path, max_steps=60).train()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    comparison = mixcd.compare(base, tuned, data, collate_fn=collate_task, correctness=family.correctness)
    assert comparison.change.sample_count == 60
    assert comparison.change.right_before > 0
    same = mixcd.compare(base, base, data, collate_fn=collate_task, correctness=family.correctness)
    assert same.change.damaged_count == 0
    assert same.change.right_before == comparison.change.right_before


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"regression"}))
def test_prepared_rows_need_no_collator_of_ones_own(name):
    family = FAMILIES[name]
    model, data = family.make_model(), family.make_rows(40, 1, "prior")
    own = mixcd.compare(model, model, data, collate_fn=collate_task, correctness=family.correctness)
    default = mixcd.compare(model, model, data, tokenizer=make_tokenizer(), correctness=family.correctness)
    assert default.change == own.change


def test_models_and_texts_are_loaded_from_folders(folders):
    comparison = mixcd.compare("base", "tuned", "held.csv")
    assert comparison.is_damaged
    worst = comparison.most_damaged[0]
    assert {worst.label, worst.prediction} <= set(LABELS)
    assert worst.text.startswith("w2")
    labels = next(one for one in comparison.partitions if one.name == "label")
    assert {one.name for one in labels.bins} == {f"label={name}" for name in LABELS}


def test_a_model_that_was_saved_with_names_by_number_alone_is_loaded(folders):
    expected = mixcd.compare("base", "tuned", "held.csv")
    for name in ("base", "tuned"):
        path = folders / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "label2id": None}))
    assert mixcd.compare("base", "tuned", "held.csv") == expected


def test_texts_in_memory_and_other_names_of_columns_are_taken(folders):
    texts = [{"tweet": row["text"], "mood": row["label"]} for row in as_texts(make_rows(800, seed=5, task="prior"))]
    named = mixcd.compare("base", "tuned", texts, names=ColumnsConfig(text="tweet", label="mood"))
    assert named.change == mixcd.compare("base", "tuned", "held.csv").change
    assert sorted(names_of(named)) == ["mood", PRIOR_LOSS]


def test_labels_in_another_order_are_matched_by_name(folders, base_model):
    order = [2, 0, 1]
    save_named(permute(base_model, order), folders / "permuted", [LABELS[number].upper() for number in order])
    comparison = mixcd.compare("base", "permuted", "held.csv")
    assert comparison.change.damaged_count == comparison.change.gained_count == 0
    plain = mixcd.compare("base", "tuned", "held.csv")
    tuned = open_model("tuned", "tuned")
    save_named(permute(tuned, order), folders / "again", [LABELS[number] for number in order])
    again = mixcd.compare("base", "again", "held.csv")
    assert again.change == plain.change
    assert [one.prediction for one in again.most_damaged] == [one.prediction for one in plain.most_damaged]


def test_sets_of_labels_are_renumbered_column_by_column():
    labels = torch.tensor([[1.0, 0.0, 0.0]])
    moved = renumber_labels(lambda rows: {"labels": labels}, np.array([2, 0, 1]))([])
    assert moved["labels"].tolist() == [[0.0, 0.0, 1.0]]
    numbers = renumber_labels(lambda rows: {"labels": torch.tensor([0, 2, 7, -1])}, np.array([2, 0, 1]))([])
    assert numbers["labels"].tolist() == [2, 1, 7, -1]


def test_other_labels_are_refused_by_name(folders, base_model):
    save_named(base_model, folders / "other", ("negative", "neutral", "great"))
    with pytest.raises(DataError, match="only the base model has `positive`; only the fine-tuned model has `great`"):
        mixcd.compare("base", "other", "held.csv")


def test_data_that_number_the_labels_otherwise_are_refused(base_model, rows):
    base_model.config.id2label = dict(enumerate(LABELS))
    wrong = rows.cast_column("label", ClassLabel(names=[LABELS[1], LABELS[0], LABELS[2]]))
    with pytest.raises(DataError, match="`data` numbers its labels neutral, negative, positive"):
        mixcd.compare(base_model, base_model, wrong, collate_fn=collate)


def test_other_tokenizers_are_refused(folders):
    path = folders / "tuned" / "tokenizer.json"
    stored = json.loads(path.read_text())
    words = stored["model"]["vocab"]
    words["w3"], words["w4"] = words["w4"], words["w3"]
    path.write_text(json.dumps(stored))
    with pytest.raises(DataError, match="the fine-tuned model numbers `w[34]`, `w[34]` differently"):
        mixcd.compare("base", "tuned", "held.csv")


def test_a_model_without_a_tokenizer_takes_the_others(folders):
    for path in (folders / "tuned").glob("tokenizer*"):
        path.unlink()
    assert mixcd.compare("base", "tuned", "held.csv").is_damaged


def adapt(model, seed=1):
    """Put an adapter on the model, head included, that has learnt something."""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.5 * torch.randn_like(weight))
    return adapted


def test_an_adapter_loads_the_base_model_once(folders, base_model, monkeypatch):
    adapted = adapt(copy.deepcopy(base_model))
    adapted.save_pretrained(folders / "adapter")
    loaded = []

    def open_and_tell(path, *given, **settings):
        loaded.append(path)
        return open_model(path, *given, **settings)

    monkeypatch.setattr(compared_models, "open_model", open_and_tell)
    by_adapter = mixcd.compare("base", "adapter", "held.csv")
    assert loaded == ["base"]
    save_named(adapted.merge_and_unload(), folders / "merged")
    merged = mixcd.compare("base", "merged", "held.csv")
    assert by_adapter.change == merged.change
    assert by_adapter.change.damaged_count > 0


def test_an_adapter_in_memory_is_compared_with_what_it_is_on(base_model, rows):
    alone = mixcd.compare(base_model, base_model, rows, collate_fn=collate)
    comparison = mixcd.compare(base_model, adapt(base_model), rows, collate_fn=collate)
    assert comparison.change.right_before == alone.change.right_before
    assert comparison.change.damaged_count > 0


def test_a_given_base_model_is_given_back_without_the_adapter(folders, base_model, rows):
    adapt(copy.deepcopy(base_model)).save_pretrained(folders / "adapter")
    before = {name: value.clone() for name, value in base_model.state_dict().items()}
    trainable = [weight.requires_grad for weight in base_model.parameters()]
    first = mixcd.compare(base_model, "adapter", rows, collate_fn=collate)
    assert not isinstance(base_model, PeftModel)
    after = base_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [weight.requires_grad for weight in base_model.parameters()] == trainable
    assert mixcd.compare(base_model, "adapter", rows, collate_fn=collate) == first


def test_an_adapter_for_another_model_is_refused(folders, base_model):
    adapt(copy.deepcopy(base_model)).save_pretrained(folders / "adapter")
    path = folders / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_modules": ["nothing"]}))
    with pytest.raises(
        SettingError,
        match="`tuned` is the adapter `adapter`, which does not fit the base model: .* Name the base model",
    ):
        mixcd.compare("base", "adapter", "held.csv")


def test_an_adapter_that_does_not_fit_is_refused_before_the_base_model_predicts(folders, base_model, rows):
    get_peft_model(copy.deepcopy(base_model).bert, LoraConfig(r=4, target_modules=["query"])).save_pretrained("adapter")
    calls = count_forwards(base_model)
    with pytest.raises(
        SettingError, match="`tuned` is the adapter `adapter`, which does not fit the base model: the mo"
    ):
        mixcd.compare(base_model, "adapter", rows, collate_fn=collate)
    assert not calls


def test_an_adapter_can_be_the_base_model(folders, base_model):
    model = AutoModelForSequenceClassification.from_pretrained("base")
    adapt(model).save_pretrained(folders / "adapter")
    save_named(open_model("adapter", "base"), folders / "merged")
    merged = mixcd.compare("merged", "tuned", "held.csv")
    assert mixcd.compare("adapter", "tuned", "held.csv").change == merged.change
    assert mixcd.compare("adapter", "merged", "held.csv").change.damaged_count == 0


def test_of_two_adapters_each_goes_on_the_model_that_it_was_made_for(folders):
    for name, seed in (("first", 1), ("second", 2)):
        adapt(AutoModelForSequenceClassification.from_pretrained("base"), seed).save_pretrained(folders / name)
        save_named(open_model(name, "base"), folders / f"{name}-merged")
    assert (
        mixcd.compare("first", "second", "held.csv").change
        == mixcd.compare("first-merged", "second-merged", "held.csv").change
    )


def test_models_stored_in_two_dtypes_are_compared_in_the_wider_one(folders, tuned_model):
    save_named(tuned_model.to(torch.bfloat16), folders / "short")
    save_named(copy.deepcopy(tuned_model).float(), folders / "wide")  # equal values
    for pair in (("short", "wide"), ("wide", "short")):
        comparison = mixcd.compare(*pair, "held.csv")
        assert comparison.dtype == "float32"
        assert comparison.most_damaged == ()
        assert comparison.change.score_before == mixcd.compare("wide", "wide", "held.csv").change.score_before
    losses = [one.change for one in mixcd.compare("short", "wide", "held.csv").partitions[0].bins]
    assert losses == [one.change for one in mixcd.compare("wide", "wide", "held.csv").partitions[0].bins]
    assert mixcd.compare("short", "short", "held.csv").dtype == "bfloat16"


def test_loaded_models_of_two_dtypes_stay_as_they_are_and_are_told(base_model, rows):
    short = copy.deepcopy(base_model).to(torch.bfloat16)
    comparison = mixcd.compare(short, base_model, rows, collate_fn=collate)
    assert comparison.dtype == "bfloat16 before, float32 after"
    assert "The weights were held in bfloat16 before, float32 after, so rounding alone turns some samples" in str(
        comparison.notes
    )
    assert short.dtype == torch.bfloat16


def test_a_cache_serves_the_base_model(base_model, tuned_model, rows, tmp_path):
    calls = count_forwards(base_model)
    without = mixcd.compare(base_model, tuned_model, rows, collate_fn=collate)
    first = mixcd.compare(base_model, tuned_model, rows, collate_fn=collate, cache_dir=tmp_path / "cache")
    made = len(calls)
    second = mixcd.compare(base_model, tuned_model, rows, collate_fn=collate, cache_dir=tmp_path / "cache")
    assert len(calls) == made
    assert first.change == second.change == without.change
    with pytest.raises(CacheError, match="was made from another model"):
        mixcd.compare(tuned_model, base_model, rows, collate_fn=collate, cache_dir=tmp_path / "cache")


def test_of_a_partial_cache_only_what_is_cached_is_compared(base_model, tuned_model, rows, tmp_path):
    predict_prior(base_model, rows, tmp_path / "cache", collate_fn=collate, share=0.25, progress=False)
    comparison = mixcd.compare(base_model, tuned_model, rows, collate_fn=collate, cache_dir=tmp_path / "cache")
    assert comparison.change.sample_count == 200
    assert "The cache holds predictions for 200 of 800 samples: only those are compared." in comparison.notes
    assert all(sum(one.change.sample_count for one in each.bins) == 200 for each in comparison.partitions)


def test_the_cache_of_a_run_is_one_of_its_held_out_data(folders):
    text = (folders / "config.toml").read_text()
    text = text.replace('path = "prior.csv"', 'path = "prior.csv"\nheld_out = { path = "held.csv" }')
    (folders / "config.toml").write_text(text)
    from mixcd.edge.cli import run

    with pytest.raises(SystemExit):
        run(("train", "config.toml"))
    cached = mixcd.compare("base", "run/model", "held.csv", cache_dir="run/cache/held_out_prior")
    assert cached.change == mixcd.compare("base", "run/model", "held.csv").change


@pytest.mark.parametrize(("broken", "owner"), [(0, "The base model"), (1, "The fine-tuned model")])
def test_losses_that_are_no_numbers_are_refused(base_model, tuned_model, rows, broken, owner):
    with torch.no_grad():
        (base_model, tuned_model)[broken].classifier.bias.fill_(float("nan"))
    with pytest.raises(
        DataError, match=f"{owner}'s loss is NaN or infinite on prior sample 0, 1, 2, 3, 4 and 795 more"
    ):
        mixcd.compare(base_model, tuned_model, rows, collate_fn=collate)


def test_named_columns_are_used_even_if_every_value_is_its_own(base_model, tuned_model, rows):
    comparison = mixcd.compare(base_model, tuned_model, rows, collate_fn=collate, columns=["text", "topic", "text"])
    assert sorted(names_of(comparison)) == [PRIOR_LOSS, "text", "topic"]
    texts = next(one for one in comparison.partitions if one.name == "text").bins
    assert len(texts) == 51
    assert {one.name for one in texts} >= {"text: 750 other values"}
    assert comparison.notes == ()


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["topik"], "`columns` names `topik`, which `data` does not have, did you mean `topic`?"),
        (["x"], "`columns` names `x`, which `data` does not have (known: `input_ids`, `attention_mask`, `label`, "),
        (
            ["input_ids"],
            "`columns` names `input_ids`, which holds lists or the like, but bins need one value a sample.",
        ),
    ],
)
def test_columns_that_are_not_there_or_lists_are_refused(base_model, rows, columns, told):
    with pytest.raises(DataError) as refused:
        mixcd.compare(base_model, base_model, rows, collate_fn=collate, columns=columns)
    assert str(refused.value).startswith(told)


def test_several_sets_are_told_apart(base_model, tuned_model, rows):
    data = {"early": rows.select(range(300)), "late": rows.select(range(300, 800))}
    comparison = mixcd.compare(base_model, tuned_model, data, collate_fn=collate)
    sets = next(one for one in comparison.partitions if one.name == "prior_set").bins
    assert {one.name: one.change.sample_count for one in sets} == {"prior_set=early": 300, "prior_set=late": 500}


def test_several_sets_of_texts_in_memory_and_in_files_are_prepared(folders):
    texts = as_texts(make_rows(800, seed=5, task="prior"))
    whole = mixcd.compare("base", "tuned", "held.csv")
    parted = mixcd.compare("base", "tuned", {"memory": texts[:100], "file": "held.csv"})
    bins = {one.name: one.change for one in next(p for p in parted.partitions if p.name == "prior_set").bins}
    assert bins["prior_set=file"] == whole.change
    assert bins["prior_set=memory"].sample_count == 100
    with pytest.raises(DataError, match=r"`data\['b'\]` .*nope.csv"):
        mixcd.compare("base", "tuned", {"a": texts, "b": "nope.csv"})


def test_samples_without_targets_are_told(tmp_path):
    family = FAMILIES["causal language model"]
    model, data = family.make_model(), family.make_rows(40, 1, "prior")
    masked = data.map(
        lambda row, n: {**row, "labels": [-100] * len(row["labels"]) if n < 3 else row["labels"]}, with_indices=True
    )
    told = "3 samples have no target token (all labels masked, or the answer truncated away), so they never count"
    for settings in ({}, {"cache_dir": tmp_path / "cache"}):
        notes = mixcd.compare(model, model, masked, collate_fn=collate_task, **settings).notes
        assert any(note.startswith(told) for note in notes)


@pytest.mark.parametrize("family", ["multi-label", "images"])
def test_texts_are_not_prepared_for_every_model(family):
    model = FAMILIES[family].make_model()
    with pytest.raises(DataError, match=f"texts are not prepared for a `{type(model).__name__}`. Prepare the rows as"):
        mixcd.compare(model, model, Dataset.from_dict({"text": ["a"]}))


@pytest.mark.parametrize("task", ["question-answering", "sequence-to-sequence"])
def test_raw_rows_of_other_tasks_are_prepared_as_for_training(task, task_workspace):
    folder = task_workspace(task)
    comparison = mixcd.compare(folder / "base", folder / "base", folder / "prior.jsonl")
    assert comparison.change.damaged_count == comparison.change.gained_count == 0
    assert comparison.change.score_before > 0.5
    assert not comparison.is_damaged


def test_rows_of_tokens_need_a_tokenizer_to_pad_them(base_model, rows):
    with pytest.raises(DataError, match="there is no tokenizer to pad them"):
        mixcd.compare(base_model, base_model, rows)


@pytest.mark.parametrize("architectures", [[], ["NoSuchModel"]])
def test_a_model_of_no_known_class_is_refused(folders, architectures):
    path = folders / "tuned" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": architectures}))
    named = "NoSuchModel" if architectures else "no class"
    with pytest.raises(
        SettingError, match=f"`tuned` is `tuned`, whose `config.json` names {named} as its architecture"
    ):
        mixcd.compare("base", "tuned", "held.csv")


def test_a_damaged_tokenizer_is_refused(folders):
    (folders / "base" / "tokenizer.json").write_text("{")
    with pytest.raises(SettingError, match="No tokenizer can be loaded from `base`: "):
        mixcd.compare("base", "tuned", "held.csv")


@pytest.mark.parametrize("name", ["nowhere/", "held.csv"])
def test_a_model_that_is_not_there_is_refused(folders, name):
    with pytest.raises(SettingError, match=f"`tuned` is `{name}`"):
        mixcd.compare("base", name, "held.csv")


def test_a_batch_of_no_rows_is_refused(base_model, rows):
    with pytest.raises(SettingError, match="`batch_size` is 0, but a batch needs at least 1 row"):
        mixcd.compare(base_model, base_model, rows, collate_fn=collate, batch_size=0)


def test_a_model_with_fewer_classes_is_refused(base_model, rows):
    other = copy.deepcopy(base_model)
    other.config.num_labels = CLASSES + 1
    with pytest.raises(DataError, match="The base model has 3 labels, but the fine-tuned model 4"):
        mixcd.compare(base_model, other, rows, collate_fn=collate)


def make_decoder(pad):
    torch.manual_seed(0)
    return LlamaForSequenceClassification(
        LlamaConfig(**{**SMALL, "vocab_size": 80}, num_key_value_heads=2, num_labels=3, pad_token_id=pad)
    )


@pytest.mark.parametrize("pad", [5, None])
def test_models_that_differ_in_the_padding_token_of_their_config_alone_are_the_same(pad):
    base, tuned = make_decoder(0), make_decoder(pad)
    tuned.load_state_dict(base.state_dict())
    tokenizer = make_tokenizer()
    texts = [" ".join(["w7"] * (1 + number % 5)) for number in range(60)]
    rows = [{**tokenizer(text), "labels": number % 3} for number, text in enumerate(texts)]
    comparison = mixcd.compare(base, tuned, rows, tokenizer=tokenizer)
    assert (comparison.change.damaged_count, comparison.change.gained_count) == (0, 0)
    assert tuned.config.pad_token_id == pad


def test_comparing_leaves_frozen_what_is_frozen():
    base = make_decoder(0)
    tuned = get_peft_model(base, LoraConfig(target_modules=["q_proj"], r=2))
    for name, weight in tuned.named_parameters():
        weight.requires_grad_("lora_B" in name)
    before = {name: weight.requires_grad for name, weight in tuned.named_parameters()}
    tokenizer = make_tokenizer()
    rows = [{**tokenizer("w7 w8"), "labels": number % 3} for number in range(60)]
    mixcd.compare(base, tuned, rows, tokenizer=tokenizer)
    assert {name: weight.requires_grad for name, weight in tuned.named_parameters()} == before
