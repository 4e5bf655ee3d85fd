"""A pass of a comparison: what one model gets right, row by row; read from a prediction cache where there is one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from mixcd.matter.base_model.batched_inference import Collate
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_predictions import predict_prior
from mixcd.matter.base_model.require_apart import require_apart
from mixcd.matter.base_model.token_bits import TokenBits, compare_tokens, pack_samples
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.vocabulary import Flags, Floats, Ids, TokenChange, require_finite_losses


@dataclass(frozen=True)
class Outcomes:
    """What one model made of the samples.

    Args:
        sample_ids: The samples, ascending, shape (samples,).
        correct: Whether it got each right, shape (samples,).
        loss: Its loss on each, shape (samples,).
        prediction: The class it predicted, shape (samples,); None where predictions are no class.
        share_right: The share of each one's target tokens that it predicted, NaN without any, shape (samples,); None
            where there are no target tokens.
        right_tokens: Which target tokens of each it predicted; None likewise.
        has_target: Whether each has a target that a model could predict, shape (samples,); None where all have.
    """

    sample_ids: Ids
    correct: Flags
    loss: Floats
    prediction: Ids | None
    share_right: Floats | None
    right_tokens: TokenBits | None
    has_target: Flags | None

    @property
    def untargeted_count(self) -> int:
        """Samples without a target that a model could predict, which nobody gets right."""
        return 0 if self.has_target is None else int((~self.has_target).sum())


@dataclass(frozen=True)
class ComparisonPass:
    """How both models are run.

    Args:
        batch_size: Rows a batch at the length of the longest row.
    """

    data: PriorDataset
    rule: CorrectnessRule
    batch_size: int
    progress: bool

    def predict(self, model: torch.nn.Module, sample_ids: Ids, collate_fn: Collate, owner: str) -> Outcomes:
        """Run a model over some samples; nothing is written.

        Args:
            sample_ids: The samples, ascending, shape (samples,).
            owner: What messages call the model.

        Raises:
            DataError: If rows have no labels, labels that the model cannot predict, or losses that are not finite.
            UnsupportedTrainerError: If the model's output shows no predictions.
        """
        inference = Inference(model, self.data, self.rule, collate_fn, self.batch_size)
        require_apart(inference)
        with tqdm(total=len(sample_ids), desc=owner.lower(), disable=not self.progress or None) as bar:
            found, _ = inference.predict(
                sample_ids,
                advance=bar.update,
                look=lambda ids, _, part: require_finite_losses(ids, part["loss"], owner),
            )
        bits = pack_samples(found["right_tokens"].tolist()) if "right_tokens" in found else None
        prediction, share_right, has_target = (found.get(name) for name in ("prediction", "share_right", "has_target"))
        loss = found["loss"].astype(np.float64)
        return Outcomes(sample_ids, found["correct"], loss, prediction, share_right, bits, has_target)

    def read_or_predict(
        self, model: torch.nn.Module, cache_dir: str | Path, collate_fn: Collate, tokenizer: Any
    ) -> Outcomes:
        """Read what the base model predicted from its cache, and predict what the cache lacks.

        Args:
            cache_dir: The cache's folder, made if it is missing.
            tokenizer: Fingerprinted, so that a cache made with another one is refused.
        """
        made = predict_prior(
            model,
            self.data,
            cache_dir,
            collate_fn=collate_fn,
            correctness=self.rule,
            tokenizer=tokenizer,
            batch_size=self.batch_size,
            progress=self.progress,
            least_share_right=0.0,
        )
        optional = (made.prediction, made.share_right, made.right_tokens, made.has_target)
        return Outcomes(made.sample_ids, made.correct, made.loss, *optional)


def compare_outcomes_by_token(before: Outcomes, after: Outcomes) -> TokenChange | None:
    """Say what became of the target tokens of the same samples; None where there are none.

    Raises:
        DataError: If a sample has another number of target tokens for each model.
    """
    if before.right_tokens is None or after.right_tokens is None:
        return None
    places = np.arange(len(before.sample_ids))
    now = [after.right_tokens[place] for place in places.tolist()]
    return compare_tokens(before.right_tokens, places, now, before.sample_ids)
