import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_sft
from mixcd.matter.base_model.sample_tokens import SampleTokens
from mixcd.run.outcome.sample_texts import TEXT_START, mark_answer, text_of

TOKENIZER = tiny_sft.make_tokenizer()
EOS, ZERO = 1, 7  # the tokens of "<eos>" and "0"


class Bytes:
    """A tokenizer of bytes: one token alone may be no character."""

    def decode(self, tokens, skip_special_tokens=False):
        return bytes(tokens).decode("utf-8", errors="replace")


def sample_of(targets, inputs=(), places=None):
    targets = np.array(targets)
    return SampleTokens(np.array(inputs), targets, np.arange(targets.size) if places is None else places, np.array([]))


def mark(targets, damaged, tokenizer=TOKENIZER, names=None, **sample):
    return mark_answer(sample_of(targets, **sample), np.array(damaged, dtype=bool), tokenizer, names or {})


@pytest.mark.parametrize(
    ("damaged", "pieces"),
    [
        ([0, 0, 0], ["0 1 <eos>"]),
        ([0, 1, 0], ["0 ", "1", " <eos>"]),
        ([1, 1, 0], ["", "0 1", " <eos>"]),
        ([1, 0, 1], ["", "0", " 1 ", "<eos>"]),
    ],
)
def test_every_second_piece_is_damaged_and_the_end_of_the_text_is_shown(damaged, pieces):
    assert mark([ZERO, ZERO + 1, EOS], damaged) == pieces


@given(st.text(min_size=1, max_size=40), st.data())
def test_joined_pieces_are_the_text_whatever_its_tokens_are(text, data):
    tokens = list(text.encode("utf-8", errors="replace"))
    damaged = data.draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    damaged[0] = True
    whole = bytes(tokens).decode()
    joined = "".join(mark(tokens, damaged, Bytes()))
    assert joined == whole if len(tokens) <= 72 else whole.startswith(joined[:8])


def test_a_character_of_several_tokens_is_damaged_with_its_last_one():
    assert mark([0xC3, 0xA4, 0x62], [0, 1, 0], Bytes()) == ["", "ä", "b"]


def test_a_damaged_space_alone_stays_where_it_is():
    assert mark([0x61, 0x20, 0x62], [0, 1, 0], Bytes()) == ["a", " ", "b"]


def test_a_long_answer_is_shown_around_its_first_damaged_token():
    targets, damaged = [ZERO + number % 10 for number in range(200)], np.arange(200) == 104
    pieces = mark(targets, damaged)
    assert pieces[0].startswith("…0 1 2")
    assert pieces[0].endswith(" 3 ")
    assert pieces[1] == "4"
    assert pieces[2].startswith(" 5 6")
    assert pieces[-1].endswith("…")
    assert len(pieces) == 3
    longest = mark(
        [100] * 30, [True] * 30, type("Long", (), {"decode": lambda _, tokens, **__: "w" * 99 * len(tokens)})()
    )
    assert longest == ["", "w" * TEXT_START, "…"]


def test_tokens_with_classes_are_shown_with_their_names():
    names = {0: "O", 1: "PER"}
    found = mark([1, 0], [1, 0], names=names, inputs=[5, 6, ZERO], places=np.array([0, 2]))
    assert found == ["", "add/PER ", "0/O "]


def test_a_row_says_its_longest_text_or_its_tokens():
    assert text_of({"id": "7", "text": "a longer one"}, None) == "a longer one"
    assert text_of({"input_ids": [5, ZERO, EOS]}, TOKENIZER) == "add 0"
    assert text_of({"input_ids": [[5], [ZERO]]}, TOKENIZER) == "add | 0"
    assert text_of({"input_ids": [5]}, None) == text_of([5], TOKENIZER) == ""
