import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.matter.correctness.near_target import is_near
from mixcd.matter.correctness.right_class import is_class_correct
from mixcd.matter.correctness.right_labels import is_label_set_correct
from mixcd.matter.correctness.right_span import is_span_correct
from mixcd.matter.correctness.token_rule import share_of_tokens_right

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


def test_one_wrong_decision_of_several_makes_a_sample_wrong():
    labels = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert is_label_set_correct(np.array(LOGITS), labels).tolist() == [True, False, True]


def test_a_span_is_right_when_both_its_ends_are():
    start, end = np.eye(4)[[1, 1, 2]], np.eye(4)[[3, 2, 3]]
    assert is_span_correct(start, end, np.array([1, 1, 1]), np.array([3, 3, 3])).tolist() == [True, False, False]


def test_only_target_tokens_count_and_a_sample_without_one_has_none_right():
    target = np.array([[False, True, True, True], [True, False, False, False], [False] * 4])
    right = np.array([[True, True, True, False], [True, False, False, False], [True] * 4])
    np.testing.assert_allclose(share_of_tokens_right(right, target), [2 / 3, 1.0, 0.0])


def test_every_number_must_be_within_the_tolerance():
    targets = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert is_near(np.array([[1.5, 1.5], [1.0, 2.6]]), targets, 0.5).tolist() == [True, False]


@given(st.integers(1, 20), st.integers(2, 6), st.integers(0, 999), st.sampled_from(["float32", "float64", "float16"]))
@settings(deadline=None, max_examples=60)
def test_numpy_and_torch_agree(sample_count, class_count, seed, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    logits, others = (rng.normal(size=(sample_count, class_count)).astype(dtype) for _ in range(2))
    labels, ends = (rng.integers(class_count, size=sample_count) for _ in range(2))
    expected = [
        max(range(class_count), key=row.__getitem__) == label for row, label in zip(logits, labels, strict=True)
    ]
    assert is_class_correct(logits, labels).tolist() == expected
    chosen = (rng.random((sample_count, class_count)) < 0.5).astype(dtype)
    right, target = (rng.random((sample_count, class_count)) < 0.7 for _ in range(2))
    for function, arguments in (
        (is_class_correct, (logits, labels)),
        (is_label_set_correct, (logits, chosen)),
        (is_span_correct, (logits, others, labels, ends)),
        (lambda a, b: is_near(a, b, 0.5), (logits, others)),
    ):
        assert function(*arguments).tolist() == function(*map(torch.from_numpy, arguments)).tolist()
    shares = share_of_tokens_right(torch.from_numpy(right), torch.from_numpy(target))
    np.testing.assert_allclose(shares.numpy(), share_of_tokens_right(right, target), rtol=1e-6)
