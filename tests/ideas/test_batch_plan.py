import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixcd.ideas.batch_plan import BatchPlan, count_new_rows, require_mix_ratio
from mixcd.words.errors import SettingError

PRIOR_COUNT = 50
FEW = settings(deadline=None, max_examples=80)


@st.composite
def plans(draw):
    micro_batch_size, micro_batch_count = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    block_size = micro_batch_size * micro_batch_count
    assume(block_size >= 3)
    mix_ratio = draw(st.floats(1.01 / block_size, 1 - 1.01 / block_size))
    return BatchPlan(
        draw(st.integers(1, 60)), PRIOR_COUNT, mix_ratio, micro_batch_size, micro_batch_count, draw(st.integers(0, 9))
    )


def make(**changes):
    values = {"new_count": 20, "prior_count": PRIOR_COUNT, "mix_ratio": 0.25, "micro_batch_size": 4}
    return BatchPlan(**{**values, "micro_batch_count": 2, "seed": 0, **changes})


def block(plan, step):
    """Return a step's block, planned with prior samples that tell the steps apart."""
    return plan.block(step, (7 * step + np.arange(plan.prior_row_count(step))) % PRIOR_COUNT)


def new_rows(plan, step_count, first=0):
    rows = np.concatenate([block(plan, step) for step in range(first, first + step_count)])
    return rows[rows < plan.new_count]


@given(plans(), st.integers(0, 10_000))
@FEW
def test_every_block_has_block_size_rows_and_exactly_the_prior_samples_it_was_given(plan, step):
    prior_ids = (7 * step + np.arange(plan.prior_row_count(step))) % PRIOR_COUNT
    rows = plan.block(step, prior_ids)
    assert rows.size == plan.block_size == plan.micro_batch_size * plan.micro_batch_count
    assert sorted(rows[rows >= plan.new_count] - plan.new_count) == sorted(prior_ids)
    assert rows.min() >= 0


@given(plans(), st.integers(0, 10_000))
@FEW
def test_a_steps_prior_rows_are_the_mix_ratio_of_the_block_to_within_one_row(plan, step):
    assert abs(plan.prior_row_count(step) - plan.mix_ratio * plan.block_size) < 1 + 1e-6
    assert 1 <= plan.prior_row_count(step) <= plan.block_size - 1


@given(plans(), st.integers(1, 300))
@FEW
def test_the_long_run_prior_share_is_the_mix_ratio_to_within_one_row(plan, step_count):
    prior_rows = sum(plan.prior_row_count(step) for step in range(step_count))
    assert abs(prior_rows - step_count * plan.mix_ratio * plan.block_size) <= 0.5 + 1e-6


def test_fractions_of_a_row_are_dithered_over_the_steps():
    plan = make(mix_ratio=0.3)  # 2.4 of 8 rows
    assert [plan.prior_row_count(step) for step in range(5)] == [2, 3, 2, 3, 2]


@given(plans(), st.integers(0, 10_000))
@FEW
def test_prior_rows_are_spread_over_the_micro_batches_to_within_one_row(plan, step):
    parts = block(plan, step).reshape(plan.micro_batch_count, plan.micro_batch_size)
    prior_rows = (parts >= plan.new_count).sum(axis=1)
    assert prior_rows.max() - prior_rows.min() <= 1


@given(plans(), st.integers(1, 40))
@FEW
def test_every_permutation_holds_each_new_sample_once_without_gaps_between_steps(plan, step_count):
    rows = new_rows(plan, step_count)
    whole_count = rows.size // plan.new_count
    epochs = rows[: whole_count * plan.new_count].reshape(whole_count, plan.new_count)
    assert (np.sort(epochs, axis=1) == np.arange(plan.new_count)).all()
    surplus = rows[whole_count * plan.new_count :]
    assert np.unique(surplus).size == surplus.size


def test_new_samples_come_in_another_order_every_epoch_and_for_every_seed():
    plans_by_seed = [make(seed=seed, new_count=30) for seed in range(4)]  # five steps of six new rows an epoch
    orders = {tuple(new_rows(plan, 5, first=5 * epoch).tolist()) for plan in plans_by_seed for epoch in range(4)}
    assert len(orders) == 4 * 4
    assert tuple(range(30)) not in orders


@given(plans())
@FEW
def test_an_epochs_steps_show_every_new_sample(plan):
    shown = new_rows(plan, plan.steps_per_epoch)
    assert np.unique(shown).size == plan.new_count


@given(plans(), st.integers(0, 500))
@FEW
def test_a_block_is_the_same_whichever_steps_were_planned_before(plan, step):
    alone = block(plan, step)
    for other in range(step + 3, step - 3, -1):
        block(plan, max(0, other))
    assert block(BatchPlan(**vars(plan)), step).tolist() == block(plan, step).tolist() == alone.tolist()


@given(st.integers(1, 5000), st.integers(2, 64), st.integers(1, 39), st.integers(2, 40))
@FEW
def test_an_epoch_is_the_new_samples_over_the_new_rows_of_a_step_rounded_up(new_count, block_size, part, whole):
    assume(part < whole)
    share = Fraction(part, whole)
    assume(share * block_size > 1 and (1 - share) * block_size > 1)
    plan = make(new_count=new_count, mix_ratio=float(share), micro_batch_size=block_size, micro_batch_count=1)
    assert plan.steps_per_epoch == math.ceil(new_count / ((1 - share) * block_size))


