"""`mixcd partition`: what a partition makes of a prediction cache."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.table import Table

from mixcd.ideas.partition_strategy import parse_partition
from mixcd.matter.base_model.flat_array import open_array
from mixcd.matter.base_model.prediction_cache import Manifest, array_path, read_manifest, read_parts
from mixcd.words.errors import CacheError, SettingError, shorten
from mixcd.words.vocabulary import PriorTable


def make_partition_table(cache: Path, texts: Sequence[str]) -> Table:
    """Cut the samples of a cache into bins.

    Args:
        texts: The partition, such as "loss:10" or "column:topic"; several are combined.

    Returns:
        One row a bin: name, size, mean loss of the base model in nats, share it got right.

    Raises:
        SettingError: If a text is no partition, or names a column that the cache does not hold.
        CacheError: If there is no complete cache, or it was altered.
    """
    strategy = parse_partition(texts)
    manifest = _require_cache(cache)
    missing = [name for name in strategy.column_names if name not in manifest.columns]
    if missing:
        raise SettingError(
            f"The cache `{cache}` has no column `{missing[0]}`; it has "
            f"{shorten((f'`{name}`' for name in manifest.columns), 20) or 'none of the data'}. Name it in "
            "`rehearsal.cache_columns` and predict into a new cache."
        )
    names = ["loss", "correct", *strategy.column_names]
    rows = pa.concat_tables(part.select(names) for part in read_parts(cache, manifest))
    loss, correct = rows["loss"].to_numpy(), rows["correct"].to_numpy()
    columns = {name: rows[name].to_numpy() for name in strategy.column_names}
    features = open_array(array_path(cache, "features")) if "features" in manifest.arrays else None
    bins = strategy.assign(PriorTable(loss.astype(np.float64), columns, features))
    sizes = bins.bin_sizes
    table = Table("bin", title=f"{' × '.join(texts)}: {sizes.sum():,} samples in {bins.bin_count} bins")
    for heading in ("size", "mean loss", "share right"):
        table.add_column(heading, justify="right")
    mean_losses = np.bincount(bins.bin_ids, weights=loss, minlength=bins.bin_count) / sizes
    shares_right = np.bincount(bins.bin_ids, weights=correct, minlength=bins.bin_count) / sizes
    for name, size, mean_loss, share_right in zip(bins.bin_names, sizes, mean_losses, shares_right, strict=True):
        table.add_row(name, f"{size:,}", f"{mean_loss:.3f}", f"{share_right:.1%}")
    return table


def _require_cache(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None or not manifest.parts:
        what = "does not exist" if not folder.exists() else "holds no complete cache"
        raise CacheError(
            f"`{folder}` {what}. A partition is tried on what the base model predicted. Run `mixcd predict` first."
        )
    return manifest
