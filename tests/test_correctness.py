import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.correctness import is_class_correct

LOGITS = [[2.0, 1.0, -1.0], [0.0, 3.0, 0.5], [-5.0, -4.0, -3.0]]


@pytest.mark.parametrize(("labels", "correct"), [([0, 1, 2], [True] * 3), ([0, 0, 1], [True, False, False])])
def test_a_sample_is_right_when_its_label_has_the_largest_logit(labels, correct):
    right = is_class_correct(np.array(LOGITS), np.array(labels))
    assert isinstance(right, np.ndarray)
    assert right.dtype == np.bool_
    assert right.tolist() == correct


def test_the_first_of_equal_logits_is_the_prediction():
    assert is_class_correct(np.zeros((2, 3)), np.array([0, 1])).tolist() == [True, False]


def test_torch_tensors_give_a_torch_tensor():
    torch = pytest.importorskip("torch")
    right = is_class_correct(torch.tensor(LOGITS), torch.tensor([0, 0, 2]))
    assert isinstance(right, torch.Tensor)
    assert right.dtype == torch.bool
    assert right.tolist() == [True, False, True]


@given(st.integers(1, 20), st.integers(2, 6), st.integers(0, 999), st.sampled_from(["float32", "float64", "float16"]))
@settings(deadline=None, max_examples=60)
def test_numpy_and_torch_agree(sample_count, class_count, seed, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(sample_count, class_count)).astype(dtype)
    labels = rng.integers(class_count, size=sample_count)
    expected = [
        max(range(class_count), key=row.__getitem__) == label for row, label in zip(logits, labels, strict=True)
    ]
    assert is_class_correct(logits, labels).tolist() == expected
    assert is_class_correct(torch.from_numpy(logits), torch.from_numpy(labels)).tolist() == expected
