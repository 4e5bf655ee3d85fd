import numpy as np
import pytest
import torch

from mixcd.correctness_rule import RightClass
from mixcd.errors import DataError, PlanError, UnsupportedTrainerError
from mixcd.prediction_observer import NEW_SAMPLE, PredictionObserver, read_rehearsed, read_rows
from tiny import make_model


def make_batch(labels):
    ids = torch.arange(3, 3 + 2 * len(labels)).reshape(-1, 2)
    return {"input_ids": ids, "labels": torch.tensor(labels)}


def test_an_observation_is_what_the_forward_pass_showed():
    model, observer, batch = make_model(dropout=0.0), PredictionObserver(RightClass()), make_batch([0, 1, 2])
    with observer.watch(model, torch.tensor([7, NEW_SAMPLE, 2**40]), batch):
        output = model(**batch)
    seen = read_rehearsed(observer.take())
    losses = torch.nn.functional.cross_entropy(output.logits, batch["labels"], reduction="none").detach().numpy()
    assert seen.sample_ids.tolist() == [7, 2**40]
    assert seen.correct.tolist() == (output.logits.argmax(-1) == batch["labels"])[[0, 2]].tolist()
    np.testing.assert_array_equal(seen.loss, losses[[0, 2]].astype(np.float64))


def test_forwards_without_gradients_and_later_ones_are_not_read():
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch([0])
    with observer.watch(model, torch.tensor([1]), batch):
        with torch.no_grad():
            model(**batch)
        model(**batch)
        model(**batch)
    assert len(observer.take()) == 1
    assert observer.forward_count == 2


def test_nothing_is_seen_outside_the_block_or_after_an_error():
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch([0])
    with pytest.raises(KeyError), observer.watch(model, torch.tensor([1]), batch):
        raise KeyError
    model(**batch)
    with pytest.raises(PlanError, match="No forward pass was observed in this step"):
        observer.take()


def test_micro_batches_add_up_and_are_taken_once():
    model, observer = make_model(), PredictionObserver(RightClass())
    for number in range(2):
        batch = make_batch([0, 1])
        with observer.watch(model, torch.tensor([number, NEW_SAMPLE]), batch):
            model(**batch)
    rows = observer.take()
    assert read_rehearsed(rows).sample_ids.tolist() == [0, 1]
    assert read_rows(rows).sample_ids.tolist() == [0, NEW_SAMPLE, 1, NEW_SAMPLE]
    with pytest.raises(PlanError):
        observer.take()


def test_what_cannot_be_observed_is_refused():
    model, observer = make_model(), PredictionObserver(RightClass())
    with (
        pytest.raises(DataError, match=r"`trainer.train_dataset` has no labels"),
        observer.watch(model, torch.tensor([1]), {"input_ids": torch.ones(1, 1)}),
    ):
        pass
    with (
        pytest.raises(UnsupportedTrainerError, match="returned a tuple without `logits`"),
        observer.watch(model, torch.tensor([1]), make_batch([0])),
    ):
        model(**make_batch([0]), return_dict=False)
