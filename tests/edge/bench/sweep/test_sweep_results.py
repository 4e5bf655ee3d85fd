import errno

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from frontier_rows import make_row, make_sweep
from mixcd.edge.bench.sweep.sweep_results import RESULTS_FORMAT, RESULTS_SCHEMA, read_results, run_key, write_results
from mixcd.words.errors import DataError


def refusal(path):
    with pytest.raises(DataError) as failure:
        read_results(path)
    return str(failure.value)


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [*make_sweep(), make_row(method="none", mix_ratio=0.0, lift=None)]
    write_results(tmp_path / "toy.parquet", rows)
    assert read_results(tmp_path / "toy.parquet") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["toy.parquet"]


def test_no_rows_are_a_results_file_too(tmp_path):
    write_results(tmp_path / "toy.parquet", [])
    assert read_results(tmp_path / "toy.parquet") == []


def test_the_file_says_its_format(tmp_path):
    write_results(tmp_path / "toy.parquet", make_sweep())
    schema = pq.read_schema(tmp_path / "toy.parquet")
    assert schema.metadata[b"mixcd_results_format"] == str(RESULTS_FORMAT).encode()
    assert schema.remove_metadata().equals(RESULTS_SCHEMA)


@pytest.mark.parametrize("version", ["3", "0", ""])
def test_results_of_another_version_are_refused(tmp_path, version):
    schema = RESULTS_SCHEMA.with_metadata({b"mixcd_results_format": version.encode()})
    path = tmp_path / "toy.parquet"
    pq.write_table(pa.Table.from_pylist(make_sweep(), schema=schema), path)
    assert refusal(path) == (
        f"`{path}` has results format {version or 'none'}, but this version of mixcd reads format 2. Results of "
        "different versions are not mixed. Run the sweep again into another file, or use the version that wrote it."
    )


def test_results_with_other_columns_are_refused(tmp_path):
    schema = RESULTS_SCHEMA.with_metadata({b"mixcd_results_format": b"2"})
    table = pa.Table.from_pylist(make_sweep(), schema=schema)
    for changed in (table.drop_columns(["lift"]), table.append_column("more", [[1] * len(table)])):
        pq.write_table(changed, tmp_path / "toy.parquet")
        assert "has results format 2, but this version of mixcd reads format 2" in refusal(tmp_path / "toy.parquet")


def test_the_first_format_is_read_still(tmp_path):
    rows = make_sweep()
    names = [name for name in RESULTS_SCHEMA.names if name != "measures"]
    schema = pa.schema([RESULTS_SCHEMA.field(name) for name in names])
    old = pa.Table.from_pylist(rows, schema=schema.with_metadata({b"mixcd_results_format": b"1"}))
    pq.write_table(old, tmp_path / "old.parquet")
    assert read_results(tmp_path / "old.parquet") == rows


def test_other_parquet_files_are_refused(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "toy.parquet")
    assert "has results format none" in refusal(tmp_path / "toy.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"text", "half"])
def test_what_is_no_parquet_file_is_refused(tmp_path, content):
    path = tmp_path / "toy.parquet"
    if content == "half":
        write_results(path, make_sweep())
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"`{path}` cannot be read as a results file: ")
    assert message.endswith(" It must be what `mixcd sweep` wrote. Check the path, or run the sweep.")


def test_no_file_and_a_folder_are_refused(tmp_path):
    assert "cannot be read as a results file" in refusal(tmp_path / "nope.parquet")
    assert "cannot be read as a results file" in refusal(tmp_path)


def test_a_row_without_a_value_that_must_be_there_is_not_written(tmp_path):
    write_results(tmp_path / "toy.parquet", make_sweep())
    before = (tmp_path / "toy.parquet").read_bytes()
    with pytest.raises((pa.ArrowInvalid, ValueError)):
        write_results(tmp_path / "toy.parquet", [{**make_row(), "prior_after_test": None}])
    assert (tmp_path / "toy.parquet").read_bytes() == before


def test_a_full_disk_leaves_the_results_of_before(tmp_path, monkeypatch):
    path = tmp_path / "toy.parquet"
    write_results(path, make_sweep(seeds=1))
    before = read_results(path)

    def fill_disk(table, unfinished, **_):
        unfinished.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    monkeypatch.setattr(pq, "write_table", fill_disk)
    with pytest.raises(OSError, match="No space left on device") as failure:
        write_results(path, make_sweep(seeds=2))
    assert failure.value.filename == str(path)
    assert read_results(path) == before
    assert [one.name for one in tmp_path.iterdir()] == ["toy.parquet"]


def test_runs_are_told_apart_by_method_mix_ratio_and_seed():
    rows = [make_row(), make_row(wise_ft=0.5), make_row(seed=4), make_row(mix_ratio=0.5)]
    assert run_key(rows[0]) == (rows[0]["method"], rows[0]["mix_ratio"], rows[0]["seed"])
    assert len({run_key(row) for row in rows}) == 3
