"""A comparison as JSON values: everything that it shows, all bins included."""

import math
from dataclasses import asdict
from typing import Any

from mixcd.edge.compare.comparison import MOST_SHOWN, Comparison, SampleDamage
from mixcd.edge.compare.verdict import judge_damage, judge_rehearsal
from mixcd.run.outcome.run_folder import change_to_json


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values; what is not known is null.

    Returns:
        Values by name; `damaged_share` and its interval are less what guessing explains, `change` is as counted.
    """
    return {
        "verdict": judge_damage(comparison),
        "rehearsal": judge_rehearsal(comparison),
        "is_damaged": comparison.is_damaged,
        "tolerance": comparison.tolerance,
        "choices": comparison.choices,
        "dtype": comparison.dtype,
        "damaged_by_chance": comparison.damaged_by_chance,
        "damaged_share": comparison.damaged_share,
        "damaged_interval": comparison.damaged_interval,
        "change": change_to_json(comparison.change),
        "partitions": [
            {
                "name": partition.name,
                "lift": {
                    name: value if math.isfinite(value) else None for name, value in asdict(partition.lift).items()
                },
                "bins": [{"name": one.name, **change_to_json(one.change)} for one in partition.bins],
            }
            for partition in comparison.partitions
        ],
        "most_damaged": [_sample_to_json(sample) for sample in comparison.most_damaged[:MOST_SHOWN]],
        "notes": list(comparison.notes),
    }


def _sample_to_json(sample: SampleDamage) -> dict[str, Any]:
    """A damaged sample; `damage`, `answer` and `now` are there in language models."""
    values = asdict(sample)
    of_tokens = ("damage", "answer", "now") if sample.damage is None else ()
    return {name: value for name, value in values.items() if name not in of_tokens}
