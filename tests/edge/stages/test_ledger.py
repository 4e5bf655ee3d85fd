import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mixcd.edge.stages.ledger import make_ledger
from mixcd.words.errors import DataError

MATRICES = st.integers(1, 6).flatmap(lambda count: arrays(np.float64, (count, count), elements=st.floats(0, 1)))
CHAIN = [[0.9, np.nan, 0.1], [0.6, 0.8, 0.2], [0.7, 0.75, 0.9]]


@given(MATRICES)
@settings(deadline=None)
def test_the_three_numbers_are_those_of_their_definitions(scores):
    ledger, count = make_ledger(scores), len(scores)
    earlier = range(count - 1)
    assert ledger.average == pytest.approx(sum(scores[-1]) / count)
    if count == 1:
        assert ledger.backward_transfer is None
        assert ledger.forgetting is None
        return
    moved = [scores[-1, task] - scores[task, task] for task in earlier]
    lost = [max(scores[stage, task] for stage in range(count)) - scores[-1, task] for task in earlier]
    assert ledger.backward_transfer == pytest.approx(sum(moved) / (count - 1))
    assert ledger.forgetting == pytest.approx(sum(lost) / (count - 1))


@given(MATRICES.filter(lambda scores: len(scores) > 1))
@settings(deadline=None)
def test_forgetting_is_never_negative_nor_less_than_what_backward_transfer_costs(scores):
    ledger = make_ledger(scores)
    assert ledger.forgetting >= 0
    assert ledger.forgetting >= -ledger.backward_transfer - 1e-12


@given(MATRICES, st.floats(-1, 1))
@settings(deadline=None)
def test_a_shift_of_all_scores_moves_only_the_average(scores, shift):
    ledger, shifted = make_ledger(scores), make_ledger(scores + shift)
    assert shifted.average == pytest.approx(ledger.average + shift)
    assert shifted.lost == pytest.approx(ledger.lost, abs=1e-12)


@given(MATRICES.filter(lambda scores: len(scores) > 1))
@settings(deadline=None)
def test_what_was_not_measured_before_its_stage_counts_for_nothing(scores):
    hidden = np.where(np.triu(np.ones_like(scores), 1) > 0, np.nan, scores)
    ledger = make_ledger(hidden)
    best = [max(scores[task:, task]) for task in range(len(scores))]
    assert ledger.lost == pytest.approx(np.array(best) - scores[-1])
    assert ledger.backward_transfer == make_ledger(scores).backward_transfer


@given(st.integers(2, 6), st.floats(0, 1))
def test_a_chain_that_keeps_everything_forgets_nothing(count, score):
    ledger = make_ledger(np.full((count, count), score))
    assert ledger.forgetting == 0
    assert ledger.backward_transfer == 0


def test_the_last_task_is_not_counted_as_forgotten():
    ledger = make_ledger(CHAIN, ("a", "b", "c"))
    assert ledger.lost == pytest.approx([0.2, 0.05, 0.0])
    assert ledger.forgetting == pytest.approx(0.125)
    assert ledger.backward_transfer == pytest.approx(-0.125)
    assert ledger.task_names == ("a", "b", "c")


def test_the_matrix_is_copied():
    scores = np.eye(2)
    ledger = make_ledger(scores)
    scores[:] = 0
    assert ledger.average == 0.5


@pytest.mark.parametrize("scores", [[0.5], [[0.5, 0.5]], np.zeros((0, 0)), np.zeros((2, 2, 2))])
def test_a_matrix_that_is_not_square_is_refused(scores):
    with pytest.raises(DataError, match="one row a stage and one column a task"):
        make_ledger(scores)


def test_a_missing_score_is_refused_by_name():
    with pytest.raises(DataError, match=r"no finite score of task 1 after stage 2 \(counted from 0\)"):
        make_ledger([[0.5, np.nan, np.nan], [0.5, 0.5, np.nan], [0.5, np.nan, 0.5]])


def test_another_number_of_names_is_refused():
    with pytest.raises(DataError, match=r"`task_names` has 1 name\(s\), but `scores` has 2 task\(s\)"):
        make_ledger(np.eye(2), ("a",))
