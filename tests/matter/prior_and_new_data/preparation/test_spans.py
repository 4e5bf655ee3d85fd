import logging

import datasets
import pytest
from datasets import Dataset
from transformers import BertTokenizer

from mixcd.matter.prior_and_new_data.preparation.spans import SpanColumns, prepare_spans
from mixcd.words.errors import DataError
from task_workspace import make_span_tokenizer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def row(context="w1 w2 w3 w4", text="w2 w3", start=3, **changes):
    answers = {"text": [text], "answer_start": [start]}
    return {"question": "w9 w8", "context": context, "answers": answers, **changes}


NONE = {"text": [], "answer_start": []}


def prepare(rows, *, tokenizer=None, max_length=None, **columns):
    data = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    chosen = tokenizer or make_span_tokenizer()
    return prepare_spans(data, name="new", columns=SpanColumns(**columns), tokenizer=chosen, max_length=max_length)


def spans_of(rows):
    return list(zip(rows["start_positions"], rows["end_positions"], strict=True))


def refuse(rows, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        prepare(rows, **options)
    assert "\n" not in str(caught.value)


def test_answers_become_spans_of_tokens_and_the_rest_is_kept():
    rows = prepare([row(topic="a"), row(text="w4", start=9, topic="b")])
    # [CLS] w9 w8 [SEP] w1 w2 w3 w4 [SEP]
    assert spans_of(rows) == [(5, 6), (7, 7)]
    assert rows["topic"][:] == ["a", "b"]
    assert rows["input_ids"][0] == [2, 13, 12, 3, 5, 6, 7, 8, 3]


def test_the_first_answer_is_the_gold_one_and_a_question_without_has_token_0():
    first = {"text": ["w3", "w1"], "answer_start": [6, 0]}
    assert spans_of(prepare([row(answers=first), row(answers=NONE)])) == [(6, 6), (0, 0)]


def test_blanks_around_an_answer_do_not_matter():
    assert spans_of(prepare([row(text=" w2 ", start=2)])) == [(5, 5)]


def test_an_answer_in_the_question_too_is_found_in_the_context():
    assert spans_of(prepare([row(question="w2 w3")])) == [(5, 6)]


def test_columns_may_have_other_names():
    renamed = {"q": "w9 w8", "c": "w1 w2", "a": {"text": ["w2"], "answer_start": [3]}}
    assert spans_of(prepare([renamed], question="q", context="c", answers="a")) == [(5, 5)]


def test_rows_whose_answer_is_lost_are_left_out_and_named_in_one_warning(caplog):
    rows = [
        row(),
        row(text="w4", start=9),  # behind the end
        row(start=4),
        row(question="w1 w1 w1 w1 w1 w1"),  # no room for any context
        row(start=-3),
        row(answers=NONE, number=6),
        row(answers={"text": ["w2"], "answer_start": []}),
        row(answers=None),
        row(text=" ", start=2),
    ]
    with caplog.at_level(logging.WARNING):
        kept = prepare([{"number": number, **one} for number, one in enumerate(rows)], max_length=8)
    assert kept["number"][:] == [0, 6]
    assert spans_of(kept) == [(5, 6), (0, 0)]
    (told,) = [one.getMessage() for one in caplog.records if one.name.startswith("mixcd")]
    assert told == (
        "7 of 9 rows of `new` are left out for their answers: that of row 1, 3 (counted from 0) is cut off by the "
        "longest input that `max_length`, tokenizer or model allow; that of row 2, 4, 6, 7, 8 (counted from 0) "
        "is not where its `answer_start` says. Sample ids number the others."
    )


def test_data_without_any_answer_to_be_found_are_refused():
    refuse([row(start=1)], "No answer of `new` can be found in its context: that of row 0 .* is not where .* Correct")


def test_tokenised_rows_are_returned_as_they_are():
    data = Dataset.from_dict({"input_ids": [[1, 2]], "start_positions": [0], "end_positions": [1]})
    assert prepare(data) is data
    refuse(data.remove_columns("end_positions"), "no column `end_positions`.* A token number column is needed")


@pytest.mark.parametrize(
    ("answers", "part"),
    [
        ("w2", "string values in its column `answers`, but a table of two lists is needed there, as in SQuAD"),
        ({"text": "w2", "answer_start": 3}, "a table of text, answer_start in its column `answers`"),
        ([{"text": "w2", "answer_start": 3}], "List values in its column `answers`"),
        ({"text": ["w2"]}, "a table of text in its column"),
    ],
)
def test_answers_in_another_format_are_refused(answers, part):
    refuse([row(answers=answers)], f"`new` has {part}")


def test_missing_columns_and_texts_are_named():
    refuse([{"question": "w1", "contxt": "w2", "answers": NONE}], "no column `context`; did you mean `contxt`")
    refuse([row(question=" ")], r"no text in its column `question` on sample 0 \(counted from 0\)")
    refuse([row(context=None)], "no text in its column `context`|values in its column `context`")
    refuse([row(start_positions=1)], "has a column `start_positions`, but that name is kept")
    refuse([row(label=1)], "has a column `label`, but that name is kept")


def test_slow_tokenizers_and_none_are_refused():
    class Slow(BertTokenizer):
        is_fast = False

    slow = Slow.__new__(Slow)
    refuse([row()], "a Slow does not say which token a letter belongs to. Save a fast one", tokenizer=slow)
    with pytest.raises(DataError, match="texts in `question`, but the model folder has no tokenizer"):
        prepare_spans(Dataset.from_list([row()]), name="new", columns=SpanColumns(), tokenizer=None, max_length=None)


def test_whatever_the_rows_depend_on_makes_another_file():
    changes = [{}, {"max_length": 12}, {"context": "other"}, {"question": "other"}]
    files = [prepare([row(other="w1 w2 w3")], **change).cache_files[0]["filename"] for change in changes]
    assert len(set(files)) == len(changes)
