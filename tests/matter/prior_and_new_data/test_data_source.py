import csv
import json
import socket
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mixcd.matter.prior_and_new_data.data_source import make_rows, open_data
from mixcd.words.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def refuse(path, match, **choices):
    with pytest.raises(DataError, match=match) as caught:
        open_data(path, name="new.path", **choices)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("`new.path` ")


def read(path, **choices):
    return open_data(path, name="new.path", **choices)[:]


ROWS = {"text": ["a", "b"], "label": [0, 1]}


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\na,0\nb,1\n"),
        ("a.CSV", '"text",label\r\n\r\n"a",0\r\nb,1'),
        ("a.tsv", "text\tlabel\na\t0\nb\t1\n"),
        ("a.jsonl", '{"text": "a", "label": 0}\n\n{"text": "b", "label": 1}\n'),
        ("a.ndjson", '{"text": "a", "label": 0}\n{"text": "b", "label": 1}'),
        ("a.json", '[{"text": "a", "label": 0},\n {"text": "b", "label": 1}]'),
        ("a[1]*?.csv", "text,label\na,0\nb,1\n"),
    ],
)
def test_a_text_file_is_read_by_its_suffix_with_or_without_a_byte_order_mark(write, name, content):
    assert read(write(name, content)) == ROWS
    if not name.endswith(".json"):  # datasets reads a marked list since 5.1; before, it says that it cannot
        assert read(write("marked/" + name, b"\xef\xbb\xbf" + content.encode())) == ROWS


def test_a_parquet_file_is_read(tmp_path):
    Dataset.from_dict(ROWS).to_parquet(tmp_path / "a.parquet")
    assert read(str(tmp_path / "a.parquet")) == ROWS


def test_the_data_are_memory_mapped(write):
    assert open_data(write("a.csv", "x\n1\n"), name="new.path").cache_files


def test_several_files_of_one_kind_are_read_in_the_order_given(write):
    files = [write("b.csv", "x\n1\n"), write("a.csv", "x\n2\n")]
    assert read(files) == {"x": [1, 2]}
    assert read([write("b.jsonl", '{"x": 3}'), write("a.json", '[{"x": 4}]')]) == {"x": [3, 4]}


