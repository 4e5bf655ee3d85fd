import numpy as np
import pytest

import mixcd
from mixcd.ideas.collateral_damage_estimator import (
    ESTIMATORS,
    CountEstimator,
    Drift,
    DriftEstimator,
    FactoredEstimator,
    Uniform,
)
from mixcd.ideas.partition_strategy import ByColumn, ByFeatures, ByPriorLoss
from mixcd.ideas.sampling_scheduler import FLOOR
from mixcd.matter.base_model.prior_predictions import PriorPredictions
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.rehearsal_loop.estimator_choice import (
    FEATURES,
    choose_feature_count,
    choose_floor,
    estimator_names,
    make_estimator,
    require_estimator,
)
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Partition
from tiny import collate, make_trainer

COUNT = 60
PRIOR = PriorDataset([{"label": number % 3, "topic": f"t{number % 2}"} for number in range(COUNT)])
PARTITION = ByPriorLoss(5) * ByColumn("topic")


def make_predictions(cached=COUNT, arrays=True):
    rng = np.random.default_rng(0)
    return PriorPredictions(
        sample_count=COUNT,
        sample_ids=np.sort(rng.choice(COUNT, cached, replace=False)),
        loss=rng.exponential(size=cached),
        correct=rng.random(cached) < 0.8,
        prediction=rng.integers(0, 3, cached),
        share_right=None,
        token_count=np.ones(cached, int),
        columns={},
        sources={},
        forward_count=0,
        arrays={
            "logits": rng.normal(size=(cached, 3)).astype(np.float16),
            "features": rng.normal(size=(cached, 4)).astype(np.float16),
        }
        if arrays
        else {},
    )


@pytest.mark.parametrize(
    ("name", "kind", "smoothing"),
    [
        ("counts", CountEstimator, "beta"),
        ("shrunk", CountEstimator, "shrunk"),
        ("paper", CountEstimator, "raw"),
        ("uniform", CountEstimator, "beta"),
        ("factored", FactoredEstimator, None),
        ("drift", DriftEstimator, None),
    ],
)
def test_every_name_makes_its_estimator(name, kind, smoothing):
    require_estimator(name)
    estimator, bins = make_estimator(ESTIMATORS[name](), PARTITION, PRIOR, make_predictions())
    assert type(estimator) is kind
    assert getattr(estimator, "smoothing", None) == smoothing
    assert bins.bin_count == (1 if name == "uniform" else 10)


def test_all_names_are_tested_here():
    assert set(estimator_names()) == {"auto", "counts", "shrunk", "paper", "uniform", "factored", "drift"}


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("cached", [COUNT, 40])
def test_every_estimator_weighs_every_sample_even_without_a_prediction(name, cached):
    estimator, bins = make_estimator(ESTIMATORS[name](), PARTITION, PRIOR, make_predictions(cached))
    weights = estimator.damage_probability(estimator.belief(estimator.init()), np.arange(COUNT))
    assert weights.shape == (COUNT,)
    assert (weights >= 0).all()
    assert (bins.bin_ids >= 0).sum() == cached


def test_a_factored_estimator_has_a_table_for_each_part_of_the_partition():
    estimator, _ = make_estimator(ESTIMATORS["factored"](), PARTITION, PRIOR, make_predictions())
    assert [part.bin_count for part in estimator.partitions] == [5, 2]
    alone, _ = make_estimator(ESTIMATORS["factored"](), ByPriorLoss(5), PRIOR, make_predictions())
    assert [part.bin_count for part in alone.partitions] == [5]


def test_a_function_is_given_the_bins_and_the_predictions():
    predictions, given = make_predictions(), []

    def make(bins, what):
        given.append((bins, what))
        return CountEstimator(bins, what.base_correct, discount=0.5)

    require_estimator(make)
    estimator, bins = make_estimator(make, PARTITION, PRIOR, predictions)
    assert estimator.discount == 0.5
    assert given == [(bins, predictions)]


OTHERWISE = (
    "Pass a name; settings such as `mixcd.Counts(discount=0.98)`; or a function from (partition, predictions) to an "
    "estimator, such as `lambda partition, predictions: mixcd.CountEstimator(partition, predictions.base_correct)`."
)


@pytest.mark.parametrize(
    ("estimator", "fault"),
    [
        ("count", 'is "count", which is unknown, did you mean `counts`?'),
        (
            "best",
            'is "best", which is unknown (known: `auto`, `counts`, `shrunk`, `factored`, `drift`, `paper`, `uniform`).',
        ),
        ({}, "is a `dict`."),
        (CountEstimator, "is the class `CountEstimator`, not yet made."),
        (Drift, "is the class `Drift`, not yet made."),
        (
            CountEstimator(Partition(np.zeros(COUNT, int), ("all",)), np.ones(COUNT, bool)),
            "is a `CountEstimator`, made before the bins and the base model's predictions are known.",
        ),
        (lambda partition: None, "is the function `<lambda>`, which takes other arguments."),
    ],
    ids=["near name", "unknown name", "dict", "class", "class of settings", "made estimator", "function of one"],
)
def test_what_is_neither_a_name_nor_a_function_of_bins_and_predictions_is_refused(estimator, fault):
    with pytest.raises(SettingError) as failure:
        require_estimator(estimator)
    assert str(failure.value) == f"`estimator` {fault} {OTHERWISE}"


