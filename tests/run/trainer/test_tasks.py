"""Every family of tasks on the real trainers: what training observes is what the base model's own rule says."""

import copy

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import mixcd
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.trainer_predictions import predict_now
from mixcd.words.errors import DataError, SettingError, UnsupportedTrainerError
from tiny_tasks import FAMILIES, SMALL, STILL, WHOLE_SAMPLES, WORDS, collate

PRIOR_COUNT = 200
EVERY = {**FAMILIES, **WHOLE_SAMPLES}
TOKEN_FAMILIES = list(WHOLE_SAMPLES)[1:] + list(WHOLE_SAMPLES)[:1]


@pytest.fixture(scope="session")
def base_weights(tmp_path_factory):
    """Return a function that trains each family's base model once."""
    made = {}

    def weights_of(name):
        name = name.removesuffix(", whole samples")
        if name not in made:
            made[name] = FAMILIES[name].train_base(tmp_path_factory.mktemp("base"))
        return made[name]

    return weights_of


def make_tokenizer():
    words = {"[PAD]": 0, "[MASK]": 1, **{f"w{number}": number for number in range(2, WORDS)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w2")), pad_token="[PAD]", mask_token="[MASK]"
    )


@pytest.fixture(params=EVERY)
def family(request):
    return EVERY[request.param]


@pytest.fixture
def build(family, request, base_weights, tmp_path):
    """Attach rehearsal to a trainer of the family; return both, and the observations that training will make."""

    def make(*, correctness=family.correctness, estimator="auto", held_out=None, **settings):
        model = family.make_model()
        model.load_state_dict(base_weights(request.node.callspec.params["family"]))
        trainer = family.make_trainer(model, family.make_rows(80, 2, "new"), tmp_path, **settings)
        prior = family.make_rows(PRIOR_COUNT, 3, "prior")
        rehearsal = mixcd.attach(
            trainer,
            prior,
            mix_ratio=0.25,
            correctness=correctness,
            estimator=estimator,
            held_out=held_out,
            cache_dir=tmp_path / "cache",
        )
        return trainer, rehearsal, record_observations(rehearsal)

    return make


def record_observations(rehearsal):
    seen, learn = [], rehearsal._loop.learn

    def recorded(observation, *rest):
        seen.append(observation)
        return learn(observation, *rest)

    rehearsal._loop.learn = recorded
    return seen


def test_a_model_that_does_not_change_is_observed_to_be_as_right_as_it_was(family, build):
    trainer, rehearsal, seen = build(learning_rate=0.0, gradient_accumulation_steps=2, max_steps=12)
    assert rehearsal._opened.rule == family.rule
    right = rehearsal.predictions.correct
    assert 0.3 < right.mean() < 0.99  # some of both, or the test shows nothing
    trainer.train()
    assert rehearsal.forward_count == 24
    for observation in seen:
        ids = observation.sample_ids
        assert observation.correct.tolist() == right[ids].tolist()
        np.testing.assert_allclose(observation.loss, rehearsal.predictions.loss[ids], rtol=1e-3, atol=1e-5)
    assert sum(len(observation.sample_ids) for observation in seen) == 12 * 4
    assert rehearsal.counts.damaged_count.sum() == 0


def test_damage_is_found_and_measured_on_held_out_samples(family, build):
    held_out = family.make_rows(150, 4, "prior")
    trainer, rehearsal, _ = build(held_out=held_out, max_steps=40)
    trainer.train()
    assert rehearsal.counts.damaged_count.sum() > 0
    change = rehearsal.evaluate().prior
    now = predict_now(trainer, PriorDataset(held_out), family.rule)["correct"]
    assert change.score_after == now.mean()
    assert change.damaged_count > 0


def test_gradients_are_those_of_a_plain_trainer_on_the_same_rows(family, build):
    """The loss of a step is what the model makes of the mixed batch: rehearsal only chooses the rows."""
    trainer, _, _ = build(max_steps=1)
    batches, losses, step = [], [], trainer.training_step

    def keep(model, inputs, *rest, **named):
        batches.append({name: value.clone() for name, value in inputs.items() if name != "mixcd_sample_ids"})
        loss = step(model, inputs, *rest, **named)
        losses.append(float(loss))
        return loss

    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.training_step = keep
    trainer.train()
    trainer.model.load_state_dict(before)
    with torch.no_grad():
        expected = float(trainer.model.train()(**batches[0]).loss)
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert len(batches[0][next(iter(batches[0]))]) == 8


@pytest.mark.parametrize(
    "settings",
    [{"gradient_checkpointing": True}, {"dataloader_num_workers": 2}, {"remove_unused_columns": False}],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize(
    "family", ["question answering", "causal language model", "sequence to sequence"], indirect=True
)
def test_a_setting_of_the_trainer_changes_nothing_observed(family, build, settings):
    trainer, rehearsal, seen = build(learning_rate=0.0, max_steps=4, **settings)
    trainer.train()
    assert rehearsal.forward_count == 4
    for observation in seen:
        assert observation.correct.tolist() == rehearsal.predictions.correct[observation.sample_ids].tolist()


@pytest.mark.parametrize("family", ["classification", "causal language model", "sequence to sequence"], indirect=True)
def test_an_adapter_is_trained_and_judged_like_a_whole_model(family, base_weights, request, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = family.make_model()
    model.load_state_dict(base_weights(request.node.callspec.params["family"]))
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=64, target_modules="all-linear"))
    trainer = family.make_trainer(adapted, family.make_rows(80, 2, "new"), tmp_path, max_steps=40, learning_rate=1e-2)
    held_out = family.make_rows(150, 4, "prior")
    rehearsal = mixcd.attach(trainer, family.make_rows(PRIOR_COUNT, 3, "prior"), mix_ratio=0.25, held_out=held_out)
    assert rehearsal._opened.rule == family.rule
    with adapted.disable_adapter():  # a fresh adapter changes nothing: the base model is the one without it
        before = predict_now(trainer, PriorDataset(held_out), family.rule)["correct"]
    trainer.train()
    change = rehearsal.evaluate().prior
    assert change.score_before == before.mean()
    assert change.damaged_count > 0
    assert rehearsal.counts.damaged_count.sum() > 0


def test_generation_in_evaluation_is_left_alone(base_weights, tmp_path):
    family = FAMILIES["sequence to sequence"]
    model = family.make_model()
    model.load_state_dict(base_weights("sequence to sequence"))
    trainer = family.make_trainer(
        model, family.make_rows(80, 2, "new"), tmp_path, predict_with_generate=True, generation_max_length=4
    )
    rehearsal = mixcd.attach(trainer, family.make_rows(PRIOR_COUNT, 3, "prior"), mix_ratio=0.25)
    trainer.train()
    counts = rehearsal.counts.observed_count.sum()
    generated = trainer.predict(family.make_rows(20, 4, "prior")).predictions
    assert generated.shape[0] == 20
    assert rehearsal.counts.observed_count.sum() == counts == 10 * 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"generation_num_beams": 4}, "Evaluation generates with 4 beams, but a prior sample is right by what greedy"),
        ({"generation_config": GenerationConfig(do_sample=True)}, "Evaluation generates with sampling"),
        ({}, ""),
    ],
)
def test_decoding_that_is_not_greedy_is_warned_of(settings, said, base_weights, tmp_path, caplog):
    family = FAMILIES["sequence to sequence"]
    model = family.make_model()
    model.load_state_dict(base_weights("sequence to sequence"))
    settings = {"predict_with_generate": True, **settings}
    trainer = family.make_trainer(model, family.make_rows(20, 2, "new"), tmp_path, **settings)
    mixcd.attach(trainer, family.make_rows(50, 3, "prior"), mix_ratio=0.25)
    assert said in caplog.text
    assert bool(said) == ("Evaluation generates" in caplog.text)


