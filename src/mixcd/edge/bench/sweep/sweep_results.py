"""The results of a sweep: one Parquet file, one row a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from mixcd.words.errors import DataError
from mixcd.words.files import replace_file

RESULTS_FORMAT = 2
_FORMAT_KEY = b"mixcd_results_format"

_COLUMNS = {
    "task": pa.string(),
    "method": pa.string(),
    "mix_ratio": pa.float64(),  # β; 0 without rehearsal
    "seed": pa.int64(),
    "wise_ft": pa.float64(),  # share of the fine-tuned weights; 1 for the run itself
    **{  # accuracy on held-out data, of the base model before and of the run's model after; of texts, of tokens
        f"{task}_{when}_{half}": pa.float64()
        for half in ("validation", "test")
        for task in ("prior", "new")
        for when in ("before", "after")
    },
    "damaged_validation": pa.float64(),  # share of held-out prior samples damaged; of texts, their mean damage
    "damaged_test": pa.float64(),
    "observed_count": pa.int64(),  # rehearsed samples over all steps
    "damaged_count": pa.int64(),  # those of them found damaged, of texts summed; yield = damaged / observed
    "lift": pa.float64(),  # noise-corrected, of the bins; null without rehearsal
    "steps": pa.int64(),
    "extra_compute": pa.float64(),  # scoring passes, as a share of training; charged
    "is_charged": pa.bool_(),  # False for oracles: their passes cost them no steps
    "forward_count": pa.int64(),
    "prior_pass_forward_count": pa.int64(),
    "seconds": pa.float64(),  # of training
    "settings": pa.string(),  # JSON: the method's and the trainer's settings
    "provenance": pa.string(),  # JSON: versions, hardware, sources, when
    "measures": pa.string(),  # JSON: what else the task measures, before and after
}
RESULTS_SCHEMA = pa.schema([pa.field(name, kind, nullable=name == "lift") for name, kind in _COLUMNS.items()])
_FIRST_SCHEMA = RESULTS_SCHEMA.remove(RESULTS_SCHEMA.get_field_index("measures"))
"""Format 1, which is still read."""
NO_MEASURES = '{"after": {}, "before": {}}'


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a results file.

    Returns:
        One mapping a row, keyed like `RESULTS_SCHEMA`.

    Raises:
        DataError: If it is no results file, or one of another version.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"`{path}` cannot be read as a results file: {error}. It must be what `mixcd sweep` wrote. Check the path, "
            "or run the sweep."
        ) from error
    stored = (table.schema.metadata or {}).get(_FORMAT_KEY, b"").decode()
    schema = table.schema.remove_metadata()
    if stored == "1" and schema.equals(_FIRST_SCHEMA):
        return [{**row, "measures": NO_MEASURES} for row in table.to_pylist()]
    if stored != str(RESULTS_FORMAT) or not schema.equals(RESULTS_SCHEMA):
        raise DataError(
            f"`{path}` has results format {stored or 'none'}, but this version of mixcd reads format {RESULTS_FORMAT}. "
            "Results of different versions are not mixed. Run the sweep again into another file, or use the version "
            "that wrote it."
        )
    return cast(list[dict[str, Any]], table.to_pylist())


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a results file; readers see the old file or the new one.

    Args:
        rows: One mapping a row, keyed like `RESULTS_SCHEMA`.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    schema = RESULTS_SCHEMA.with_metadata({_FORMAT_KEY: str(RESULTS_FORMAT).encode()})
    table = pa.Table.from_pylist(list(rows), schema=schema)
    with replace_file(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")


def run_key(row: Mapping[str, Any]) -> tuple[str, float, int]:
    """What tells the runs of one results file apart: method, mix ratio, seed."""
    return str(row["method"]), float(row["mix_ratio"]), int(row["seed"])
