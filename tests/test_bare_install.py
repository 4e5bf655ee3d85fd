import mixcd
from bare_install import run_each


def test_every_public_name_is_run_without_extras(tmp_path):
    assert set(run_each(tmp_path)) == set(mixcd.__all__)