def test_what_the_default_estimator_is(family, build):
    _, rehearsal, _ = build()
    is_class = type(family.rule) is mixcd.RightClass and family is not FAMILIES["multiple choice"]
    assert type(rehearsal._loop.estimator).__name__ == ("DriftEstimator" if is_class else "CountEstimator")


def test_drift_is_forecast_of_every_task_whose_correctness_follows_from_its_logits(family, build):
    if not family.rule.has_logits:
        with pytest.raises(SettingError, match='"drift", but with .*: each target token'):
            build(estimator="drift")
        return
    if family is FAMILIES["multiple choice"]:
        with pytest.raises(SettingError, match='"drift".*in multiple choice a class is only the place of a choice'):
            build(estimator="drift")
        return
    trainer, rehearsal, _ = build(estimator="drift", learning_rate=5e-3, max_steps=30)
    arrays = rehearsal.predictions.arrays
    is_right = arrays["logits"].argmax(1) == (rehearsal.predictions.classes)
    assert (is_right | ~rehearsal.predictions.correct).mean() > 0.9  # a token may be ahead against the odds
    trainer.train()
    estimator, state = rehearsal._loop.estimator, rehearsal._loop.state.estimator_state
    assert np.abs(estimator.belief(state)[0]).max() > 0
    weights = estimator.damage_probability(estimator.belief(state), np.arange(len(is_right)))
    assert np.isfinite(weights).all()
    assert (weights[~rehearsal.predictions.correct] == 0).all()


