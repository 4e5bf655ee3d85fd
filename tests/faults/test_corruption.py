"""Cache files that were altered, cut, swapped or made stale: refused by name, never read, and the others are kept."""

import hashlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixcd.matter.base_model import prediction_cache, prior_pass
from mixcd.matter.base_model.prior_predictions import PriorPredictions, predict_prior
from mixcd.words.errors import CacheError
from tiny import collate, make_model, make_rows

CORRUPTIONS = int(os.environ.get("MIXCD_FAULT_CORRUPTIONS", "60"))
SEED = int(os.environ.get("MIXCD_FAULT_SEED", "0"))
COLUMNS = ("topic",)
STALE = ("model", "data", "columns", "part size")


def predict(folder: Path, model, data, columns=COLUMNS, part_size=60, seed=0) -> PriorPredictions:
    return predict_prior(
        model, data, folder, collate_fn=collate, columns=columns, part_size=part_size, progress=False, seed=seed
    )


@pytest.fixture(scope="module")
def model(base_weights):
    made = make_model()
    made.load_state_dict(base_weights)
    return made


@pytest.fixture(scope="module")
def data():
    return make_rows(400, seed=1, task="prior")


@pytest.fixture(scope="module")
def clean(model, data, tmp_path_factory):
    """A complete cache."""
    folder = tmp_path_factory.mktemp("clean") / "cache"
    predict(folder, model, data)
    return folder


@pytest.fixture(scope="module")
def states(clean, model, data, tmp_path_factory):
    """Caches by state: complete, unfinished, and complete but killed before it was tidied up."""
    folder = tmp_path_factory.mktemp("states")
    interrupt(folder / "unfinished", model, data, parts=4)
    shutil.copytree(clean, folder / "untidy")
    for path in (folder / "unfinished").glob("*.sha256"):
        shutil.copy(path, folder / "untidy")
    return {"complete": clean, "unfinished": folder / "unfinished", "untidy": folder / "untidy"}


@pytest.fixture(scope="module")
def stale(model, base_weights, data, tmp_path_factory):
    """Caches made from something else, complete and unfinished, by what differs."""
    folder, other = tmp_path_factory.mktemp("stale"), make_model()
    other.load_state_dict({name: weight + 1e-3 for name, weight in base_weights.items()})
    ways = {
        "model": (other, data, COLUMNS, 60),
        "data": (model, make_rows(400, seed=9, task="prior"), COLUMNS, 60),
        "columns": (model, data, ("label",), 60),
        "part size": (model, data, COLUMNS, 61),
    }
    for name, way in ways.items():
        predict(folder / name / "complete", *way)
        interrupt(folder / name / "unfinished", *way[:2], parts=4, columns=way[2], part_size=way[3])
        shutil.copytree(folder / name / "complete", folder / name / "untidy")
        for path in (folder / name / "unfinished").glob("*.sha256"):
            shutil.copy(path, folder / name / "untidy")
    return folder


class KilledError(BaseException):
    """Stands for a kill."""


def interrupt(folder: Path, model, data, parts: int, **settings) -> None:
    """Make a cache of which only some parts were written."""
    write, written = prior_pass.write_part, []

    def write_some(*arguments):
        if len(written) == parts:
            raise KilledError
        written.append(arguments)
        write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior_pass, "write_part", write_some)
        with pytest.raises(KilledError):
            predict(folder, model, data, **settings)


Fault = Callable[[Path, random.Random, Path], str]


def flip_byte(path: Path, rng: random.Random, _stale: Path) -> str:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return path.name


def flip_bit(path: Path, rng: random.Random, _stale: Path) -> str:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path.name


def overwrite_run(path: Path, rng: random.Random, _stale: Path) -> str:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    length = min(rng.randrange(1, 4096), len(content) - start)
    content[start : start + length] = bytes(length) if rng.random() < 0.5 else rng.randbytes(length)
    path.write_bytes(content)
    return path.name


def truncate(path: Path, rng: random.Random, _stale: Path) -> str:
    length = rng.choice((0, rng.randrange(path.stat().st_size)))
    path.write_bytes(path.read_bytes()[:length])
    return path.name


def append(path: Path, rng: random.Random, _stale: Path) -> str:
    path.write_bytes(path.read_bytes() + rng.choice((b"\n", b" ", b"\0", rng.randbytes(rng.randrange(1, 99)))))
    return path.name


def swap(path: Path, rng: random.Random, _stale: Path) -> str:
    same_kind = [other for other in path.parent.glob(f"*{path.suffix}") if other != path]
    others = same_kind if same_kind and rng.random() < 0.8 else [one for one in list_files(path.parent) if one != path]
    other = rng.choice(others)
    mine, yours = path.read_bytes(), other.read_bytes()
    path.write_bytes(yours)
    other.write_bytes(mine)
    return f"{path.name} {other.name}"