@pytest.mark.parametrize(
    ("returned", "fault"),
    [
        (None, "a `NoneType`"),
        (CountEstimator, "the class `CountEstimator`"),
    ],
)
def test_a_function_that_makes_no_estimator_is_refused(returned, fault):
    with pytest.raises(SettingError) as failure:
        make_estimator(lambda partition, predictions: returned, PARTITION, PRIOR, make_predictions())
    assert str(failure.value) == (
        f"The function that `estimator` is returned {fault}, which is not a `mixcd.CollateralDamageEstimator`. Return "
        "an estimator; derive a class of your own from that one, which has the defaults."
    )


def test_an_estimators_class_is_refused_before_anything_is_predicted(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    with pytest.raises(SettingError, match="is the class `CountEstimator`"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25, estimator=mixcd.CountEstimator)
    with pytest.raises(SettingError, match="is the class `CountEstimator`"):
        mixcd.rehearse(
            base_model,
            new_data,
            prior_data,
            tmp_path / "cache",
            mix_ratio=0.25,
            batch_size=8,
            collate_fn=collate,
            estimator=mixcd.CountEstimator,
        )
    assert not any(tmp_path.rglob("manifest.json"))


def test_drift_without_cached_features_is_refused():
    with pytest.raises(SettingError) as failure:
        make_estimator(Drift(), PARTITION, PRIOR, make_predictions(arrays=False))
    assert str(failure.value) == (
        "The drift estimator needs logits and features of the base model, but none were cached. Pass "
        '`features=64` to `attach`, or `estimator="drift"`, which asks for them.'
    )


def test_drift_takes_its_settings():
    settings = Drift(discount=0.9, ridge=1.0, noise=0.0, score="product")
    estimator, _ = make_estimator(settings, PARTITION, PRIOR, make_predictions())
    assert (estimator.discount, estimator.ridge, estimator.noise, estimator.score) == (0.9, 1.0, 0.0, "product")


@pytest.mark.parametrize(
    ("estimator", "strategy", "count"),
    [
        (Drift(), ByPriorLoss(), FEATURES),
        (mixcd.Counts(), ByFeatures(4), FEATURES),
        (mixcd.Counts(), ByPriorLoss() * ByFeatures(4), FEATURES),
        (mixcd.Counts(), ByPriorLoss(), 0),
        (lambda bins, predictions: None, ByPriorLoss(), 0),
    ],
)
def test_features_are_cached_when_something_reads_them(estimator, strategy, count):
    assert choose_feature_count(estimator, strategy) == count
    assert choose_feature_count(estimator, strategy, 7) == 7
    assert choose_feature_count(estimator, strategy, 0) == 0


def test_fewer_than_no_features_are_refused():
    with pytest.raises(SettingError) as failure:
        choose_feature_count(Drift(), ByPriorLoss(), -1)
    assert str(failure.value) == (
        "`features` is -1, but it is a number of features a sample. Pass 64, say, or 0 for none."
    )


def test_settings_may_be_given_in_the_place_of_a_name():
    for settings in (Drift(noise=0.0), Uniform(), mixcd.Counts(discount=0.5)):
        require_estimator(settings)
    assert choose_floor(mixcd.Paper(), None) == 0.0
    assert choose_floor(mixcd.Counts(), None) == FLOOR


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: mixcd.Counts(discount=1.5), "`discount` is 1.5"),
        (lambda: mixcd.Counts(smoothing="none"), "`smoothing` is 'none'"),
        (lambda: mixcd.Factored(discount=-1), "`discount` is -1"),
        (lambda: mixcd.Drift(ridge=0), "`ridge` is 0"),
    ],
    ids=["discount", "smoothing", "factors", "ridge"],
)
def test_settings_that_make_no_sense_are_refused_at_once(make, part):
    with pytest.raises(SettingError, match=part):
        make()


def test_the_floor_is_the_estimators_own_unless_said():
    assert choose_floor("paper", None) == 0.0
    assert choose_floor("counts", None) == choose_floor(lambda bins, predictions: None, None) == FLOOR
    assert [choose_floor("paper", floor) for floor in (0, 0.3, 1)] == [0, 0.3, 1]


@pytest.mark.parametrize("floor", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_floor_that_is_no_share_is_refused(floor):
    with pytest.raises(SettingError) as failure:
        choose_floor("counts", floor)
    assert str(failure.value) == (
        f"`floor` is {floor}, but it is a share of the draws, between 0 and 1. Pass 0.05, say: the share of "
        "rehearsed samples that is drawn uniformly."
    )