def test_bins_of_features_are_made_of_every_models_head_input(family, base_weights, request, tmp_path):
    model = family.make_model()
    model.load_state_dict(base_weights(request.node.callspec.params["family"]))
    trainer = family.make_trainer(model, family.make_rows(80, 2, "new"), tmp_path)
    rehearsal = mixcd.attach(
        trainer,
        family.make_rows(PRIOR_COUNT, 3, "prior"),
        mix_ratio=0.25,
        partition=mixcd.ByFeatures(4),
        correctness=family.correctness,
    )
    features = rehearsal.predictions.arrays["features"]
    assert features.shape[0] == PRIOR_COUNT
    assert np.isfinite(features).all()
    assert features.std() > 0.1
    assert rehearsal.partition.bin_count == 4
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 10 * 2


# --- language models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TOKEN_FAMILIES[:2], indirect=True)  # token classes are right together or not at all
def test_a_graded_rule_counts_more_samples_as_right(family, build):
    _, exact, _ = build()
    assert set(np.unique(exact.predictions.share_right * 2)) <= {0.0, 1.0, 2.0}  # two target tokens a sample
    expected = (exact.predictions.share_right >= 0.5).mean()
    exact.detach()
    exact._seam.trainer.args.output_dir += "-graded"
    rows = family.make_rows(PRIOR_COUNT, 3, "prior")
    graded = mixcd.attach(exact._seam.trainer, rows, mix_ratio=0.25, correctness=mixcd.RightTokens(0.5))
    assert graded.predictions.correct.mean() == expected > exact.predictions.correct.mean()


@pytest.mark.parametrize("family", TOKEN_FAMILIES, indirect=True)
def test_a_loss_rule_finds_every_sample_right_at_first_and_damage_later(family, build):
    held_out = family.make_rows(100, 4, "prior")
    trainer, rehearsal, seen = build(
        correctness=mixcd.RightTokens(loss_tolerance=0.5), held_out=held_out, max_steps=40, learning_rate=1e-2
    )
    assert rehearsal.predictions.correct.all()
    trainer.train()
    for observation in seen:
        base_loss = rehearsal.predictions.loss[observation.sample_ids]
        assert observation.correct.tolist() == (observation.loss <= base_loss + 0.5).tolist()
    change = rehearsal.evaluate().prior
    assert change.score_before == 1.0
    assert 0 < change.damaged_count < 100


