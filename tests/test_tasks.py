"""Every family of tasks on the real trainers: what training observes is what the base model's own rule says."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import mixcd
from mixcd.errors import DataError, SettingError
from mixcd.prior_dataset import PriorDataset
from mixcd.trainer_predictions import predict_now
from tiny_tasks import FAMILIES

PRIOR_COUNT = 200
TOKEN_FAMILIES = [name for name, family in FAMILIES.items() if isinstance(family.rule, mixcd.RightTokens)]


@pytest.fixture(scope="session")
def base_weights(tmp_path_factory):
    """Return a function that trains each family's base model once."""
    made = {}

    def weights_of(name):
        if name not in made:
            made[name] = FAMILIES[name].train_base(tmp_path_factory.mktemp("base"))
        return made[name]

    return weights_of


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


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
    assert rehearsal._rule == family.rule
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
    assert rehearsal._rule == family.rule
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
    is_class = type(family.rule) is mixcd.RightClass
    assert type(rehearsal._loop.estimator).__name__ == ("DriftEstimator" if is_class else "CountEstimator")


def test_drift_is_forecast_of_every_task_whose_correctness_follows_from_its_logits(family, build):
    if not family.rule.has_logits:
        with pytest.raises(SettingError, match='"drift", but with loss at most'):
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


@pytest.mark.parametrize("family", TOKEN_FAMILIES, indirect=True)
def test_a_graded_rule_counts_more_samples_as_right(family, build):
    _, exact, _ = build()
    assert set(np.unique(exact.predictions.share_right * 2)) <= {0.0, 1.0, 2.0}  # two target tokens a sample
    expected = (exact.predictions.share_right >= 0.5).mean()
    exact.detach()
    exact._trainer.args.output_dir += "-graded"
    rows = family.make_rows(PRIOR_COUNT, 3, "prior")
    graded = mixcd.attach(exact._trainer, rows, mix_ratio=0.25, correctness=mixcd.RightTokens(0.5))
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


@pytest.mark.parametrize("family", TOKEN_FAMILIES, indirect=True)
def test_too_few_right_samples_name_the_share_that_half_of_them_have(family, build, base_weights, request, tmp_path):
    model = family.make_model()
    model.load_state_dict(base_weights(request.node.callspec.params["family"]))
    wrong_end = family.make_rows(100, 3, "prior").map(lambda row: {"labels": [*row["labels"][:-1], 2]})
    trainer = family.make_trainer(model, family.make_rows(80, 2, "new"), tmp_path)
    with pytest.raises(DataError, match=r"right on 0.0% of .*half of the samples have 50% .*RightTokens\(0.5\)"):
        mixcd.attach(trainer, wrong_end, mix_ratio=0.25)


@pytest.mark.parametrize("family", ["causal language model"], indirect=True)
def test_samples_whose_labels_are_all_masked_are_named_and_never_right(family, build, tmp_path, caplog):
    model = family.make_model()
    rows = family.make_rows(50, 3, "prior").map(
        lambda row, number: {"labels": [-100] * len(row["labels"]) if number in (7, 9) else row["labels"]},
        with_indices=True,
    )
    trainer = family.make_trainer(model, family.make_rows(80, 2, "new"), tmp_path)
    rehearsal = mixcd.attach(trainer, rows, mix_ratio=0.25, correctness=mixcd.RightTokens(loss_tolerance=1.0))
    assert "`prior_data` has no target token on sample 7, 9" in caplog.text
    assert np.flatnonzero(~rehearsal.predictions.correct).tolist() == [7, 9]


# --- mixed-up data --------------------------------------------------------------------------------------------------


def test_prior_data_of_another_task_are_refused(tmp_path):
    one, other = FAMILIES["classification"], FAMILIES["multi-label"]
    trainer = one.make_trainer(one.make_model(), one.make_rows(20, 2, "new"), tmp_path)
    with pytest.raises(DataError, match="of different tasks by their labels: sequence-classification.*; multi-label"):
        mixcd.attach(trainer, other.make_rows(20, 3, "prior"), mix_ratio=0.25)
