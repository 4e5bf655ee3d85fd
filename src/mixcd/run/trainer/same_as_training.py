"""What the base model is judged on is what training and evaluation see: checked, and refused where it is not."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Trainer

from mixcd.matter.base_model.batched_inference import collate, evaluating
from mixcd.matter.base_model.model_fingerprint import describe_settings
from mixcd.matter.base_model.prior_predictions import PriorPredictions
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.fine_tuned_model.head_reader import HeadReader, read_pass
from mixcd.matter.model_shape.joined_rows import mark_own
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.trainer_predictions import aligned_model, inference_of
from mixcd.run.trainer.trainer_support import collator_of
from mixcd.words.errors import CacheError, UnsupportedTrainerError
from mixcd.words.vocabulary import Flags, Floats, Ids

logger = logging.getLogger(__name__)

_CHECKED_ROWS = 4
_TOLERANCE, _TOLERANCE_IN_16_BITS = 1e-3, 0.1
"""How far two losses of one model on one row may lie apart, as a share of 1 nat more than they are."""


def require_same_predictions(
    trainer: Trainer, data: PriorDataset, predictions: PriorPredictions, rule: CorrectnessRule
) -> None:
    """Refuse base predictions that the trainer itself would not make: its own step predicts a few rows.

    The shortest rows and the longest are predicted alone, by `trainer.prediction_step` and as the prior pass does.
    Rows whose predictions depend on the padding beside them are warned of. Nothing of the trainer is changed.

    Raises:
        UnsupportedTrainerError: If the trainer's step predicts differently from the prior pass.
        CacheError: If the cache holds other predictions than the model makes.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.warning("The model is sharded, so its predictions were not compared with the trainer's own.")
        return
    if predictions.false_damage_rate is not None:
        return  # rows are other rows each time, which was warned of
    order = np.argsort(predictions.token_count, kind="stable")
    places = np.unique(np.concatenate([order[: _CHECKED_ROWS // 2], order[-_CHECKED_ROWS // 2 :]]))
    ids, cached = predictions.sample_ids[places], predictions.loss[places]
    check = OwnStep(trainer, data, rule)
    with evaluating(check.model), trainer.accelerator.autocast(), _metrics_kept(trainer):
        alone = np.concatenate([check.predict(ids[n : n + 1]) for n in range(len(ids))])
        together = check.predict(ids)
        own = [check.predict_by_trainer(row) for row in data.rows(ids.tolist())]
    _require_own(check, ids, alone, [[loss for loss, _ in passes] for passes in own])
    if check.differ(alone, together).any():
        logger.warning(
            "What the model predicts for a row depends on the padding beside it: %s in a batch with longer rows. Such "
            "rows can look damaged without training. Pad on the side that the model was trained with, and mask "
            "padding.",
            check.say(ids, alone, together),
        )
    elif check.differ(alone, cached).any():
        raise CacheError(
            f"The cache holds other predictions than the model makes: {check.say(ids, cached, alone)}. Its weights are "
            "the cache's, so its config differs, or its code. Choose a new folder for the cache to predict again."
        )


@dataclass(frozen=True)
class OwnStep:
    """Predicts rows as the prior pass does, and by the trainer's own step."""

    trainer: Trainer
    data: PriorDataset
    rule: CorrectnessRule

    @property
    def model(self) -> torch.nn.Module:
        """The model, with the tokenizer's special tokens."""
        return aligned_model(self.trainer)

    def predict(self, sample_ids: Ids) -> NDArray[Any]:
        """Predict samples in one batch, as the prior pass does; return their losses, shape (samples,)."""
        inference = replace(inference_of(self.trainer, self.data, self.rule), batch_size=len(sample_ids))
        return inference.predict(sample_ids, at_once=True)[0]["loss"]

    def predict_by_trainer(self, row: Any) -> list[tuple[float, bool]]:
        """Predict a row by the trainer's own step; return loss and correctness of each pass it makes with the model."""
        batch: Any = dict(collate(collator_of(self.trainer, self.data), [row]))
        targets = self.rule.find_targets(mark_own(batch, 1), self.data.name)
        seen: list[tuple[float, bool]] = []

        def read(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            reading = read_pass(self.rule, output, targets, head)
            seen.append((float(reading.loss[0]), bool(reading.correct[0])))

        head = HeadReader(self.model)
        hook = self.model.register_forward_hook(read)
        try:
            only_loss = not getattr(self.trainer.args, "use_liger_kernel", False)  # which then builds no logits
            with head.watch():
                self.trainer.prediction_step(self.model, batch, prediction_loss_only=only_loss)
        except Exception as error:  # a loss of the user's own may need what there is in training only
            logger.warning("`prediction_step` of `%s` fails before training: %r.", type(self.trainer).__name__, error)
            return []
        finally:
            hook.remove()
        return seen

    def differ(self, one: Floats, other: Floats) -> Flags:
        """Say which losses lie further apart than rounding explains, shape (rows,)."""
        is_coarse = "float16" in describe_settings(self.model) or torch.get_float32_matmul_precision() != "highest"
        share = _TOLERANCE_IN_16_BITS if is_coarse else _TOLERANCE  # "bfloat16" holds "float16", too
        return np.asarray(abs(one - other) > share * (1 + abs(one)))

    def say(self, sample_ids: Ids, one: Floats, other: Floats) -> str:
        """Say for the first sample whose losses differ what they are."""
        first = int(np.flatnonzero(self.differ(one, other))[0])
        return f"on sample {sample_ids[first]} a loss of {one[first]:.4g}, and {other[first]:.4g}"


def _require_own(check: OwnStep, sample_ids: Ids, alone: Floats, own: Sequence[Sequence[float]]) -> None:
    if not all(own):
        logger.warning(
            "The trainer's own step shows no predictions of a row, so they were not compared with the cache."
        )
        return
    nearest = np.array(
        [min(losses, key=lambda loss: abs(loss - ours)) for losses, ours in zip(own, alone, strict=True)]
    )
    if check.differ(alone, nearest).any():
        raise UnsupportedTrainerError(
            "The model predicts differently when the trainer calls it than when it gets the batch alone: "
            f"{check.say(sample_ids, nearest, alone)}. So `prediction_step` or `compute_loss` of "
            f"`{type(check.trainer).__name__}` changes the batch or the model, and the base model cannot be judged as "
            "training is. Prepare the rows so in the data or the collator."
        )


@contextmanager
def _metrics_kept(trainer: Trainer) -> Iterator[None]:
    """TRL's trainers average over all their predictions since the last log: these few are not to count."""
    kept = deepcopy(vars(trainer).get("_metrics"))
    try:
        yield
    finally:
        if kept is not None:
            vars(trainer)["_metrics"] = kept
