"""`Inference`: a model's predictions on some of its data, as every pass makes them that trains nothing."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mixcd.matter.base_model.batched_inference import (
    Collate,
    batch_by_tokens,
    collate,
    count_inputs,
    count_padded,
    evaluating,
    predict_batch,
    put_results,
    read_groups,
)
from mixcd.matter.base_model.head_features import watch_head
from mixcd.matter.correctness import CorrectnessRule, choose_rule
from mixcd.matter.model_shape.model_limits import require_fitting, require_fixed_masks
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.vocabulary import Flags, Ids, Observation, TokenChange

CompareTokens = Callable[[Ids, Sequence[Flags]], TokenChange]
"""Says of samples, and of which of their target tokens are right now, what became of these since the base model."""


@dataclass(frozen=True)
class Processes:
    """The processes that share a prior pass.

    Args:
        rank: This one's number, from 0.
        wait: Returns when all of them have called it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], object] = lambda: None


ONE_PROCESS = Processes()


@dataclass(frozen=True)
class Inference:
    """How a model predicts some data: the base model, or the one in training as it is now.

    Args:
        batch_size: Rows a batch at the length of the longest row.
        tokenizer: What made the rows of texts; None where it is not known.
        processes: Who shares the work of a prior pass.
        progress: Whether a prior pass shows a progress bar with the time left.
        autocast: Makes the block in which the model computes as in training.
    """

    model: torch.nn.Module
    data: PriorDataset
    rule: CorrectnessRule
    collate_fn: Collate
    batch_size: int
    tokenizer: Any = None
    processes: Processes = ONE_PROCESS
    progress: bool = False
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def checked(self) -> "Inference":
        """Return this with its rule as `choose_rule` fits it to the data, after a look at the first row.

        A collator that masks at random is refused.
        """
        require_fixed_masks(self.collate_fn)
        batch = collate(self.collate_fn, [self.data[0]])
        return replace(self, rule=choose_rule(self.rule, self.model, batch, self.data.name))

    def predict(
        self,
        sample_ids: Ids,
        *,
        at_once: bool = False,
        advance: Callable[[int], object] = lambda _: None,
        look: Callable[[Ids, list[Any], Mapping[str, NDArray[Any]]], object] = lambda *_: None,
        with_head_input: bool = False,
    ) -> tuple[dict[str, NDArray[Any]], int]:
        """Predict some samples without gradients; the model's training mode is put back.

        Args:
            at_once: Whether all are sorted by length together, not in groups that fit in memory, but for images.
            advance: Called with the number of samples done after each batch.
            look: Called with the ids, the rows and the results of each group.
            with_head_input: Whether the input of the model's head is wanted, too, and class logits where there are any.

        Returns:
            Arrays as `predict_rows` returns them, and the forward passes made.
        """
        arrays: dict[str, NDArray[Any]] = {}
        first = forward_count = 0
        with evaluating(self.model), self.autocast():
            for ids, rows in read_groups(self.data, sample_ids, self.batch_size, at_once=at_once):
                found, count = self.predict_rows(ids, rows, advance, with_head_input)
                look(ids, rows, found)
                put_results(arrays, slice(first, first + len(ids)), found, len(sample_ids))
                first, forward_count = first + len(ids), forward_count + count
        return arrays, forward_count

    def predict_rows(
        self, sample_ids: Ids, rows: list[Any], advance: Callable[[int], object], with_head_input: bool
    ) -> tuple[dict[str, NDArray[Any]], int]:
        """Predict some rows in the model's mode, sorted by length so that little is spent on padding.

        Returns:
            Arrays `loss`, `correct` and `token_count`, in classification also `prediction`, in language models also
            `share_right` and `right_tokens` (which target tokens of each row are right), where a sample may lack a
            target also `has_target`, each of shape (rows,) in the order of the rows, and if wanted `head_input` and
            `logits`, shape (rows, …); and the number of forward passes.

        Raises:
            DataError: If the rows have no labels, labels that the model cannot predict, or more tokens than it takes.
            UnsupportedTrainerError: If the model's output shows no predictions.
        """
        arrays: dict[str, NDArray[Any]] = {}
        forward_count = 0
        require_fitting(self.model, [max(count_inputs(row), default=0) for row in rows], sample_ids, self.data.name)
        with watch_head(self.model) if with_head_input else nullcontext() as head_inputs:
            for places in batch_by_tokens([count_padded(row) for row in rows], self.batch_size):
                together = [rows[place] for place in places]
                batch, ids, name = collate(self.collate_fn, together), sample_ids[places], self.data.name
                found = predict_batch(self.model, self.rule, batch, together, ids, name, head_inputs)
                put_results(arrays, places, found, len(rows))
                forward_count += 1
                advance(places.size)
        return arrays, forward_count

    def predict_all(self) -> dict[str, NDArray[Any]]:
        """Predict all samples at once, and return arrays as `predict_rows` does."""
        return self.predict(np.arange(len(self.data)), at_once=True)[0]

    def observe(
        self, sample_ids: Ids, compare: CompareTokens | None = None, with_logits: bool = False
    ) -> tuple[Observation, int]:
        """Observe some samples by fresh inference; return the observation, and the forward passes made.

        Args:
            compare: Compares target tokens with the base model's, where damage is counted by token.
        """
        found, forward_count = self.predict(sample_ids, at_once=True, with_head_input=with_logits)
        logits = found["logits"].astype(np.float64) if with_logits else None
        tokens = compare(sample_ids, found["right_tokens"].tolist()) if compare else None
        loss = found["loss"].astype(np.float64)
        return Observation(sample_ids, found["correct"], loss, logits, tokens), forward_count


Infer = Callable[[PriorDataset], Inference]
"""Returns how a model, as it is when this is called, predicts some data."""
