"""Rows that are read differently each time: detected, measured, said, and no reason to refuse a resumed run."""

import random
from functools import partial

import numpy as np
import pytest
import torch

import mixcd
from mixcd.matter.base_model.prediction_cache import read_manifest
from mixcd.matter.base_model.reading_noise import reads_at_random
from mixcd.matter.prior_and_new_data.fingerprint import fingerprint_rows
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from tiny_tasks import FAMILIES, collate

FAMILY = FAMILIES["images"]
DRAWS = {
    "random": random.random,
    "numpy": np.random.rand,
    "torch": lambda: float(torch.rand(1)),
    "a generator of its own": np.random.default_rng().random,
}
SETTINGS = {"remove_unused_columns": False, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}


def brighten(rows, draw):
    """Make every second image brighter, so that it looks like one of the next class."""
    images = [np.asarray(image) + (draw() < 0.5) for image in rows["pixel_values"]]
    return {**rows, "pixel_values": images}


class Augmented(torch.utils.data.Dataset):
    def __init__(self, rows, draw):
        self._rows, self._draw = rows, draw

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, number):
        row = self._rows[number]
        return {name: values[0] for name, values in brighten({k: [v] for k, v in row.items()}, self._draw).items()}


def augment(rows, draw, how):
    return rows.with_transform(partial(brighten, draw=draw)) if how == "transform" else Augmented(rows, draw)


def collate_at_random(rows):
    return collate(
        [{**row, "pixel_values": np.asarray(row["pixel_values"]) + (np.random.rand() < 0.5)} for row in rows]
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return FAMILY.train_base(tmp_path_factory.mktemp("images"))


@pytest.fixture
def model(weights):
    model = FAMILY.make_model()
    model.load_state_dict(weights)
    return model


@pytest.fixture
def plain():
    return FAMILY.make_rows(120, 3, "prior")


@pytest.mark.parametrize("how", ["transform", "dataset"])
@pytest.mark.parametrize("kind", DRAWS)
def test_random_rows_are_measured_said_and_resumed(how, kind, model, weights, plain, tmp_path, caplog):
    prior = augment(plain, DRAWS[kind], how)
    new = FAMILY.make_rows(60, 4, "new")
    trainer = FAMILY.make_trainer(model, new, tmp_path / "run", learning_rate=0.0, **SETTINGS)
    first = mixcd.attach(trainer, prior, mix_ratio=0.25, held_out=prior)
    rate = first.predictions.false_damage_rate
    assert 0.1 < rate < 0.7
    assert f"about {100 * rate:.1f} % are wrong when they are read again, without any training" in caplog.text
    assert "`with_transform`" in caplog.text
    assert "The rows of `held_out` differ each time they are read" in caplog.text
    trainer.train()
    assert "are noise: rows are read differently each time" in str(first.evaluate())
    first.report(tmp_path / "report.html")
    shown = (tmp_path / "report.html").read_text("utf-8")
    assert "share of the right ones that is wrong when read again, prior data" in shown

    model.load_state_dict(weights)
    again = FAMILY.make_trainer(model, new, tmp_path / "run", learning_rate=0.0, **SETTINGS)
    resumed = mixcd.attach(again, augment(plain, DRAWS[kind], how), mix_ratio=0.25)
    assert resumed.predictions.forward_count == 0
    assert resumed.predictions.false_damage_rate == rate
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert again.state.global_step == 4


def test_the_measured_rate_is_that_of_reading_all_rows_again(model, plain, tmp_path):
    prior = PriorDataset(augment(plain, random.random, "transform"))
    found = mixcd.predict_prior(model, prior, tmp_path / "one", collate_fn=collate)
    again = [
        mixcd.predict_prior(model, prior, tmp_path / f"again {seed}", collate_fn=collate).correct for seed in range(4)
    ]
    wrong = np.mean([~one[found.correct] for one in again])
    assert found.false_damage_rate == pytest.approx(wrong, abs=0.1)


def test_a_collator_that_draws_is_measured_too(model, plain, tmp_path):
    settings = {"batch_size": 4, "collate_fn": collate_at_random, "seed": 3}
    found = mixcd.predict_prior(model, plain, tmp_path, **settings)
    assert found.false_damage_rate > 0.05
    again = mixcd.predict_prior(model, plain, tmp_path, **settings)
    assert again.forward_count == 0
    assert again.false_damage_rate == found.false_damage_rate


def test_rows_that_are_the_same_each_time_cost_nothing_and_say_nothing(model, plain, tmp_path, caplog):
    still = plain.with_transform(
        lambda rows: {**rows, "pixel_values": [np.asarray(one) for one in rows["pixel_values"]]}
    )
    for number, data in enumerate((plain, still, list(plain))):
        found = mixcd.predict_prior(model, data, tmp_path / str(number), collate_fn=collate, batch_size=120)
        assert found.false_damage_rate is None
        assert found.forward_count == 1
        assert read_manifest(tmp_path / str(number)).false_damage_rate is None
    assert not caplog.text


def test_what_is_random_but_does_not_reach_the_model_is_no_noise(plain):
    drawn = plain.with_transform(lambda rows: {**rows, "drawn": [np.random.rand() for _ in rows["labels"]]})
    assert not reads_at_random(
        PriorDataset(drawn), lambda rows: {"labels": torch.tensor([row["labels"] for row in rows])}
    )


def test_looking_for_noise_leaves_the_random_numbers_of_the_process_alone(plain):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    prior = PriorDataset(augment(plain, DRAWS["torch"], "transform"))
    assert reads_at_random(prior, collate)
    fingerprint_rows(prior)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize("kind", DRAWS)
def test_the_fingerprint_of_random_rows_tells_the_rows_under_the_transform(kind, plain):
    def prints(rows, how="transform"):
        return fingerprint_rows(PriorDataset(augment(rows, DRAWS[kind], how)))

    other = plain.select(range(119, -1, -1))
    assert prints(plain) == prints(plain) != prints(other)
    assert prints(plain, "dataset") == prints(plain, "dataset") != prints(other, "dataset")
    twice = PriorDataset({"a": augment(plain, DRAWS[kind], "transform"), "b": plain})
    assert (
        fingerprint_rows(twice) == fingerprint_rows(twice) != fingerprint_rows(PriorDataset({"a": plain, "b": plain}))
    )


def test_both_models_of_a_comparison_are_given_the_same_random_rows(model, plain):
    change = mixcd.compare(model, model, augment(plain, DRAWS["torch"], "transform"), collate_fn=collate).change
    assert change.damaged_count == change.gained_count == 0