@given(plans(), st.integers(0, 500))
@FEW
def test_other_micro_batch_counts_keep_the_same_rows_in_a_step(plan, step):
    expected = sorted(block(plan, step))
    for count in range(1, plan.block_size + 1):
        if plan.block_size % count == 0:
            changed = {"micro_batch_size": plan.block_size // count, "micro_batch_count": count}
            assert sorted(block(BatchPlan(**{**vars(plan), **changed}), step)) == expected


def test_new_rows_keep_their_order_whatever_the_micro_batch_count():
    one, four = make(micro_batch_size=8, micro_batch_count=1), make(micro_batch_size=2, micro_batch_count=4)
    assert new_rows(one, 9).tolist() == new_rows(four, 9).tolist()


def test_a_new_set_smaller_than_a_step_is_repeated_whole():
    rows = new_rows(make(new_count=2), 1)
    assert [sorted(pair) for pair in rows.reshape(3, 2).tolist()] == [[0, 1]] * 3


def test_a_planned_block_can_be_changed_without_changing_later_blocks():
    plan = make()
    expected = [block(plan, step).tolist() for step in range(6)]
    for step in range(6):
        block(plan, step)[:] = -1
    assert [block(plan, step).tolist() for step in range(6)] == expected


def test_canary_numpys_philox_permutation_stream_is_the_one_that_checkpoints_rely_on():
    plan = BatchPlan(7, 5, mix_ratio=0.25, micro_batch_size=4, micro_batch_count=2, seed=3)
    assert [plan.block(step, np.array([0, 1])).tolist() for step in (0, 1, 5)] == [
        [7, 2, 3, 4, 8, 1, 0, 6],
        [7, 5, 3, 4, 8, 5, 0, 6],
        [7, 0, 6, 4, 8, 1, 2, 5],
    ]


def test_the_first_micro_batches_get_the_prior_samples_in_turn():
    plan = make(mix_ratio=0.625)  # five of eight rows
    rows = plan.block(0, np.array([10, 11, 12, 13, 14])).reshape(2, 4)
    assert [row[row >= 20].tolist() for row in rows] == [[30, 32, 34], [31, 33]]
    assert (rows[:, :2] >= 20).all()


@pytest.mark.parametrize("mix_ratio", [0.0, 1.0, 1.5, -0.25, float("nan"), float("inf")])
@pytest.mark.parametrize("refuse", [require_mix_ratio, lambda mix_ratio: make(mix_ratio=mix_ratio)])
def test_a_mix_ratio_outside_zero_to_one_is_refused(mix_ratio, refuse):
    with pytest.raises(SettingError) as failure:
        refuse(mix_ratio)
    assert str(failure.value) == (
        f"`mix_ratio` is {mix_ratio}, but it must lie strictly between 0 and 1: it is the share of prior samples in "
        "every batch. Pass a value such as 0.25."
    )
    assert isinstance(failure.value, ValueError)


def test_a_mix_ratio_inside_zero_to_one_is_accepted():
    assert require_mix_ratio(1e-9) is None
    assert require_mix_ratio(1 - 1e-9) is None


@pytest.mark.parametrize(
    ("mix_ratio", "text"),
    [
        (
            0.1,
            "leaves 0.8 prior rows a step, but every step needs at least 1. Use a larger mix ratio or a larger batch.",
        ),
        (
            0.9,
            "leaves 0.8 new rows a step, but every step needs at least 1. Use a smaller mix ratio or a larger batch.",
        ),
    ],
)
def test_a_step_with_less_than_one_prior_or_new_row_is_refused(mix_ratio, text):
    with pytest.raises(SettingError) as failure:
        make(mix_ratio=mix_ratio)
    assert str(failure.value) == f"`mix_ratio` {mix_ratio} of a block of 8 rows {text}"


@pytest.mark.parametrize("kind", ["prior", "new"])
def test_a_step_with_exactly_one_prior_or_new_row_is_accepted(kind):
    refused = []
    for rows in range(2, 257):
        mix_ratio = 1 / rows if kind == "prior" else 1 - 1 / rows
        try:
            plan = make(mix_ratio=mix_ratio, micro_batch_size=rows, micro_batch_count=1)
        except SettingError:
            refused.append(rows)
        else:
            assert plan.prior_row_count(0) == (1 if kind == "prior" else rows - 1)
    assert refused == []


def test_a_seed_out_of_range_is_refused():
    with pytest.raises(SettingError) as failure:
        make(seed=-1)
    assert str(failure.value) == "`seed` is -1, but it must lie between 0 and 2**64 - 1. Pass one of these."
    with pytest.raises(SettingError, match="`seed` is 18446744073709551616, but"):
        make(seed=2**64)
    assert (
        make(seed=2**63).block(0, np.array([0] * make().prior_row_count(0))).tolist()
        != make(seed=2**63 + 1).block(0, np.array([0] * make().prior_row_count(0))).tolist()
    )


def test_prior_and_new_rows_swap_their_counts_when_the_mix_ratio_is_mirrored():
    counts = [(make(mix_ratio=a).prior_row_count(0), make(mix_ratio=1 - a).prior_row_count(0)) for a in (0.25, 0.125)]
    assert counts == [(2, 6), (1, 7)]


def test_consecutive_blocks_of_one_epoch_share_no_new_sample():
    plan = make(new_count=60)  # ten steps of six new rows
    blocks = [set(new_rows(plan, 1, first=step).tolist()) for step in range(10)]
    assert all(not a & b for a, b in pairwise(blocks))
    assert set().union(*blocks) == set(range(60))


@given(plans(), st.integers(1, 300))
@FEW
def test_a_streams_rows_come_in_order_and_its_one_epoch_is_the_whole_run(plan, step_count):
    count = count_new_rows(step_count, plan.mix_ratio, plan.block_size)
    plan = replace(plan, new_count=count, in_order=True)
    assert plan.steps_per_epoch == step_count
    assert new_rows(plan, step_count).tolist() == list(range(count))
    assert [plan.new_rows_before(step) for step in (0, step_count)] == [0, count]
