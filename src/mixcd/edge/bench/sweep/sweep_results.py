"""The results of a sweep: one Parquet file, one row a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixcd.words.errors import DataError
from mixcd.words.files import replace_file

RESULTS_FORMAT = 2
_FORMAT_KEY = b"mixcd_results_format"

_SCORES = [
    pa.field(f"{task}_{when}_{half}", pa.float64(), nullable=False)
    for half in ("validation", "test")
    for task in ("prior", "new")
    for when in ("before", "after")
]

RESULTS_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("mix_ratio", pa.float64(), nullable=False),  # β; 0 without rehearsal
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("wise_ft", pa.float64(), nullable=False),  # share of the fine-tuned weights; 1 for the run itself
        *_SCORES,  # accuracy on held-out data, of the base model before and of the run's model after
        pa.field("damaged_validation", pa.float64(), nullable=False),  # share of held-out prior samples damaged
        pa.field("damaged_test", pa.float64(), nullable=False),
        pa.field("observed_count", pa.int64(), nullable=False),  # rehearsed samples over all steps
        pa.field(
            "damaged_count", pa.int64(), nullable=False
        ),  # those of them found damaged; yield = damaged / observed
        pa.field("lift", pa.float64()),  # noise-corrected, of the bins; null without rehearsal
        pa.field("steps", pa.int64(), nullable=False),
        pa.field("extra_compute", pa.float64(), nullable=False),  # scoring passes, as a share of training; charged
        pa.field("is_charged", pa.bool_(), nullable=False),  # False for oracles: their passes cost them no steps
        pa.field("forward_count", pa.int64(), nullable=False),
        pa.field("prior_pass_forward_count", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),  # of training
        pa.field("settings", pa.string(), nullable=False),  # JSON: the method's and the trainer's settings
        pa.field("provenance", pa.string(), nullable=False),  # JSON: versions, hardware, sources, when
        pa.field("measures", pa.string(), nullable=False),  # JSON: what else the task measures, before and after
    ]
)
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
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


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