def test_the_home_folder_is_expanded_and_relative_paths_are_followed(write, tmp_path, monkeypatch):
    write("a.csv", "x\n1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert read("~/a.csv") == read("a.csv") == read("./a.csv") == {"x": [1]}


def test_a_changed_file_is_read_anew(write):
    assert read(write("a.csv", "x\n1\n")) == {"x": [1]}
    assert read(write("a.csv", "x\n1\n2\n")) == {"x": [1, 2]}


def test_words_for_missing_stay_texts_and_empty_cells_are_missing(write):
    found = read(write("a.csv", "text,label\nNone,0\nNA,\n,2\nnull,3\nnan,4\n"))
    assert found == {"text": ["None", "NA", None, "null", "nan"], "label": [0.0, None, 2.0, 3.0, 4.0]}


def test_quoted_fields_hold_line_ends_separators_quotes_and_any_length(write):
    text = 'two\nlines, "quoted"' + "x" * 200_000
    quoted = text.replace('"', '""')
    longest = csv.field_size_limit()
    assert read(write("a.csv", f'text,label\n"{quoted}",1\n'))["text"] == [text]
    assert csv.field_size_limit() == longest


def call(name, **arguments):
    return {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize(
    "rows",
    [
        [{"messages": [USER, ANSWER]}, {"messages": [USER, call("add", a=1)], "tools": [{"name": "add"}]}],
        [{"messages": [USER, call("add", a=1)]}, {"messages": [USER, call("find", q="x", n=None)]}],
        [{"messages": [USER, call("add", a=1)]}, {"messages": [USER, call("find", a="x")]}],
        [{"messages": [USER]}, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}],
        [{"messages": [USER]}, {"messages": [{**USER, "name": "bob"}]}],
        [{"a": 1}, {"a": 2, "b": "x"}, {"c": [1]}],
        [{"a": None, "b": 1}, {"a": "x", "b": 2.5}],
        [{"a": {}, "b": []}, {"a": {"x": 1}, "b": [1]}],
        [{"a": 1}, {"a": "x"}],
    ],
)
def test_rows_in_a_list_become_what_they_become_as_jsonl(rows, write):
    made = make_rows(rows)
    read_back = open_data(write("a.jsonl", "\n".join(map(json.dumps, rows))), name="new.path")
    assert made[:] == read_back[:]
    assert made.features == read_back.features


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc ", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(st.fixed_dictionaries({"messages": st.lists(st.dictionaries(st.sampled_from("xyz"), json_values))})))
@settings(deadline=None, max_examples=50)
def test_what_a_message_of_any_shape_says_is_kept(rows):
    """Where messages have keys of their own, none gains a key or a value."""
    rows = [{"messages": [{"role": "user"}]}, *rows, {"messages": [{"role": "user", "own": 1}]}]
    assert list(make_rows(rows)) == rows


def test_keys_that_come_and_go_are_columns_with_gaps(write):
    found = read(write("a.jsonl", '{"a": 1}\n{"b": 2}\nnull\n{"a": 3, "b": 4}\n'))
    assert found == {"a": [1, None, None, 3], "b": [None, 2, None, 4]}


def test_a_key_that_first_comes_after_ten_megabytes_is_refused(write):
    long = json.dumps({"text": "x" * 100_000}) + "\n"
    refuse(write("a.jsonl", long * 120 + '{"text": "x", "z": 1}\n'), r"a.jsonl: there are 1 new columns \({'z'}\)")


# --- refusals of files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["gone.csv", "./gone", "/gone", "~/gone", "gone/train.parquet", "a/b/c", "gone.txt"])
def test_a_path_that_is_not_there_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(path, "gone.*no such file or folder. Correct the path" if "gone" in path else "no such file")
    refuse(path, "no such file", split="train")


def test_nothing_named_is_refused():
    refuse("", "names no data")
    refuse([], "names no data")
    refuse([""], "names no data")


def test_a_folder_is_no_file(write, tmp_path):
    (tmp_path / "x.csv").mkdir()
    refuse(str(tmp_path / "x.csv"), "x.csv, which is a folder, but a file is needed")
    refuse([write("a.csv", "x\n1\n"), str(tmp_path)], "which is a folder, but a file is needed")


def test_an_unreadable_file_is_named(write, monkeypatch):
    path = write("a.csv", "x\n1\n")

    def refuse_to_open(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse_to_open)
        refuse(path, "a.csv, which cannot be read: Permission denied. Make it readable")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_an_empty_file_is_refused(write, suffix):
    refuse(write("a" + suffix, ""), r"a\.\w+, which is empty")


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "\n\n"), ("b.csv", "text,label\n"), ("a.jsonl", "\n"), ("c.csv", "text\n\n\n")]
)
def test_a_file_without_rows_is_refused(write, name, content):
    refuse(write(name, content), f"{name}, which has no rows")


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    parquet.write_table(pa.table({"x": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    refuse(str(tmp_path / "a.parquet"), "a.parquet, which has no rows")


def test_a_json_file_without_rows_is_refused(write):
    refuse(write("a.json", "[]"), "a.json, which has no rows")


@pytest.mark.parametrize(("row", "count"), [("b,1,2", 3), ("b", 1)])
def test_a_ragged_row_is_named_by_its_line(write, row, count):
    content = f'text,label\n\n"two\nlines",0\n{row}\nc,1\n'
    refuse(write("a.csv", content), rf"has {count} field\(s\) in line 5, but 2 in its header")


def test_repeated_columns_are_named(write):
    refuse(write("a.csv", "text,x,text,x,y\na,b,c,d,e\n"), "a column twice: `text`, `x`. Give every column")


def test_wrong_quotes_and_line_ends_are_named_by_their_line(write):
    refuse(
        write("a.csv", 'text\na\n"b\nc\n'), "a.csv, whose row from line 3 on is no CSV: unexpected end of data. Correct"
    )
    refuse(write("b.csv", 'text\n"a "b" c"\n'), "b.csv, whose row from line 2 on is no CSV: .* expected after")
    refuse(write("c.csv", "text\na\nb\rc\n"), "c.csv, whose row from line 3 on is no CSV: new-line character")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_another_encoding_is_named_by_its_line(write, suffix):
    content = "text\na\né\n" if suffix == ".csv" else '{"x": 1}\n\n{"x": "é"}\n'
    refuse(write("a" + suffix, content.encode("latin-1")), "not UTF-8 in line 3: .* 0xe9.*Convert it to UTF-8")
    refuse(write("b" + suffix, content.encode("utf-16")), "not UTF-8 in line 1: .* 0xff")


def test_a_broken_json_line_is_named(write):
    refuse(write("a.jsonl", '{"a": 1}\n\n{"a": 2\n{"a": 3}\n'), "line 3 is not JSON: Expecting ',' delimiter")
    refuse(write("a.json", '[{"a": 1},\n{"a": 2\n]'), "line 3 is not JSON")


@pytest.mark.parametrize(("line", "kind"), [("3", "int"), ('"a"', "str"), ("[1, 2]", "list")])
def test_a_json_line_that_is_no_object_is_named(write, line, kind):
    refuse(write("a.jsonl", f'{{"a": 1}}\n{line}\n'), f"line 2 is of type {kind}, but every row is an object")


def test_a_damaged_parquet_file_is_named(write, tmp_path):
    parquet.write_table(pa.table({"x": list(range(10_000))}), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for name, content in {"a": b"hello parquet", "b": whole[:-100]}.items():
        refuse(write(f"{name}.parquet", content), f"{name}.parquet, which is no Parquet file, or a damaged one")
    refuse(write("c.parquet", whole[:50] + b"x" * 1000 + whole[1050:]), "c.parquet: Corrupt snappy")


def test_unknown_suffixes_are_told_the_known_ones(write):
    for suffix in (".txt", ".xlsx", ".csv.gz", ""):
        refuse(write("a" + suffix, "x"), r"a\S*, but files .* \.parquet, \.csv, \.tsv, \.jsonl, \.ndjson, \.json\.")


def test_files_of_different_kinds_are_refused(write):
    refuse([write("a.csv", "x\n1\n"), write("a.jsonl", '{"x": 1}')], "different kinds: csv, json")


def test_files_with_other_columns_are_refused(write):
    refuse([write("a.csv", "x\n1\n"), write("b.csv", "y\n1\n")], "a.csv, .*b.csv: Schema .* different: x: int64 vs y")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_column_that_changes_its_kind_far_down_is_refused(write, suffix):
    if suffix == ".csv":
        content = "text,label\n" + "a,1\n" * 10_000 + "b,x\n"
    else:
        long = json.dumps({"text": "a" * 100_000, "label": 1}) + "\n"
        content = long * 120 + '{"text": "b", "label": "x"}\n'
    refuse(
        write("a" + suffix, content),
        rf"a\{suffix}: Failed to parse string: '\"?x\"?'.*so that all rows have the same columns",
    )


def test_a_gap_far_down_keeps_whole_numbers_whole(write):
    found = open_data(write("a.csv", "text,label\n" + "a,1\n" * 10_000 + "b,\n"), name="new.path")
    assert found[-1] == {"text": "b", "label": None}
    assert found.features["label"].dtype == "int64"


def test_a_file_has_no_splits_or_subsets(write):
    refuse(write("a.csv", "x\n1\n"), "names a file, which has no split `test`. Leave `split` out", split="test")
    refuse(write("a.csv", "x\n1\n"), "names a file, which has no subset `en`", subset="en")


# --- folders -------------------------------------------------------------------------------------------------------


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_saved_data_set_is_opened_where_it_lies(tmp_path):
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "saved.csv")
    before = tree(tmp_path)
    assert read(str(tmp_path / "saved.csv")) == ROWS
    assert tree(tmp_path) == before
    refuse(str(tmp_path / "saved.csv"), "a single saved data set, which has no split `train`", split="train")
    refuse(str(tmp_path / "saved.csv"), "a saved folder, which has no subset `en`", subset="en")


def test_of_several_saved_splits_one_is_named(tmp_path):
    part = Dataset.from_dict(ROWS)
    DatasetDict(train=part, test=part.select([1])).save_to_disk(tmp_path / "saved")
    assert read(str(tmp_path / "saved"), split="test")["text"] == ["b"]
    refuse(str(tmp_path / "saved"), "several splits: .*saved has `train`, `test`. Name one of these as `split`")
    refuse(str(tmp_path / "saved"), "no split `dev`: .* has `train`, `test`. Name one of these", split="dev")


def test_a_single_saved_split_is_taken(tmp_path):
    DatasetDict(train=Dataset.from_dict(ROWS)).save_to_disk(tmp_path / "saved")
    assert read(str(tmp_path / "saved")) == ROWS


def test_a_damaged_saved_folder_is_named(tmp_path):
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "saved")
    (data_file,) = (tmp_path / "saved").glob("*.arrow")
    data_file.write_bytes(b"xx")
    refuse(str(tmp_path / "saved"), "cannot be read from .*saved: Corrupted message")
    (tmp_path / "saved/state.json").write_text("{")
    refuse(str(tmp_path / "saved"), "cannot be read from .*saved: Expecting property name")
    data_file.unlink()
    refuse(str(tmp_path / "saved"), "which has no rows. Name one with `.*arrow` files")


def test_saved_data_without_rows_are_refused(tmp_path):
    Dataset.from_dict({"x": []}).save_to_disk(tmp_path / "saved")
    refuse(str(tmp_path / "saved"), "the saved folder .*saved, which has no rows")
    Dataset.from_dict({"x": []}).to_json(tmp_path / "a.json")
    refuse(str(tmp_path / "a.json"), "a.json, which is empty")


def test_a_folder_of_files_is_read_with_its_splits(write, tmp_path):
    write("data/train.csv", "text\nNA\n")
    assert read(str(tmp_path / "data")) == {"text": ["NA"]}
    write("data/test.csv", "text\nb\n")
    before = tree(tmp_path)
    assert read(str(tmp_path / "data"), split="test") == {"text": ["b"]}
    refuse(str(tmp_path / "data"), "several splits: .*data has `train`, `test`. Name one")
    refuse(str(tmp_path / "data"), "no split `dev`: .*data has `train`, `test`", split="dev")
    refuse(str(tmp_path / "data"), "no subset `en`: .*data has `default`. Name one of these", subset="en")
    assert tree(tmp_path) == before


def test_of_several_subsets_one_is_named(write, tmp_path):
    write("data/a.csv", "x\n1\n")
    write("data/b.csv", "x\n2\n")
    configs = "configs:\n- config_name: one\n  data_files: a.csv\n- config_name: two\n  data_files: b.csv\n"
    write("data/README.md", f"---\n{configs}---\n")
    assert read(str(tmp_path / "data"), subset="two") == {"x": [2]}
    refuse(str(tmp_path / "data"), "several subsets: .*data has `one`, `two`. Name one of these as")


def test_the_files_of_a_folder_are_checked_like_files(write, tmp_path):
    write("a/train.csv", "x,y\n1\n")
    refuse(str(tmp_path / "a"), r"train.csv, which has 1 field\(s\) in line 2, but 2 in its header")
    write("b/train.jsonl", '{"x": 1}\n{"x": \n')
    refuse(str(tmp_path / "b"), "train.jsonl, whose line 2 is not JSON")


def test_a_folder_with_files_of_several_kinds_is_left_to_datasets(write, tmp_path):
    write("data/train.jsonl", '{"x": 1}\n')
    write("data/notes.csv", "no,data\n1\n")
    assert read(str(tmp_path / "data"), split="train") == {"x": [1]}


def test_a_folder_without_data_is_told_what_it_holds(write, tmp_path):
    (tmp_path / "none").mkdir()
    refuse(str(tmp_path / "none"), "none, which is empty. Name")
    write("photos/b/1.xyz", "x")
    write("photos/README.md", "x")
    refuse(str(tmp_path / "photos"), r"holds only README.md, b, b/1.xyz. Name a folder .* \.parquet, ")


def test_a_folder_whose_name_is_a_pattern_is_refused(write, tmp_path):
    write("data[1]/train.csv", "x\n1\n")
    refuse(str(tmp_path / "data[1]"), "opens no folder with .* in its path. Rename")


# --- the hub -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["nobody/nothing", "nothing"])
def test_a_hub_name_that_is_not_to_be_had_offline_is_named(path):
    refuse(path, f"is `{path}`, which is neither a file nor a folder here, and not to be had .*OfflineModeIsEnabled")


def test_an_unreachable_hub_is_said_at_once(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("mixcd.matter.prior_and_new_data.data_source.getproxies", dict)
    refuse("nobody/nothing", "neither a file nor a folder here, and the Hugging Face hub cannot be reached. Correct")


@pytest.mark.parametrize("proxied", [True, False])
def test_a_hub_that_can_be_reached_is_asked(monkeypatch, proxied):
    def find_nothing(*_):
        raise DatasetNotFoundError("it doesn't exist")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = 9 if proxied else server.getsockname()[1]
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(
            "mixcd.matter.prior_and_new_data.data_source.getproxies", lambda: {"https": "x"} if proxied else {"no": "x"}
        )
        monkeypatch.setattr(datasets, "get_dataset_split_names", find_nothing)
        refuse("nobody/nothing", "not to be had from the Hugging Face hub: it doesn't exist. Correct the path")


def test_a_hub_data_set_is_asked_for_by_subset_and_split(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *given: asked.append(given) or ["train", "test"])
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *given, **options: asked.append((given, options)) or Dataset.from_dict(ROWS)
    )
    assert read("glue", subset="sst2", split="test") == ROWS
    assert asked == [("glue", "sst2"), (("glue", "sst2"), {"split": "test", "keep_in_memory": False})]
    refuse("glue", "several splits: glue has `train`, `test`")
