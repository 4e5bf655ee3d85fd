import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from mixcd.matter.base_model.prior_predictions import predict_prior
from mixcd.matter.base_model.token_bits import compare_tokens, join_bits, pack_samples, pack_tokens, split_tokens
from mixcd.words.errors import CacheError, DataError
from tiny_tasks import SMALL, collate

SAMPLE = st.lists(st.booleans(), max_size=20)
SAMPLES = st.lists(SAMPLE, min_size=1, max_size=12)
PAIRS = st.lists(
    st.integers(0, 12).flatmap(
        lambda count: st.tuples(*(st.lists(st.booleans(), min_size=count, max_size=count) for _ in range(2)))
    ),
    min_size=1,
    max_size=12,
)


def as_flags(samples):
    return [np.array(sample, dtype=bool) for sample in samples]


@given(parts=st.lists(SAMPLES, min_size=1, max_size=5))
def test_bits_come_back_as_they_were_over_any_parts(parts):
    bits = join_bits([(pack_tokens(as_flags(part)), np.array([len(one) for one in part])) for part in parts])
    samples = [sample for part in parts for sample in part]
    assert [bits[place].tolist() for place in range(len(bits))] == samples
    assert bits.right_count.tolist() == [sum(sample) for sample in samples]


def test_right_tokens_of_many_samples_are_counted_block_by_block():
    rng = np.random.default_rng(0)
    samples = [rng.random(rng.integers(0, 9)) < 0.5 for _ in range(10_000)]
    assert pack_samples(samples).right_count.tolist() == [int(sample.sum()) for sample in samples]


def test_a_token_takes_one_bit():
    counts = np.full(1000, 100)
    assert len(pack_tokens([np.ones(count, dtype=bool) for count in counts])) * 8 == counts.sum()


@given(pairs=PAIRS, missing=st.sets(st.integers(0, 11)))
def test_tokens_are_compared_as_in_plain_python(pairs, missing):
    before, now = (list(side) for side in zip(*pairs, strict=True))
    places = np.array([-1 if place in missing else place for place in range(len(pairs))])
    change = compare_tokens(pack_samples(as_flags(before)), places, as_flags(now), places)
    for place, (was, then) in enumerate(pairs):
        flips = [] if place in missing else list(zip(was, then, strict=True))
        counts = [values[place] for values in vars(change).values()]
        lost, gained = flips.count((True, False)), flips.count((False, True))
        assert counts == [len(then), sum(one for one, _ in flips), lost, gained]
        assert change.damage[place] == (lost / sum(was) if flips and any(was) else 0)
    assert ((change.damage >= 0) & (change.damage <= 1)).all()
    known = [pair for place, pair in enumerate(pairs) if place not in missing]
    net = sum(map(sum, (then for _, then in known))) - sum(map(sum, (was for was, _ in known)))
    assert change.gained_count.sum() - change.lost_count.sum() == net


def test_only_target_tokens_are_counted_where_nothing_was_predicted():
    change = compare_tokens(None, np.array([-1]), as_flags([[True, False, True]]), np.array([7]))
    assert [counts.tolist() for counts in vars(change).values()] == [[3], [0], [0], [0]]


def test_a_sample_of_another_number_of_target_tokens_is_refused_by_name():
    with pytest.raises(DataError, match="Sample 7 has 1 target tokens now, but had 2 when the base model predicted it"):
        compare_tokens(pack_samples(as_flags([[True, True]])), np.array([0]), as_flags([[True]]), np.array([7]))


@given(samples=SAMPLES, width=st.integers(20, 30), seed=st.integers(0, 99))
def test_target_tokens_are_found_wherever_they_stand(samples, width, seed):
    rng = np.random.default_rng(seed)
    tokens = np.full((len(samples), width), -1, dtype=np.int8)
    for row, sample in enumerate(samples):
        tokens[row, np.sort(rng.choice(width, len(sample), replace=False))] = sample
    assert [found.tolist() for found in split_tokens(tokens)] == samples


@pytest.mark.parametrize("is_emptied", [True, False])
def test_a_missing_file_of_bits_is_named(is_emptied, tmp_path):
    rows = [{"input_ids": [1, 2, 3], "attention_mask": [1] * 3, "labels": [1, 2, 3]}]
    model = LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2))
    predict_prior(model, rows, tmp_path / "cache", collate_fn=collate, progress=False)
    bits = tmp_path / "cache" / "part-000000.bits"
    bits.write_bytes(b"") if is_emptied else bits.unlink()
    with pytest.raises(CacheError, match=r"The cache file `.*part-000000.bits` is missing or empty. A cache must be"):
        predict_prior(model, rows, tmp_path / "cache", collate_fn=collate, progress=False)
