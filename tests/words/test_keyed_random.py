from itertools import product

import numpy as np
import pytest

from mixcd.words.keyed_random import Stream, keyed_generator


def test_the_same_key_gives_the_same_numbers():
    assert (
        keyed_generator(1, 2, Stream.DRAWS).random(5).tolist() == keyed_generator(1, 2, Stream.DRAWS).random(5).tolist()
    )


def test_the_key_is_that_of_philox():
    key, counter = np.array([2**63 + 5, 7], dtype=np.uint64), [0, 0, 0, int(Stream.CONTROLS)]
    expected = np.random.Generator(np.random.Philox(key=key, counter=counter))
    assert keyed_generator(2**63 + 5, 7, Stream.CONTROLS).random(9).tolist() == expected.random(9).tolist()


def test_every_part_of_the_key_matters():
    keys = product((0, 1, 2**63, 2**63 + 1, 2**64 - 1), (0, 1, 2**40), Stream)
    first = [keyed_generator(*key).random() for key in keys]
    assert len(set(first)) == len(first)


def test_hidden_state_is_neither_read_nor_changed():
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    keyed_generator(0, 0, Stream.DRAWS).random()
    assert np.random.get_state()[1].tolist() == before


def test_a_seed_outside_the_range_is_no_key():
    for seed in (-1, 2**64):
        with pytest.raises(OverflowError):
            keyed_generator(seed, 0, Stream.DRAWS)
