"""The plan of a run whose rows hold several samples, or whose mix ratio is a share of the tokens."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import Module

from mixcd.ideas.batch_plan import BatchPlan
from mixcd.ideas.packing import FilledStep, Mixture, Pace, Packing, measure_pace
from mixcd.ideas.sampling_scheduler import Arrivals
from mixcd.matter.base_model.prior_predictions import PriorPredictions
from mixcd.matter.model_shape.model_limits import require_fitting, warn_of_positions
from mixcd.matter.prior_and_new_data.packed_rows import count_tokens, measure_samples
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.rehearsal_loop.row_kind import RowKind
from mixcd.words.errors import DataError, shorten
from mixcd.words.vocabulary import Ids


@dataclass(frozen=True, eq=False)
class RowTokens:
    """How long the rows are, in tokens that are no padding.

    Args:
        new: Of each new row, shape (new,).
        new_samples: How many samples each new row is observed with, shape (new,).
        prior: Of each prior sample, shape (prior,).
    """

    new: Ids
    new_samples: Ids
    prior: Ids


def measure_rows(
    kind: RowKind, new_data: Any, new_name: str, prior: PriorDataset, predictions: PriorPredictions, model: Module
) -> RowTokens:
    """Measure all rows once, and refuse those that are too long; prior samples were measured by the prior pass.

    Args:
        new_name: What messages call the new data.

    Raises:
        DataError: If a new row has a sample longer than the model's positions, or a prior sample fits in no pack.
    """
    new_tokens, prior_tokens = count_tokens(new_data), predictions.token_count_of(prior)
    samples, longest = measure_samples(new_data) if kind.told_apart else (np.ones_like(new_tokens), new_tokens)
    if kind.packed:
        require_fitting(model, longest.tolist(), np.arange(len(longest)), new_name)
        warn_of_positions(model, longest.tolist(), new_name)
    too_long = np.flatnonzero(prior_tokens > (kind.capacity or np.inf))
    if too_long.size:
        raise DataError(
            f"`{prior.name}` has {too_long.size} samples longer than a packed row of {kind.capacity} tokens, up to "
            f"{prior_tokens.max()} tokens: {shorten(too_long)}. Prior samples are packed whole. Truncate them, or "
            "raise `max_length`, which new rows are packed to."
        )
    return RowTokens(new_tokens, samples, prior_tokens.clip(1))


@dataclass(frozen=True, eq=False)
class PackedPlan:
    """Fills the blocks of a `BatchPlan` by the tokens of their rows.

    Args:
        plan: Deals rows out to the micro-batches, and says how many are prior where the mix ratio counts rows.
        new_samples: Samples that each new row holds, shape (new,).
    """

    plan: BatchPlan
    packing: Packing
    new_samples: Ids

    @cached_property
    def pace(self) -> Pace:
        """How many new rows and prior samples a step takes, about."""
        return measure_pace(self.packing, self.plan.seed, self._prior_row_count)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every new row has been seen; about, where the mix ratio counts tokens."""
        return self.plan.steps_per_epoch if self.plan.by_rows else self.pace.steps_per_epoch

    def fill(self, step: int, before: Mixture, arrivals: Arrivals) -> tuple[FilledStep, NDArray[Any], int]:
        """Fill a step's block.

        Args:
            before: What the steps before it were filled with.

        Returns:
            What the step holds; its rows, micro-batch after micro-batch, shape (block_size,): a number, or a tuple of
            numbers for a pack of prior samples; and how many samples will be observed, those of new rows, too.
        """
        plan, start = self.plan, before.new_row_count
        coming = plan.new_rows(start, start + plan.block_size)
        filled = self.packing.fill(before, coming, arrivals.sample_ids, self._prior_row_count(step))
        new_rows = coming[: filled.new_row_count]
        places = plan.deal(plan.new_count + np.arange(len(filled.packs)), new_rows)
        return (
            filled,
            self._name_rows(places, filled.packs),
            filled.drawn_count + int(self.new_samples[new_rows].sum()),
        )

    def _prior_row_count(self, step: int) -> int | None:
        return self.plan.prior_row_count(step) if self.plan.by_rows else None

    def _name_rows(self, places: Ids, packs: list[tuple[int, ...]]) -> NDArray[Any]:
        """Put the samples of each pack in the place where it stands."""
        first = self.plan.new_count
        if self.packing.capacity is None:
            samples = np.array([pack[0] for pack in packs], dtype=np.int64)
            return np.array([place if place < first else first + samples[place - first] for place in places])
        rows = np.empty(places.size, dtype=object)
        for at, place in enumerate(places.tolist()):
            rows[at] = place if place < first else tuple(first + sample_id for sample_id in packs[place - first])
        return rows


def make_packed_plan(plan: BatchPlan, kind: RowKind, tokens: RowTokens) -> PackedPlan:
    """Return the plan that fills a `BatchPlan`'s blocks by the tokens of their rows."""
    packing = Packing(plan.mix_ratio, plan.block_size, tokens.new, tokens.prior, kind.capacity)
    return PackedPlan(plan, packing, tokens.new_samples)
