import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.packing import Mixture, Packing, measure_pace

FEW = settings(deadline=None, max_examples=150)


@st.composite
def packings(draw):
    capacity = draw(st.none() | st.integers(1, 60))
    lengths = st.integers(1, capacity or 60)
    return Packing(
        draw(st.floats(0.01, 0.99)),
        draw(st.integers(1, 12)),
        np.array(draw(st.lists(st.integers(1, 60), min_size=1, max_size=30))),
        np.array(draw(st.lists(lengths, min_size=1, max_size=30))),
        capacity,
    )


def fill_steps(packing, step_count, seed, prior_row_count=None):
    rng, mixture, filled = np.random.default_rng(seed), Mixture(), []
    for _ in range(step_count):
        new_rows = (
            np.arange(mixture.new_row_count, mixture.new_row_count + packing.block_size) % packing.new_tokens.size
        )
        arriving = rng.permutation(packing.prior_tokens.size)
        filled.append((new_rows, arriving, packing.fill(mixture, new_rows, arriving, prior_row_count)))
        mixture = filled[-1][2].mixture
    return filled


@given(packings(), st.integers(0, 99))
@FEW
def test_the_share_of_the_tokens_is_the_mix_ratio_to_within_one_row_after_every_step(packing, seed):
    largest = max(packing.new_tokens.max(), packing.capacity or packing.prior_tokens.max())
    for _, _, filled in fill_steps(packing, 40, seed):
        assert abs(filled.mixture.error(packing.mix_ratio)) <= largest + 1e-6


@given(packings(), st.integers(0, 99), st.none() | st.just(1))
@FEW
def test_a_step_holds_the_first_to_arrive_whole_and_no_pack_overflows(packing, seed, prior_row_count):
    before = Mixture()
    for new_rows, arriving, filled in fill_steps(packing, 8, seed, prior_row_count):
        assert len(filled.packs) + filled.new_row_count == packing.block_size
        assert all(filled.packs)
        sizes = [packing.prior_tokens[list(pack)].sum() for pack in filled.packs]
        assert max(sizes, default=0) <= (packing.capacity or packing.prior_tokens.max())
        drawn = [sample_id for pack in filled.packs for sample_id in pack]
        assert sorted(drawn) == sorted(np.resize(arriving, filled.drawn_count).tolist())
        prior, new = sum(sizes), packing.new_tokens[new_rows[: filled.new_row_count]].sum()
        assert filled.mixture == Mixture(
            before.new_row_count + filled.new_row_count, before.prior_tokens + prior, before.all_tokens + prior + new
        )
        before = filled.mixture


@given(packings(), st.integers(0, 99))
@FEW
def test_prior_samples_without_a_capacity_have_a_row_each(packing, seed):
    alone = Packing(packing.mix_ratio, packing.block_size, packing.new_tokens, packing.prior_tokens, None)
    for _, _, filled in fill_steps(alone, 5, seed):
        assert all(len(pack) == 1 for pack in filled.packs)


def test_a_sample_goes_into_the_fullest_row_with_room_and_one_that_fits_nowhere_opens_the_next():
    packing = Packing(0.5, 3, np.array([1]), np.array([6, 7, 3, 4, 9]), capacity=10)
    filled = packing.fill(Mixture(), np.zeros(3, dtype=int), np.arange(5), prior_row_count=2)
    assert filled.packs == [(0, 3), (1, 2)]
    assert filled.drawn_count == 4


def test_log_normal_samples_fill_most_of_their_rows():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5, 1, 5000), 8, 2048).astype(int)
    packing = Packing(0.25, 32, np.full(100, 2048), lengths, capacity=2048)
    filled = [one for _, _, one in fill_steps(packing, 50, 0)]
    packs = sum(len(one.packs) for one in filled)
    assert filled[-1].mixture.prior_tokens / (2048 * packs) > 0.85
    drawn = np.concatenate([lengths[list(pack)] for one in filled for pack in one.packs])
    assert drawn.mean() == pytest.approx(lengths.mean(), rel=0.1)


@pytest.mark.parametrize(("capacity", "steps"), [(None, 300), (10, 150)])
def test_the_pace_is_that_of_uniform_draws(capacity, steps):
    """A new row of 10 tokens needs 10 of prior samples: two rows of 5, or one row of both."""
    packing = Packing(0.5, 4, np.full(300, 10), np.full(50, 5), capacity)
    pace = measure_pace(packing, seed=3)
    assert pace.steps_per_epoch == pytest.approx(steps * 0.75 if capacity is None else steps, abs=2)
    assert pace.draws_a_step in (3, 4)
    assert pace == measure_pace(packing, seed=3)
