"""Opening tabular data, memory-mapped: files, saved folders, data sets of the Hugging Face hub; or saying why not."""

import csv
import glob
import json
import os
import socket
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import datasets
import pyarrow as pa
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from datasets.table import CastError
from pyarrow import parquet

from mixcd.words.errors import DataError, shorten
from mixcd.words.files import is_disk_fault, naming_file

KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
"""The suffixes that are read, and how: files of one kind may be given together."""
SEPARATORS = {"csv": ",", "tsv": "\t"}
ONLY_BLANKS_ARE_MISSING = {"keep_default_na": False, "na_values": [""]}
"""A text `None` or `NA` stays a text, while an empty cell is a missing value in text and number columns alike."""
_FAILURES = (DatasetsError, pa.ArrowException, OSError, ValueError, TypeError, LookupError, RuntimeError)


def open_data(
    path: str | Sequence[str], *, name: str, split: str | None = None, subset: str | None = None
) -> datasets.Dataset:
    """Open tabular data as a memory-mapped dataset.

    Nothing of the caller's is written or changed: what has to be converted goes to the cache of `datasets`.

    Args:
        path: A file, several files of one kind, a folder (saved by `datasets`, or holding data files), or the
            name of a data set on the Hugging Face hub. `~` is the home folder.
        split: Which split of a folder or of a hub data set; needed when there are several.
        subset: Which subset of a folder or of a hub data set.

    Returns:
        The rows, at least one.

    Raises:
        DataError: If there is nothing to read, it cannot be read, or it would be read wrongly.
    """
    paths = [os.path.expanduser(one) for one in ([path] if isinstance(path, str) else path)]
    if not all(paths) or not paths:
        raise DataError(f"`{name}` names no data. Name a file, several files, a folder, or a hub data set.")
    first = Path(paths[0])
    if not isinstance(path, str) or first.is_file() or _is_meant_locally(first, path):
        data = _open_files([Path(one) for one in paths], name, {"split": split, "subset": subset})
    elif _is_saved(first):
        _refuse_choices(name, "a saved folder", {"subset": subset})
        data = _open_saved(first, name, split)
    elif first.is_dir():
        data = _open_folder(first, name, split, subset)
    else:
        data = _open_hub(paths[0], name, split, subset)
    if not len(data):
        raise DataError(f"`{name}` has no rows in {shorten(paths)}, but at least one is needed. Name data with rows.")
    pa.default_memory_pool().release_unused()  # what reading and converting needed: as much as 10 % of the data
    return data


