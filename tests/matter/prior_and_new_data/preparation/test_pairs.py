import datasets
import pytest
from datasets import Dataset

from mixcd.matter.prior_and_new_data.preparation.pairs import PairColumns, prepare_pairs
from mixcd.words.errors import DataError
from task_workspace import make_pair_tokenizer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def prepare(data, *, tokenizer=None, max_length=None, **columns):
    data = data if isinstance(data, Dataset) else Dataset.from_dict(data)
    chosen = tokenizer or make_pair_tokenizer()
    return prepare_pairs(data, name="new", columns=PairColumns(**columns), tokenizer=chosen, max_length=max_length)


def refuse(data, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        prepare(data, **options)
    assert "\n" not in str(caught.value)


def test_sources_and_targets_become_tokens_and_the_rest_is_kept():
    rows = prepare({"source": ["w1 w2", "w3"], "target": ["w4", "w5 w6"], "language": ["a", "b"]})
    assert rows["input_ids"][:] == [[4, 5, 2], [6, 2]]
    assert rows["labels"][:] == [[7, 2], [8, 9, 2]]
    assert rows["language"][:] == ["a", "b"]


def test_both_lose_what_is_too_long():
    rows = prepare({"source": ["w1 w2 w3"], "target": ["w4 w5 w6"]}, max_length=2)
    assert (rows["input_ids"][:], rows["labels"][:]) == ([[4, 2]], [[7, 2]])


def test_columns_may_have_other_names():
    rows = prepare({"en": ["w1"], "fr": ["w2"]}, source="en", target="fr")
    assert rows["labels"][:] == [[5, 2]]


def test_tokenised_rows_are_returned_as_they_are():
    data = Dataset.from_dict({"input_ids": [[1]], "labels": [[2]]})
    assert prepare(data) is data
    refuse(data.remove_columns("labels"), "no column `labels`. A target token column is needed")


def test_missing_columns_and_texts_are_named():
    refuse({"source": ["w1"], "tarqet": ["w1"]}, "no column `target`; did you mean `tarqet`")
    refuse({"source": ["w1"], "target": [" "]}, r"no text in its column `target` on sample 0 \(counted from 0\)")
    refuse({"source": [1], "target": ["w1"]}, "int64 values in its column `source`, but texts are needed")
    refuse({"source": ["w1"], "target": ["w1"], "labels": [1]}, "has a column `labels`, but that name is kept")
    with pytest.raises(DataError, match="texts in `source`, but the model folder has no tokenizer"):
        prepare_pairs(
            Dataset.from_dict({"source": ["a"], "target": ["b"]}),
            name="new",
            columns=PairColumns(),
            tokenizer=None,
            max_length=None,
        )
