"""Predictions made the way a trainer makes them: its model, special tokens, collator, precision and batch size."""

from typing import Any, cast

from numpy.typing import NDArray
from torch.nn import Module
from transformers import PreTrainedTokenizerBase, ProcessorMixin, Trainer
from transformers.trainer_utils import align_special_tokens

from mixcd.matter.base_model.inference import Inference
from mixcd.matter.correctness import CorrectnessRule
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.rehearsal_loop.shared_arrays import processes_of
from mixcd.run.trainer.trainer_support import collator_of


def inference_of(trainer: Trainer, data: PriorDataset, rule: CorrectnessRule) -> Inference:
    """Return how the trainer's model, as it is now, predicts prepared rows; its processes share a prior pass."""
    return Inference(
        aligned_model(trainer),
        data,
        rule,
        collator_of(trainer, data),
        trainer.args.eval_batch_size,
        trainer.processing_class,
        processes_of(trainer.accelerator),
        not trainer.args.disable_tqdm,
        trainer.accelerator.autocast,
    )


def predict_now(trainer: Trainer, data: PriorDataset, rule: CorrectnessRule) -> dict[str, NDArray[Any]]:
    """Predict with the trainer's model as it is, without a cache.

    Returns:
        Arrays `loss`, `correct` and others, as `predict_rows` returns them, each of shape (samples,).
    """
    return inference_of(trainer, data, rule).predict_all()


def aligned_model(trainer: Trainer) -> Module:
    """Return the trainer's model, without wrappers, that takes the same tokens for padding as in training.

    `Trainer.train` gives the model's config the tokenizer's special tokens; what predicts before must do so, too.
    """
    model: Any = trainer.model
    if isinstance(trainer.processing_class, PreTrainedTokenizerBase | ProcessorMixin) and hasattr(model, "config"):
        align_special_tokens(model, trainer.processing_class)  # type: ignore[no-untyped-call]
    return cast(Module, model)