@pytest.mark.parametrize("family", TOKEN_FAMILIES[:2], indirect=True)  # token classes are right together or not at all
def test_too_few_right_samples_name_the_share_that_half_of_them_have(family, build, base_weights, request, tmp_path):
    model = family.make_model()
    model.load_state_dict(base_weights(request.node.callspec.params["family"]))
    wrong_end = family.make_rows(100, 3, "prior").map(lambda row: {"labels": [*row["labels"][:-1], 2]})
    trainer = family.make_trainer(model, family.make_rows(80, 2, "new"), tmp_path)
    with pytest.raises(DataError, match=r"right on 0.0% of .*half of the samples have 50% .*RightTokens\(0.5\)"):
        mixcd.attach(trainer, wrong_end, mix_ratio=0.25, correctness=mixcd.RightTokens())
    rehearsal = mixcd.attach(trainer, wrong_end, mix_ratio=0.25)  # by token there is something to lose
    assert not rehearsal.predictions.correct.any()
    assert rehearsal.predictions.right_tokens.right_count.sum() > 50


@pytest.mark.parametrize("family", ["causal language model"], indirect=True)
def test_samples_whose_labels_are_all_masked_are_named_and_never_right(family, build, tmp_path, caplog):
    model = family.make_model()
    rows = family.make_rows(50, 3, "prior").map(
        lambda row, number: {"labels": [-100] * len(row["labels"]) if number in (7, 9) else row["labels"]},
        with_indices=True,
    )
    trainer = family.make_trainer(model, family.make_rows(80, 2, "new"), tmp_path)
    rehearsal = mixcd.attach(trainer, rows, mix_ratio=0.25, correctness=mixcd.RightTokens(loss_tolerance=1.0))
    assert (
        "`prior_data` has no target token (all labels masked, or the answer truncated away) on 2 of 50" in caplog.text
    )
    assert "samples: 7, 9. They are never counted as right" in caplog.text
    assert np.flatnonzero(~rehearsal.predictions.correct).tolist() == [7, 9]


# --- questions whose answers no model can find -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["question answering"], indirect=True)
def test_answers_that_end_before_they_start_are_counted_once_and_never_right(family, base_weights, tmp_path, caplog):
    def turn(count, seed):
        rows = family.make_rows(count, seed, "prior")
        return rows.map(
            lambda row, number: {"start_positions": 4, "end_positions": 1} if number % 4 == 0 else {}, with_indices=True
        )

    model = family.make_model()
    model.load_state_dict(base_weights("question answering"))
    new, prior, held_out = turn(80, 2), turn(PRIOR_COUNT, 3), turn(100, 4)
    trainer = family.make_trainer(model, new, tmp_path, learning_rate=0.0, per_device_eval_batch_size=8)
    rehearsal = mixcd.attach(trainer, prior, mix_ratio=0.5, held_out=held_out, estimator="uniform")
    told = "has an answer that ends before it starts on 50 of 200 samples: 0, 4, 8, 12, 16 and 45 more. They are never"
    assert caplog.text.count("ends before it starts") == 2  # once of the prior data, once of what is held out
    assert f"`prior_data` {told}" in caplog.text
    assert not rehearsal.predictions.correct[::4].any()
    assert rehearsal.predictions.correct[1::4].mean() > 0.5
    assert np.isfinite(rehearsal.predictions.loss).all()
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 10 * 4
    assert rehearsal.counts.damaged_count.sum() == 0
    change = rehearsal.evaluate().prior
    assert change.damaged_count == change.gained_count == 0
    compared = mixcd.compare(model, model, held_out, collate_fn=collate)
    assert compared.change.right_before == change.right_before
    assert "25 samples have an answer that ends before it starts, so they never count as right." in compared.notes


# --- multiple choice ------------------------------------------------------------------------------------------------


@pytest.fixture
def choice_model(base_weights):
    model = FAMILIES["multiple choice"].make_model()
    model.load_state_dict(base_weights("multiple choice"))
    return model


def make_choice_trainer(model, rows, folder, **settings):
    """As `run_swag.py` makes it: with the collator of transformers, and the other columns left in."""
    args = TrainingArguments(
        str(folder), max_steps=8, report_to="none", use_cpu=True, disable_tqdm=True, learning_rate=0.0, **settings
    )
    return Trainer(
        model,
        args,
        train_dataset=rows,
        data_collator=DataCollatorForMultipleChoice(make_tokenizer()),
        eval_dataset=rows,
    )


