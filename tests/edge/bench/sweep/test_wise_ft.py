import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.edge.bench.sweep.wise_ft import average_weights
from tiny import assert_same_weights, make_model


def states():
    return make_model(seed=1).state_dict(), make_model(seed=2).state_dict()


def test_the_ends_are_the_two_models_to_the_bit():
    base, tuned = states()
    assert_same_weights(average_weights(base, tuned, 0.0), base)
    assert_same_weights(average_weights(base, tuned, 1.0), tuned)


@given(st.floats(0, 1))
@settings(deadline=None, max_examples=20)
def test_every_weight_lies_on_the_line_between(share):
    base, tuned = states()
    for name, weight in average_weights(base, tuned, share).items():
        torch.testing.assert_close(weight, (1 - share) * base[name] + share * tuned[name])


def test_averages_are_new_tensors_and_the_models_stay():
    base, tuned = states()
    kept = {name: weight.clone() for name, weight in tuned.items()}
    for share in (0.5, 1.0):
        for weight in average_weights(base, tuned, share).values():
            weight.zero_() if weight.dtype.is_floating_point else None
        assert_same_weights(tuned, kept)


def test_tensors_that_are_no_floats_are_the_fine_tuned_models():
    base = {"count": torch.tensor(3), "is_on": torch.tensor([True]), "w": torch.tensor([0.0])}
    tuned = {"count": torch.tensor(7), "is_on": torch.tensor([False]), "w": torch.tensor([1.0])}
    averaged = average_weights(base, tuned, 0.25)
    assert averaged["count"].item() == 7
    assert averaged["is_on"].tolist() == [False]
    assert averaged["w"].tolist() == [0.25]


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_the_kind_of_number_is_the_fine_tuned_models(kind):
    averaged = average_weights({"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0], dtype=kind)}, 0.5)
    assert averaged["w"].dtype == kind
    assert averaged["w"].item() == 0.5


def test_an_average_can_be_loaded():
    base, tuned = states()
    make_model().load_state_dict(average_weights(base, tuned, 0.5))
