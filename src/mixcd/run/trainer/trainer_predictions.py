"""Predictions made the way a trainer makes them: its model, special tokens, collator, precision and batch size."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch.nn import Module
from transformers import PreTrainedTokenizerBase, ProcessorMixin, Trainer
from transformers.trainer_utils import align_special_tokens

from mixcd.matter.base_model.batched_inference import evaluating, predict_rows
from mixcd.matter.base_model.prior_pass import PriorPass, Processes
from mixcd.matter.base_model.prior_predictions import PriorPredictions, predict_prior
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.trainer_support import collator_of
from mixcd.words.vocabulary import Ids, Observation


def predict_with_trainer(
    trainer: Trainer,
    data: PriorDataset,
    folder: Path,
    columns: tuple[str, ...],
    least_share_right: float,
    rule: CorrectnessRule,
    features: int = 0,
) -> PriorPredictions:
    """Predict with the trainer's model as it is, or read the cache; the trainer's processes share the work.

    Args:
        trainer: The trainer.
        data: Prepared rows.
        folder: The cache's folder.
        columns: Columns of the data to store beside the predictions.
        least_share_right: The share of right predictions below which they are refused.
        rule: Says which predictions are right.
        features: Features to cache; 0 for none.

    Returns:
        The predictions.

    Raises:
        RehearsalError: Whatever `predict_prior` raises.
    """
    prior_pass = prior_pass_of(trainer, data, rule)
    with trainer.accelerator.autocast():
        return predict_prior(
            prior_pass.model,
            data,
            folder,
            collate_fn=prior_pass.collate_fn,
            correctness=rule,
            tokenizer=trainer.processing_class,
            batch_size=prior_pass.batch_size,
            columns=columns,
            progress=prior_pass.progress,
            least_share_right=least_share_right,
            processes=prior_pass.processes,
            features=features,
        )


def prior_pass_of(trainer: Trainer, data: PriorDataset, rule: CorrectnessRule) -> PriorPass:
    """Return a pass over some data with the trainer's model, collator, batch size and processes.

    Args:
        trainer: The trainer.
        data: Prepared rows.
        rule: Says which predictions are right.

    Returns:
        The pass, not yet run.
    """
    args, accelerator = trainer.args, trainer.accelerator
    return PriorPass(
        aligned_model(trainer),
        data,
        collator_of(trainer, data),
        args.eval_batch_size,
        not args.disable_tqdm,
        rule,
        Processes(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone),
    )


def predict_now(trainer: Trainer, data: PriorDataset, rule: CorrectnessRule) -> dict[str, NDArray[Any]]:
    """Predict with the trainer's model as it is, without a cache.

    Args:
        trainer: The trainer.
        data: Prepared rows.
        rule: Says which predictions are right.

    Returns:
        Arrays `loss`, `correct` and others, as `predict_rows` returns them, each of shape (samples,).
    """
    model = aligned_model(trainer)
    with evaluating(model), trainer.accelerator.autocast():
        predicted, _ = predict_rows(
            model,
            data.rows(range(len(data))),
            np.arange(len(data)),
            rule=rule,
            collate_fn=collator_of(trainer, data),
            batch_size=trainer.args.eval_batch_size,
            data_name=data.name,
        )
    return predicted


def observe_now(
    trainer: Trainer, data: PriorDataset, sample_ids: Ids, rule: CorrectnessRule, with_logits: bool
) -> tuple[Observation, int]:
    """Observe some samples by fresh inference with the trainer's model as it is.

    Args:
        trainer: The trainer.
        data: Prepared rows.
        sample_ids: Which of them, shape (observed,).
        rule: Says which predictions are right.
        with_logits: Whether the class logits are wanted, too.

    Returns:
        The observation, and the number of forward passes.
    """
    model = aligned_model(trainer)
    with evaluating(model), trainer.accelerator.autocast():
        predicted, forward_count = predict_rows(
            model,
            data.rows(sample_ids.tolist()),
            sample_ids,
            rule=rule,
            collate_fn=collator_of(trainer, data),
            batch_size=trainer.args.eval_batch_size,
            data_name=data.name,
            with_head_input=with_logits,
        )
    logits = predicted["logits"].astype(np.float64) if with_logits else None
    observation = Observation(sample_ids, predicted["correct"], predicted["loss"].astype(np.float64), logits)
    return observation, forward_count


def aligned_model(trainer: Trainer) -> Module:
    """Return the trainer's model, without wrappers, that takes the same tokens for padding as in training.

    `Trainer.train` gives the model's config the tokenizer's special tokens; what predicts before must do so, too.

    Args:
        trainer: The trainer; one without a model has refused to be built.
    """
    model: Any = trainer.model
    if isinstance(trainer.processing_class, PreTrainedTokenizerBase | ProcessorMixin) and hasattr(model, "config"):
        align_special_tokens(model, trainer.processing_class)  # type: ignore[no-untyped-call]
    return cast(Module, model)