@pytest.mark.parametrize("key", ["label", "labels"])
@pytest.mark.parametrize("partition", [None, mixcd.ByFeatures(3), mixcd.ByPriorLoss(2) * mixcd.ByColumn("topic")])
def test_multiple_choice_is_followed_with_the_collator_of_transformers(key, partition, choice_model, tmp_path):
    def rows(count, seed, task):
        made = FAMILIES["multiple choice"].make_rows(count, seed, task)
        made = made.add_column("topic", ["ab"[number % 2] for number in range(count)])
        return made if key == "label" else made.rename_column("label", key)

    choice_model.config.id2label = {0: "yes", 1: "no"}  # of the task that it was made from
    prior, held_out = rows(PRIOR_COUNT, 3, "prior"), rows(60, 4, "prior")
    trainer = make_choice_trainer(choice_model, rows(80, 2, "new"), tmp_path)
    rehearsal = mixcd.attach(trainer, prior, mix_ratio=0.25, partition=partition, held_out=held_out)
    assert type(rehearsal._loop.estimator).__name__ == (
        "FactoredEstimator" if isinstance(partition, mixcd.Combined) else "CountEstimator"
    )
    lengths = [sum(map(len, row["input_ids"])) for row in prior]
    assert rehearsal.predictions.token_count.tolist() == lengths
    expected = trainer.predict(prior)
    assert rehearsal.predictions.correct.tolist() == (expected.predictions.argmax(-1) == expected.label_ids).tolist()
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 8 * 2
    assert rehearsal.counts.damaged_count.sum() == 0
    after = rehearsal.evaluate().prior
    compared = mixcd.compare(choice_model, choice_model, held_out, tokenizer=make_tokenizer())
    assert after.right_before == compared.change.right_before
    assert after.damaged_count == compared.change.damaged_count == 0
    rehearsal.report(tmp_path / "report.html")


def test_multiple_choice_in_a_loop_of_ones_own(choice_model, tmp_path):
    family = FAMILIES["multiple choice"]
    new, prior = family.make_rows(40, 2, "new"), family.make_rows(PRIOR_COUNT, 3, "prior")
    rehearsal = mixcd.rehearse(
        choice_model, new, prior, tmp_path, mix_ratio=0.25, batch_size=8, collate_fn=collate, estimator="counts"
    )
    for batch in rehearsal.loader():
        with rehearsal.observe(choice_model.eval(), batch) as inputs:
            choice_model(**inputs).loss.backward()
        rehearsal.commit()
    assert rehearsal.counts.observed_count.sum() == rehearsal.steps_per_epoch * 2
    assert rehearsal.counts.damaged_count.sum() == 0


@pytest.mark.parametrize("which", ["trainer.train_dataset", "prior_data"])
def test_a_label_that_is_none_of_the_choices_is_refused(which, choice_model, tmp_path):
    rows = {"trainer.train_dataset": FAMILIES["multiple choice"].make_rows(20, 2, "new")}
    rows["prior_data"] = FAMILIES["multiple choice"].make_rows(20, 3, "prior")
    rows[which] = rows[which].map(lambda row, number: {"label": 3 if number == 7 else row["label"]}, with_indices=True)
    trainer = make_choice_trainer(choice_model, rows["trainer.train_dataset"], tmp_path)
    with pytest.raises(DataError, match=f"`{which}` has label 3 on sample 7, but the model knows classes 0 to 2"):
        mixcd.attach(trainer, rows["prior_data"], mix_ratio=0.25)


def test_a_choice_of_more_tokens_than_the_model_takes_is_refused(choice_model, tmp_path):
    rows = FAMILIES["multiple choice"].make_rows(20, 3, "prior").to_list()
    for key, value in (("input_ids", 4), ("attention_mask", 1)):
        rows[5][key][1] = [value] * 17
    trainer = make_choice_trainer(choice_model, rows, tmp_path)
    with pytest.raises(DataError, match="`prior_data` has 17 tokens on sample 5, but the model has 16 positions"):
        mixcd.attach(trainer, rows, mix_ratio=0.25)


