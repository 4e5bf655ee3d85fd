import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Json, List, Value, load_from_disk
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mixcd.matter.prior_and_new_data.preparation.classes import ColumnNames, prepare_classes
from mixcd.words.errors import DataError

LABEL_IDS = {"neg": 0, "pos": 1}
WORDS = ["[UNK]", "[PAD]", "[SEP]", "good", "bad", "film"]


class CountingTokenizer(PreTrainedTokenizerFast):
    """A word-level tokenizer that writes down the texts it is given in lists."""

    def __call__(self, text, *others, **options):
        if isinstance(text, list):
            self.seen = [*getattr(self, "seen", []), *text]
        return super().__call__(text, *others, **options)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def make_tokenizer(words=WORDS, **options):
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=WORDS[0]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A [SEP] $B", special_tokens=[("[SEP]", words.index("[SEP]"))]
    )
    return CountingTokenizer(tokenizer_object=backend, unk_token=WORDS[0], pad_token=WORDS[1], **options)


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def prepare(data, *, tokenizer=None, label_ids=LABEL_IDS, max_length=None, **columns):
    data = data if isinstance(data, Dataset) else Dataset.from_dict(data)
    columns = ColumnNames(**columns)
    return prepare_classes(
        data, name="new", columns=columns, label_ids=label_ids, tokenizer=tokenizer, max_length=max_length
    )