def make_rows(rows: Sequence[Mapping[str, Any]]) -> datasets.Dataset:
    """Make a dataset of rows in memory, equal to what `open_data` makes of the same rows as JSONL.

    A key of any row is a column, and a row without it has None there. Nested values that differ from row to row, such
    as the arguments of tools, stay as they are: no key is added to them.

    Example:
        >>> make_rows([{"a": 1}, {"b": {"x": 2}}, {"b": {"y": 3}}])[:]
        {'a': [1, None, None], 'b': [None, {'x': 2}, {'y': 3}]}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    filled = [{name: row.get(name) for name in names} for row in rows]  # `datasets` looks at the first row's keys only
    return datasets.Dataset.from_list(filled, on_mixed_types="use_json")


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _is_meant_locally(path: Path, written: str) -> bool:
    if path.is_dir():
        return path.suffix.lower() in KINDS and not _is_saved(path)
    known = path.suffix.lower() in KINDS
    return known or written[0] in "./~" or written.count("/") > 1 or bool(path.suffix and path.parent.is_dir())


def _refuse_choices(name: str, what: str, choices: Mapping[str, str | None]) -> None:
    for option, value in choices.items():
        if value is not None:
            raise DataError(f"`{name}` names {what}, which has no {option} `{value}`. Leave `{option}` out.")


def _open_files(files: Sequence[Path], name: str, choices: Mapping[str, str | None]) -> datasets.Dataset:
    for file in files:
        _require_file(file, name)
    _refuse_choices(name, "a file", choices)
    kinds = {KINDS[file.suffix.lower()] for file in files}
    if len(kinds) > 1:
        raise DataError(
            f"`{name}` mixes files of different kinds: {', '.join(sorted(kinds))}. One data set is read from files of "
            "one kind. Convert them to one kind."
        )
    kind = kinds.pop()
    _check_contents(files, kind, name)
    options: dict[str, Any] = {"sep": SEPARATORS[kind], **ONLY_BLANKS_ARE_MISSING} if kind in SEPARATORS else {}
    names = [glob.escape(str(file.absolute())) for file in files]  # `datasets` takes a name for a pattern
    return _load(
        lambda: datasets.load_dataset(
            "csv" if kind in SEPARATORS else kind, data_files=names, split="train", keep_in_memory=False, **options
        ),
        files,
        name,
        shorten(files),
    )


def _open_saved(folder: Path, name: str, split: str | None) -> datasets.Dataset:
    if next(folder.rglob("*.arrow"), None) is None:
        raise DataError(f"`{name}` is the saved folder {folder}, which has no rows. Name one with `*.arrow` files.")
    saved = _load(lambda: datasets.load_from_disk(str(folder), keep_in_memory=False), [], name, str(folder))
    if not isinstance(saved, datasets.DatasetDict):
        _refuse_choices(name, "a single saved data set", {"split": split})
        return saved
    return saved[_choose_split(list(saved), split, name, str(folder))]


def _open_folder(folder: Path, name: str, split: str | None, subset: str | None) -> datasets.Dataset:
    held = sorted(path.relative_to(folder) for path in folder.rglob("*") if not path.name.startswith("."))
    files = [folder / path for path in held if path.suffix.lower() in KINDS and (folder / path).is_file()]
    if not files:
        raise DataError(
            f"`{name}` is the folder {folder}, which {f'holds only {shorten(held)}' if held else 'is empty'}. Name a "
            f"folder saved by `datasets`, or one with data files: {', '.join(KINDS)}."
        )
    if glob.has_magic(str(folder.absolute())):
        raise DataError(
            f"`{name}` is the folder {folder}, but `datasets` opens no folder with `*`, `?` or `[` in its path. Rename "
            "it, or name its files."
        )
    kinds = {KINDS[file.suffix.lower()] for file in files}
    if len(kinds) == 1:  # otherwise `datasets` decides which of the files are data
        _check_contents(files, next(iter(kinds)), name)
    options = ONLY_BLANKS_ARE_MISSING if kinds <= set(SEPARATORS) else {}
    subsets = _load(lambda: datasets.get_dataset_config_names(str(folder)), files, name, str(folder))
    subset = subset or datasets.get_dataset_default_config_name(str(folder))
    if subset not in subsets:
        raise DataError(
            f"`{name}` has {f'no subset `{subset}`' if subset else 'several subsets'}: {folder} has "
            f"{shorten((f'`{one}`' for one in subsets), 20)}. Name one of these as `subset`."
        )
    return _open_by_name(str(folder), files, name, split, subset, options)


def _open_hub(path: str, name: str, split: str | None, subset: str | None) -> datasets.Dataset:
    place = f"`{name}` is `{path}`, which is neither a file nor a folder here, "
    if not datasets.config.HF_HUB_OFFLINE and not reach_hub():
        raise DataError(
            f"{place}and the Hugging Face hub cannot be reached. Correct the path; connect to the network; or set "
            "HF_HUB_OFFLINE=1 to use a copy that was downloaded earlier."
        )
    try:
        return _open_by_name(path, [], name, split, subset, {})
    except DataError as error:
        if isinstance(error.__cause__, DatasetNotFoundError | ConnectionError | FileNotFoundError):
            raise DataError(
                f"{place}and not to be had from the Hugging Face hub: {_reason_of(error.__cause__)}. Correct the path, "
                "or download the data set first."
            ) from error.__cause__
        raise


def reach_hub() -> bool:
    """Say quickly whether the Hugging Face hub can be reached; its client would try for half a minute."""
    if {"http", "https", "all"} & set(getproxies()):
        return True
    url = urlsplit(datasets.config.HF_ENDPOINT)
    port = url.port or {"http": 80}.get(url.scheme, 443)
    try:
        socket.create_connection((url.hostname or "", port), timeout=10).close()
    except OSError:
        return False
    return True


def _open_by_name(
    path: str, files: Sequence[Path], name: str, split: str | None, subset: str | None, options: dict[str, Any]
) -> datasets.Dataset:
    splits = _load(lambda: datasets.get_dataset_split_names(path, subset, **options), files, name, path)
    chosen = _choose_split(splits, split, name, path)
    return _load(
        lambda: datasets.load_dataset(path, subset, split=chosen, keep_in_memory=False, **options), files, name, path
    )


def _choose_split(splits: Sequence[str], split: str | None, name: str, path: str) -> str:
    if split in splits:
        return str(split)
    listed = shorten((f"`{one}`" for one in splits), 20)
    if split is not None:
        raise DataError(f"`{name}` has no split `{split}`: {path} has {listed}. Name one of these as `split`.")
    if len(splits) != 1:
        raise DataError(f"`{name}` has several splits: {path} has {listed}. Name one of these as `split`.")
    return splits[0]


def _load(load: Callable[[], Any], files: Sequence[Path], name: str, what: str) -> Any:
    try:
        with naming_file(Path(datasets.config.HF_DATASETS_CACHE)):
            return load()
    except _FAILURES as error:
        if isinstance(error, OSError) and is_disk_fault(error):
            raise
        for file in files:
            if KINDS[file.suffix.lower()] == "json":
                _require_objects(file, name)
        advice = " so that all rows have the same columns, and each column values of one kind" if files else ""
        raise DataError(
            f"`{name}` cannot be read from {what}: {_reason_of(error)}. Repair the data{advice}, or name others."
        ) from error


def _reason_of(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = error.details() if isinstance(error, CastError) else str(error) or type(error).__name__
    return textwrap.shorten(text, 300).rstrip(".!?")


def _require_file(file: Path, name: str) -> None:
    if file.is_dir():
        raise DataError(f"`{name}` names {file}, which is a folder, but a file is needed there. Name a file in it.")
    if not file.exists():
        raise DataError(f"`{name}` names {file}, but there is no such file or folder. Correct the path.")
    if file.suffix.lower() not in KINDS:
        raise DataError(
            f"`{name}` names {file}, but files `*{file.suffix}` are not read. Convert it to one of these: "
            f"{', '.join(KINDS)}."
        )
    try:
        with file.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise DataError(
            f"`{name}` names {file}, which cannot be read: {error.strerror or error}. Make it readable."
        ) from error
    if empty:
        raise DataError(f"`{name}` names {file}, which is empty. Name a file with rows.")


def _check_contents(files: Sequence[Path], kind: str, name: str) -> None:
    """Find what `datasets` and pyarrow would read wrongly without a word, or refuse without saying in which line."""
    for file in files:
        if kind in SEPARATORS:
            _check_table(file, name, SEPARATORS[kind])
        elif kind == "json":
            _require_rows(sum(1 for line in _read_lines(file, name) if line.strip()), file, name)
        else:
            try:
                _require_rows(parquet.read_metadata(file).num_rows, file, name)
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"`{name}` names {file}, which is no Parquet file, or a damaged one: {_reason_of(error)}. Write it "
                    "again."
                ) from error


def _require_rows(count: int, file: Path, name: str) -> None:
    if not count:
        raise DataError(f"`{name}` names {file}, which has no rows. Name a file with rows.")


def _read_lines(file: Path, name: str) -> Iterator[str]:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"`{name}` names {file}, which is not UTF-8 in line {number}: {error.reason} (byte "
                    f"0x{line[error.start]:02x}). Convert it to UTF-8."
                ) from error


def _check_table(file: Path, name: str, separator: str) -> None:
    records = _read_records(file, name, separator)
    _, header = next(records, (0, []))
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        raise DataError(
            f"`{name}` names {file}, whose header has a column twice: {shorten((f'`{one}`' for one in repeated), 20)}. "
            "Give every column its own name."
        )
    count = 0
    for count, (line, record) in enumerate(records, start=1):  # noqa: B007
        if len(record) != len(header):
            raise DataError(
                f"`{name}` names {file}, which has {len(record)} field(s) in line {line}, but {len(header)} in its "
                "header. Give every row as many fields, and quote those that hold a separator or a line end."
            )
    _require_rows(count, file, name)


def _read_records(file: Path, name: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank, and the number of the line it starts in."""
    reader = csv.reader(_read_lines(file, name), delimiter=separator, strict=True)
    longest = csv.field_size_limit(2**31 - 1)  # of the whole process, so it is put back
    start = 1
    try:
        for record in reader:
            if record:
                yield start, record
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"`{name}` names {file}, whose row from line {start} on is no CSV: {error}. Correct its quotes "
            "and line ends."
        ) from error
    finally:
        csv.field_size_limit(longest)


def _require_objects(file: Path, name: str) -> None:
    lines = _read_lines(file, name)
    whole = file.suffix.lower() == ".json" and next(lines).lstrip().startswith("[")
    texts = ["".join(_read_lines(file, name))] if whole else _read_lines(file, name)
    for number, text in enumerate(texts, start=1):
        try:
            value = json.loads(text) if text.strip() else {}
        except ValueError as error:
            if number == 1 and _is_one_object(file, name):
                raise DataError(
                    f"`{name}` names {file}, which is a single object, but rows are needed: a list of objects, or an "
                    "object on every line. Name a file with rows."
                ) from error
            line = getattr(error, "lineno", 1) if whole else number
            raise DataError(
                f"`{name}` names {file}, whose line {line} is not JSON: {getattr(error, 'msg', error)}. Correct it."
            ) from error
        if whole:
            _require_rows(len(value), file, name)
        elif not isinstance(value, dict):
            raise DataError(
                f"`{name}` names {file}, whose line {number} is of type {type(value).__name__}, but every row is an "
                "object (`{…}`). Correct it."
            )


def _is_one_object(file: Path, name: str) -> bool:
    try:
        return isinstance(json.loads("".join(_read_lines(file, name))), dict)
    except ValueError:
        return False
