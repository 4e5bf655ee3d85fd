import re
import sys
import tomllib
from pathlib import Path

import pytest

from mixcd.words.errors import MissingExtraError
from mixcd.words.extras import EXTRAS, require_extra

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_package_that_an_extra_brings_is_looked_for(extra):
    brought = {
        re.match(r"[\w-]+(\[\w+])?", one)[0].replace("-", "_") for one in PROJECT["optional-dependencies"][extra]
    }
    assert brought - {"mixcd[cli]"} == set(EXTRAS[extra])


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, extra):
    require_extra(extra, "This")
    monkeypatch.setitem(sys.modules, EXTRAS[extra][-1], None)
    with pytest.raises(MissingExtraError) as failure:
        require_extra(extra, "This")
    assert str(failure.value) == (
        f"This needs the package `{EXTRAS[extra][-1]}`, which is not installed. Run `pip install 'mixcd[{extra}]'`."
    )