def refuse(data, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        prepare(data, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("`new` ")


def labels_of(labels, label_ids=LABEL_IDS, feature=None):
    data = Dataset.from_dict({"input_ids": [[3]] * len(labels), "label": labels})
    rows = prepare(data if feature is None else data.cast_column("label", feature), label_ids=label_ids)
    assert "int" in rows.features["label"].dtype
    return rows["label"][:]


# --- texts ---------------------------------------------------------------------------------------------------------


def test_texts_become_tokens_and_labels_numbers_and_the_rest_is_kept(tokenizer):
    data = {"text": ["good film", "bad"], "label": ["pos", "neg"], "topic": ["a", "b"]}
    rows = prepare(data, tokenizer=tokenizer)
    assert rows[:] == {
        "text": ["good film", "bad"],
        "topic": ["a", "b"],
        "input_ids": [[3, 5], [4]],
        "attention_mask": [[1, 1], [1]],
        "label": [1, 0],
    }
    assert rows.features["label"].dtype == "int64"


def test_named_columns_are_read_and_kept(tokenizer):
    data = {"review": ["good"], "title": ["film"], "verdict": ["pos"]}
    rows = prepare(data, tokenizer=tokenizer, text="review", text_pair="title", label="verdict")
    assert rows["input_ids"][:] == [[3, 2, 5]]
    assert (rows["verdict"][:], rows["label"][:]) == (["pos"], [1])


def test_a_column_called_labels_is_the_label_when_there_is_no_other(tokenizer):
    rows = prepare({"text": ["good"], "labels": ["pos"]}, tokenizer=tokenizer)
    assert rows.column_names == ["text", "input_ids", "attention_mask", "label"]
    assert rows["label"][:] == [1]


def test_long_texts_are_cut(tokenizer):
    data = {"text": ["good good good"], "label": [0]}
    assert prepare(data, tokenizer=tokenizer, max_length=2)["input_ids"][:] == [[3, 3]]
    short = make_tokenizer(model_max_length=1)
    assert prepare(data, tokenizer=short)["input_ids"][:] == [[3]]


def test_a_format_set_on_the_data_does_not_matter(tokenizer):
    data = Dataset.from_dict({"text": ["good", "bad"], "label": ["pos", "neg"]}).with_format("numpy")
    assert prepare(data, tokenizer=tokenizer)["label"][:] == [1, 0]


def test_selected_rows_are_prepared_in_their_order(tokenizer):
    data = Dataset.from_dict({"text": ["good", "", "bad"], "label": ["pos", "?", "neg"]}).select([2, 0])
    assert prepare(data, tokenizer=tokenizer)["input_ids"][:] == [[4], [3]]


# --- the file they are kept in --------------------------------------------------------------------------------------


def test_a_second_call_reads_the_file_of_the_first(tokenizer):
    data = Dataset.from_dict({"text": ["good", "bad"], "label": ["pos", "neg"]})
    first = prepare(data, tokenizer=tokenizer)
    assert tokenizer.seen == ["good", "bad"]
    again, fresh = prepare(data, tokenizer=tokenizer), make_tokenizer()
    assert tokenizer.seen == ["good", "bad"]
    prepare(data, tokenizer=fresh)
    assert not hasattr(fresh, "seen")
    assert first[:] == again[:]
    assert first.features == again.features


def test_whatever_the_rows_depend_on_makes_another_file():
    data = Dataset.from_dict({"text": ["good", "bad"], "other": ["film", "film"], "label": ["pos", "neg"]})
    more = Dataset.from_dict({"text": ["good", "good"], "other": ["film", "film"], "label": ["pos", "neg"]})
    changes = [
        {},
        {"max_length": 1},
        {"text": "other"},
        {"text_pair": "other"},
        {"label_ids": {"neg": 1, "pos": 0}},
        {"tokenizer": make_tokenizer(WORDS[::-1])},
        {"tokenizer": make_tokenizer(model_max_length=1)},
        {"data": more},
    ]
    files = [
        prepare(**{"data": data, "tokenizer": make_tokenizer(), **change}).cache_files[0]["filename"]
        for change in changes
    ]
    assert len(set(files)) == len(changes)


def test_nothing_is_written_next_to_saved_data(tokenizer, tmp_path):
    Dataset.from_dict({"text": ["good"], "label": ["pos"]}).save_to_disk(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    rows = prepare(load_from_disk(tmp_path / "saved"), tokenizer=tokenizer)
    assert sorted(tmp_path.rglob("*")) == before
    assert str(datasets.config.HF_DATASETS_CACHE) in rows.cache_files[0]["filename"]


def test_datasets_still_fingerprints_data_by_content():
    same = [Dataset.from_dict({"x": [1]})._fingerprint for _ in range(2)]
    assert same[0] == same[1] != Dataset.from_dict({"x": [2]})._fingerprint


def test_progress_is_shown(tokenizer, capfd):
    prepare({"text": ["good"], "label": ["pos"]}, tokenizer=tokenizer)
    assert "Preparing rows: 100%" in capfd.readouterr().err


# --- rows tokenised already -----------------------------------------------------------------------------------------


def test_tokenised_rows_with_class_numbers_are_returned_as_they_are():
    data = Dataset.from_dict({"input_ids": [[3]], "text": ["good"], "label": [1]})
    assert prepare(data) is data
    named = data.cast_column("label", ClassLabel(names=["neg", "pos"]))
    assert prepare(named) is named
    assert prepare(named, label_ids={"LABEL_0": 0, "LABEL_1": 1}) is named


def test_tokenised_rows_with_names_of_classes_are_given_numbers(tokenizer):
    data = {"input_ids": [[3], [4]], "labels": ["pos", "neg"], "x": [5, 6]}
    rows = prepare(data, tokenizer=tokenizer)
    assert rows[:] == {"input_ids": [[3], [4]], "x": [5, 6], "label": [1, 0]}
    assert not hasattr(tokenizer, "seen")


def test_texts_without_a_tokenizer_are_refused():
    refuse(
        {"text": ["good"], "label": [1]},
        "texts in `text`, but the model folder has no tokenizer. Save one there, name one in a config as "
        "`model.tokenizer`, or give rows with `input_ids`",
    )


# --- labels ---------------------------------------------------------------------------------------------------------


def test_whole_numbers_are_class_numbers_however_they_are_stored():
    assert labels_of([1, 0, 7]) == [1, 0, 7]
    assert labels_of([1.0, 0.0]) == [1, 0]
    assert labels_of([1, 0], feature=Value("uint8")) == [1, 0]


def test_the_names_of_class_labels_are_looked_up_when_the_model_knows_them_all():
    assert labels_of([0, 1], feature=ClassLabel(names=["pos", "neg"])) == [1, 0]
    assert labels_of([0, 1], feature=ClassLabel(names=["pos", "other"])) == [0, 1]


def test_true_and_false_are_looked_up_when_the_model_knows_both():
    assert labels_of([True, False]) == [1, 0]
    assert labels_of([True, False], {"TRUE": 0, "FALSE": 1}) == [0, 1]
    assert labels_of([True, False], {"true": 0, "other": 1}) == [1, 0]


def test_unknown_labels_are_named_with_those_the_model_knows():
    rows = [[3]] * 4
    known = "but the model knows `neg`, `pos`. Give"
    refuse(
        {"input_ids": rows, "label": ["pos", "b", "a", "b"]},
        f"label `a`, `b` in its column `label` on sample 1, 2, 3 .*{known}",
    )
    refuse(
        {"input_ids": rows, "label": [1.0, 0.5, 0.0, float("inf")]},
        f"label `0.5`, `inf` in its column .* 1, 3 .*{known}",
    )
    refuse({"input_ids": rows, "label": ["a"] * 4}, "the model knows none", label_ids={})
    hidden = Dataset.from_dict({"input_ids": rows, "label": [0, -1, 1, 0]})
    refuse(
        hidden.cast_column("label", ClassLabel(names=["neg", "pos"])),
        f"label `-1` in its column `label` on sample 1 .*{known}",
    )


def test_labels_far_down_are_checked_too():
    refuse(
        {"input_ids": [[3]] * 2500, "label": ["pos"] * 2400 + ["x"] * 100},
        "`x` in its column `label` on sample 2400, .* and 95 more",
    )


@pytest.mark.parametrize("labels", [[1, None, 0], ["pos", None, "neg"], ["pos", " ", "neg"], [1.0, float("nan"), 0.0]])
def test_missing_labels_are_named_by_their_row(labels):
    refuse({"input_ids": [[3]] * 3, "label": labels}, r"no label in its column `label` on sample 1 \(counted from 0\)")


def test_a_number_that_is_also_the_name_of_another_class_is_refused():
    stars = {"1": 0, "2": 1}
    refuse(
        {"input_ids": [[3]] * 2, "label": [0, 1]},
        "label `1` in its column `label` on sample 1 .* another number",
        label_ids=stars,
    )
    assert labels_of(["2", "1"], stars) == [1, 0]
    assert labels_of([1, 0], {"0": 0, "1": 1}) == [1, 0]


def test_several_labels_a_sample_are_refused():
    refuse({"input_ids": [[3]], "label": [[0, 1]]}, "has List values in its column `label`, but one label a sample")
    mixed = Dataset.from_list(
        [{"input_ids": [3], "label": 1}], features=Features(input_ids=List(Value("int32")), label=Json())
    )
    refuse(mixed, "has Json values in its column `label`")


# --- columns --------------------------------------------------------------------------------------------------------


def test_a_missing_column_is_named_with_the_nearest_and_all(tokenizer):
    data = {"txt": ["good"], "label": [1]}
    refuse(data, "no column `text`; did you mean `txt`. A text column .* are `txt`, `label`", tokenizer=tokenizer)
    refuse(data, r"no column `zzz`\. A text column", text="zzz", tokenizer=tokenizer)
    refuse(data, "no column `zzz`", text="txt", text_pair="zzz", tokenizer=tokenizer)
    refuse({"input_ids": [[1]], "lable": [1]}, "no column `label`; did you mean `lable`. A label column")


def test_missing_texts_are_named_by_their_row(tokenizer):
    refuse(
        {"text": ["good", None, "", " \n", "bad"], "label": [1] * 5},
        r"no text in its column `text` on sample 1, 2, 3 \(counted from 0\)",
        tokenizer=tokenizer,
    )
    refuse({"text": ["good"], "more": [None], "label": [1]}, "`more`", text_pair="more", tokenizer=tokenizer)


def test_texts_that_are_no_texts_are_refused(tokenizer):
    for texts, kind in (([1], "int64"), ([["a"]], "List"), ([1.5], "float64")):
        refuse({"text": texts, "label": [1]}, f"has {kind} values in its column `text`", tokenizer=tokenizer)


@pytest.mark.parametrize("column", ["label", "labels", "input_ids", "attention_mask"])
def test_columns_in_the_way_are_named(tokenizer, column):
    data = {"text": ["good"], "target": [1], column: [1]}
    refuse(data, f"has a column `{column}`, but .*Rename", text="text", label="target", tokenizer=tokenizer)


def test_a_label_under_a_name_of_the_tokenizers_is_refused(tokenizer):
    refuse({"text": ["good"], "input_ids": [1]}, "`input_ids`", text="text", label="input_ids", tokenizer=tokenizer)
