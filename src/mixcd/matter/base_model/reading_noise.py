"""Rows that are other rows each time they are read, as under random augmentation: what that alone does to damage."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from mixcd.matter.base_model.batched_inference import Collate, collate
from mixcd.matter.base_model.prediction_cache import Manifest, read_manifest, read_parts, write_manifest
from mixcd.matter.base_model.prior_pass import PriorPass
from mixcd.matter.correctness.reading import apply_tolerance
from mixcd.matter.prior_and_new_data.fingerprint import find_differing, spaced_rows
from mixcd.matter.prior_and_new_data.fixed_random_numbers import fixed_random_numbers
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.keyed_random import Stream, choose_distinct

REREAD_SAMPLES = 256
"""Samples that are read again, of those that the base model had right."""

logger = logging.getLogger(__name__)


def reads_at_random(data: PriorDataset, collate_fn: Collate) -> bool:
    """Whether the model is given other inputs each time the same rows are read: some are read and collated thrice."""
    return bool(find_differing(lambda: [collate(collate_fn, spaced_rows(data))], (0, 1, 2)))


def note_false_damage(prior_pass: PriorPass, folder: Path, manifest: Manifest) -> tuple[Manifest, int]:
    """Measure once how many samples look damaged only because they are read again; keep it in the cache's manifest.

    Nothing is measured where rows are the same each time.

    Returns:
        The manifest with what was found, and the forward passes made.
    """
    inference = prior_pass.inference
    forward_count, is_first = 0, inference.processes.rank == 0
    if is_first and manifest.false_damage_rate is None and reads_at_random(inference.data, inference.collate_fn):
        rate, forward_count = _measure(prior_pass, folder, manifest)
        write_manifest(folder, replace(manifest, false_damage_rate=rate))
    inference.processes.wait()
    noted = read_manifest(folder) or manifest
    if is_first and noted.false_damage_rate:
        logger.warning(
            "The rows of `%s` differ each time they are read: a transform (`with_transform`), the dataset or the "
            "collator draws random numbers. Of the samples that the base model has right, about %.1f %% are wrong when "
            "they are read again, without any training: that much of the damage is noise. Give these rows the "
            "transform of evaluation, which draws nothing; new rows may keep theirs. If the collator draws, let the "
            "transform of the new rows do so instead.",
            inference.data.name,
            100 * noted.false_damage_rate,
        )
    return noted, forward_count


def _measure(prior_pass: PriorPass, folder: Path, manifest: Manifest) -> tuple[float, int]:
    """Read some samples that are right again; return the share that is wrong now, and the forward passes made."""
    table = pa.concat_tables(part.select(["sample_id", "correct", "loss"]) for part in read_parts(folder, manifest))
    sample_ids, correct, loss = (column.to_numpy() for column in table.columns)
    right = np.flatnonzero(correct)
    if not right.size:
        return 0.0, 0
    chosen = right[choose_distinct(manifest.seed, 0, Stream.SECOND_READINGS, REREAD_SAMPLES, among=right.size)]
    with fixed_random_numbers(manifest.seed):
        found, forward_count = prior_pass.predict_some(sample_ids[chosen])
    still_right = apply_tolerance(prior_pass.inference.rule, found["correct"], found["loss"], loss[chosen])
    return float(1 - still_right.mean()), forward_count
