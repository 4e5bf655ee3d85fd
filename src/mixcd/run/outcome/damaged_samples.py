"""The held-out prior samples that were damaged, as reports list them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_predictions import PriorPredictions
from mixcd.run.outcome.evaluation import MOST_ROWS, DamagedSample
from mixcd.run.outcome.sample_texts import DamagedText, describe_damaged, text_of
from mixcd.words.vocabulary import Floats, Ids

_RIGHT_TOKENS = "right_tokens"


def list_damaged(
    now: Inference, before: PriorPredictions, after: Mapping[str, NDArray[Any]], bin_names: Sequence[str]
) -> list[DamagedSample]:
    """List the held-out samples that were damaged.

    In language models the worst come first, and the worst `MOST_ROWS` are described in full, at the cost of a forward
    pass over those.

    Args:
        now: How the fine-tuned model predicts the samples.
        after: What it predicted, as `predict_rows` returns it.
        bin_names: Each sample's bin, shape (samples,).
    """
    damage = _grade(before, after)
    lost = before.correct & ~after["correct"]
    damaged = np.flatnonzero(damage > 0 if now.rule.is_graded and damage is not None else lost)
    if damage is not None:
        damaged = damaged[np.argsort(-damage[damaged], kind="stable")]
    told = _describe(now, before, after, damaged[:MOST_ROWS])
    rows = now.data.rows(damaged.tolist())
    return [
        DamagedSample(
            sample_id=int(sample_id),
            bin_name=bin_names[int(sample_id)],
            label=None if before.prediction is None else int(before.prediction[sample_id]),
            prediction=None if "prediction" not in after else int(after["prediction"][sample_id]),
            text=told[place].prompt if place < len(told) else text_of(row, now.tokenizer),
            damage=None if damage is None else float(damage[sample_id]),
            answer=told[place].answer if place < len(told) else (),
            now=told[place].now if place < len(told) else None,
        )
        for place, (sample_id, row) in enumerate(zip(damaged, rows, strict=True))
    ]


def _grade(before: PriorPredictions, after: Mapping[str, NDArray[Any]]) -> Floats | None:
    """The damage of each sample by its tokens; None where it has none."""
    if before.right_tokens is None or _RIGHT_TOKENS not in after:
        return None
    return before.compare_tokens(before.sample_ids, after[_RIGHT_TOKENS].tolist()).damage


def _describe(
    now: Inference, before: PriorPredictions, after: Mapping[str, NDArray[Any]], sample_ids: Ids
) -> list[DamagedText]:
    bits = before.right_tokens
    if bits is None or _RIGHT_TOKENS not in after or now.tokenizer is None:
        return []
    right = [bits[place] for place in sample_ids.tolist()]  # held-out data are predicted whole: ids are places
    return describe_damaged(now, sample_ids, right, after[_RIGHT_TOKENS][sample_ids].tolist())