def make_stale(path: Path, _rng: random.Random, stale: Path) -> str:
    shutil.copy(stale / path.name, path)
    return path.name


def make_pair_stale(path: Path, _rng: random.Random, stale: Path) -> str:
    """A part together with the checksum beside it."""
    names = [name for name in (f"{path.stem}.parquet", f"{path.stem}.sha256") if (path.parent / name).exists()]
    for name in names if path.name != "manifest.json" else [path.name]:
        shutil.copy(stale / name, path.parent / name)
    return " ".join(names or [path.name])


def delete(path: Path, _rng: random.Random, _stale: Path) -> str:
    path.unlink()
    return path.name


FAULTS: tuple[Fault, ...] = (
    flip_byte,
    flip_bit,
    overwrite_run,
    truncate,
    append,
    swap,
    make_stale,
    make_pair_stale,
    delete,
)


def list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != ".lock")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in list_files(folder)}


def is_harmless(state: str, fault: Fault, names: list[str]) -> bool:
    """Whether nothing needs to be refused, because what was lost is predicted anew or was not needed any more."""
    only_checksums = all(name.endswith(".sha256") for name in names)
    if state == "untidy":
        return only_checksums
    return state == "unfinished" and fault is delete and only_checksums


def assert_same_predictions(found: PriorPredictions, expected: PriorPredictions) -> None:
    for name in ("sample_ids", "loss", "correct", "prediction", "token_count"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name, values in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], values)


@pytest.mark.slow
def test_every_fault_is_refused_by_name_and_never_read(clean, states, stale, model, data, tmp_path, monkeypatch):
    rng, tally, read = random.Random(SEED), Counter(), []  # noqa: S311
    expected, whole = predict(clean, model, data), contents(clean)
    read_table = pq.read_table

    def read_and_note(source, *rest, **named):
        read.append(hashlib.sha256(source.getvalue() if isinstance(source, pa.Buffer) else source.read()).digest())
        source.seek(0)
        return read_table(source, *rest, **named)

    monkeypatch.setattr(prediction_cache.pq, "read_table", read_and_note)
    while tally["refused"] + tally["harmless"] < CORRUPTIONS:
        state = rng.choice(("complete", "unfinished", "unfinished", "untidy"))
        fault, way = rng.choice(FAULTS), rng.choice(STALE)
        folder = tmp_path / "cache"
        shutil.copytree(states[state], folder)
        before = contents(folder)
        path = rng.choice(list_files(folder))
        told = fault(path, rng, stale / way / state).split()
        after = contents(folder)
        names = sorted(name for name in before if after.get(name) != before[name])
        if names:
            about = (state, fault.__name__, way, told)
            read.clear()
            if is_harmless(state, fault, names):
                assert_same_predictions(predict(folder, model, data), expected)
                assert contents(folder) == whole, about
                tally["harmless"] += 1
            else:
                require_refused(folder, model, data, names, before, after, read, about)
                tally["refused"] += 1
            tally[f"{state} {fault.__name__}"] += 1
        else:
            tally["skipped: nothing changed"] += 1
        shutil.rmtree(folder)
    print(f"\n{CORRUPTIONS} corruptions (seed {SEED}): {dict(sorted(tally.items()))}")  # noqa: T201


def require_refused(folder, model, data, names, before, after, read, about) -> None:
    with pytest.raises(CacheError) as refused:
        predict(folder, model, data)
    message = str(refused.value)
    stems = {Path(name).stem for name in names}
    is_named = any(stem in message for stem in stems)
    is_stale = "manifest.json" in names and ("was made from another" in message or "part-000000" in message)
    assert is_named or is_stale, (about, message)  # a stale manifest that fits itself disowns every part
    altered = {hashlib.sha256(after[name]).digest() for name in names if name in after}
    assert not altered & set(read), about
    assert contents(folder) == after, (about, message)


def test_a_part_lost_in_an_unfinished_pass_is_predicted_anew(clean, states, model, data, tmp_path):
    expected = predict(clean, model, data)
    for lost in ([".parquet", ".sha256"], [".sha256"]):
        folder = shutil.copytree(states["unfinished"], tmp_path / "".join(lost))
        for ending in lost:
            (folder / f"part-000002{ending}").unlink()
        found = predict(folder, model, data)
        assert 0 < found.forward_count < expected.forward_count or expected.forward_count == 0
        assert_same_predictions(found, expected)
        assert contents(folder) == contents(clean)