def test_models_of_multiple_choice_are_compared_whatever_labels_their_configs_name(choice_model):
    other = copy.deepcopy(choice_model)
    other.config.id2label = {0: "a", 1: "b", 2: "c"}
    choice_model.config.id2label = {0: "yes", 1: "no"}
    rows = FAMILIES["multiple choice"].make_rows(60, 3, "prior")
    compared = mixcd.compare(choice_model, other, rows, tokenizer=make_tokenizer())
    assert compared.change.damaged_count == compared.change.gained_count == 0
    with torch.no_grad():
        other.classifier.weight.neg_()
    worst = mixcd.compare(choice_model, other, rows, tokenizer=make_tokenizer()).most_damaged[0]
    assert {worst.label, worst.prediction} <= {"0", "1", "2"}
    assert worst.text.count(" | ") == 2  # its choices


# --- masked tokens, and classes of tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, mixcd.RightTokens(is_shifted=False)])
def test_random_masks_are_refused_by_name_and_fixed_ones_are_followed(rule, tmp_path):
    model = BertForMaskedLM(BertConfig(**SMALL, **STILL))
    rows = FAMILIES["causal language model"].make_rows(40, 3, "prior")
    random = DataCollatorForLanguageModeling(make_tokenizer(), mlm_probability=0.15)
    args = TrainingArguments(
        str(tmp_path), max_steps=3, report_to="none", use_cpu=True, disable_tqdm=True, learning_rate=0.0
    )
    trainer = Trainer(model, args, train_dataset=rows, data_collator=random)
    told = "`DataCollatorForLanguageModeling` masks other tokens each time that a sample is read"
    with pytest.raises(UnsupportedTrainerError, match=told):
        mixcd.attach(trainer, rows, mix_ratio=0.25, correctness=rule)
    with pytest.raises(UnsupportedTrainerError, match=told):
        mixcd.compare(model, model, rows, collate_fn=random, correctness=rule)
    with pytest.raises(UnsupportedTrainerError, match=told):
        mixcd.predict_prior(model, rows, tmp_path / "cache", collate_fn=random, correctness=rule)
    with pytest.raises(UnsupportedTrainerError, match=told):
        mixcd.rehearse(model, rows, rows, tmp_path, mix_ratio=0.5, batch_size=4, collate_fn=random, correctness=rule)
    if rule is None:
        return
    trainer = Trainer(model, args, train_dataset=rows, data_collator=collate)
    by_loss = mixcd.RightTokens(loss_tolerance=0.1)
    rehearsal = mixcd.attach(trainer, rows, mix_ratio=0.25, correctness=by_loss)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 3 * 2
    assert rehearsal.counts.damaged_count.sum() == 0


def test_classes_of_tokens_are_matched_by_name_when_models_are_compared(base_weights):
    family = FAMILIES["token classification"]
    base = family.make_model()
    base.load_state_dict(base_weights("token classification"))
    tuned = copy.deepcopy(base)
    base.config.id2label, tuned.config.id2label = {0: "A", 1: "B", 2: "C"}, {0: "B", 1: "C", 2: "A"}
    with torch.no_grad():
        for one in (tuned.classifier.weight, tuned.classifier.bias):
            one.copy_(one[[1, 2, 0]])
    rows = family.make_rows(60, 3, "prior")
    change = mixcd.compare(base, tuned, rows, collate_fn=collate, correctness=family.correctness).change
    assert change.damaged_count == change.gained_count == 0
    assert change.right_before > 30


# --- mixed-up data --------------------------------------------------------------------------------------------------


def test_prior_data_of_another_task_are_refused(tmp_path):
    one, other = FAMILIES["classification"], FAMILIES["multi-label"]
    trainer = one.make_trainer(one.make_model(), one.make_rows(20, 2, "new"), tmp_path)
    with pytest.raises(DataError, match="of different tasks by their labels: sequence-classification.*; multi-label"):
        mixcd.attach(trainer, other.make_rows(20, 3, "prior"), mix_ratio=0.25)
