from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mixcd.matter.base_model.flat_array import create_array, open_array, read_rows, write_rows


@given(
    row_count=st.integers(1, 40),
    width=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    order=st.randoms(),
)
def test_rows_written_in_any_order_are_read_back_by_safetensors_too(tmp_path_factory, row_count, width, cuts, order):
    path = tmp_path_factory.mktemp("flat") / "a.safetensors"
    values = np.random.default_rng(0).normal(size=(row_count, width)).astype(np.float16)
    edges = sorted({0, row_count, *(cut for cut in cuts if cut < row_count)})
    pieces = list(pairwise(edges))
    order.shuffle(pieces)
    create_array(path, row_count, width)
    for start, stop in pieces:
        assert write_rows(path, start, values[start:stop]) == read_rows(path, start, stop)
    np.testing.assert_array_equal(open_array(path), values)
    np.testing.assert_array_equal(load_file(path)["values"], values)


def test_unwritten_rows_take_no_room(tmp_path):
    create_array(tmp_path / "a.safetensors", 10**6, 64)
    assert (tmp_path / "a.safetensors").stat().st_size > 10**8
    assert (tmp_path / "a.safetensors").stat().st_blocks * 512 < 10**5


def test_an_array_is_mapped_and_not_read(tmp_path):
    create_array(tmp_path / "a.safetensors", 10, 2)
    assert isinstance(open_array(tmp_path / "a.safetensors"), np.memmap)
    with pytest.raises(ValueError, match="assignment destination is read-only"):
        open_array(tmp_path / "a.safetensors")[0] = 1
