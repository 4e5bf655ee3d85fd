from hypothesis import given
from hypothesis import strategies as st

from mixcd.run.report.shown_text import MOST_SHOWN, show_text

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


@given(st.text(alphabet=st.characters(codec=None), max_size=2 * MOST_SHOWN))
def test_any_text_becomes_one_that_can_be_written_and_turns_nothing_around(text):
    shown = show_text(text)
    shown.encode("utf-8")
    assert not any(one in shown for one in BIDI)
    assert not any((ord(one) < 32 and one not in "\t\n") or 127 <= ord(one) < 160 for one in shown)


@given(st.text(alphabet="abc äß漢 <>&\"'", max_size=MOST_SHOWN))
def test_ordinary_text_stays_as_it_is(text):
    assert show_text(text) == text


def test_long_text_is_cut():
    assert show_text("w" * 10_000) == "w" * MOST_SHOWN + "…"
