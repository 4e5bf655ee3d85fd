"""Which trainers rehearsal can follow, and which data they may be given."""

import logging
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import Trainer

from mixcd.batched_inference import collate
from mixcd.classification_output import LABEL_KEYS, find_labels, require_known_labels
from mixcd.errors import AlreadyAttachedError, DataError, UnsupportedTrainerError, shorten
from mixcd.prior_dataset import PriorDataset

logger = logging.getLogger(__name__)

SHADOWED = ("get_train_dataloader", "training_step")
"""The public methods that are replaced on the instance."""


def require_supported(trainer: Trainer) -> None:
    """Refuse a trainer that rehearsal cannot follow, before anything is computed.

    Args:
        trainer: The trainer.

    Raises:
        AlreadyAttachedError: If it rehearses already, or something else shadows the same methods.
        UnsupportedTrainerError: If its settings order, split, pack or hide the rows; says which setting.
    """
    shadowed = [name for name in SHADOWED if name in vars(trainer)]
    if shadowed:
        raise AlreadyAttachedError(
            f"This trainer's `{shadowed[0]}` is already replaced on the instance, by an earlier `attach` or by other "
            "code. One rehearsal a trainer is supported. Call `detach()` on the earlier one, or build a new trainer."
        )
    args = trainer.args
    loader_settings = args.accelerator_config
    dispatches = getattr(loader_settings, "dispatch_batches", None) or getattr(loader_settings, "split_batches", False)
    strategy = args.train_sampling_strategy
    parallel = trainer.get_cp_size() > 1 or trainer.get_sp_size() > 1
    for refused, setting, reason, cure in (
        (strategy != "random", f'train_sampling_strategy="{strategy}"', "orders the rows itself", 'Use "random"'),
        (dispatches, "`dispatch_batches` or `split_batches`", "splits batches after they are drawn", "Turn them off"),
        (getattr(args, "packing", False), "`packing=True`", "mixes samples in one row", "Pass `packing=False`"),
        (
            getattr(args, "padding_free", False) or getattr(trainer, "padding_free", False),
            "`padding_free=True`",
            "joins a batch's samples in one row",
            "Pass `padding_free=False`",
        ),
        (parallel, "context or sequence parallelism", "splits a sample over processes", "Turn it off"),
        (
            args.restore_callback_states_from_checkpoint,
            "`restore_callback_states_from_checkpoint=True`",
            "replaces rehearsal's callback on resume",
            "Leave it off: rehearsal restores its own state",
        ),
    ):
        if refused:
            raise UnsupportedTrainerError(
                f"The trainer uses {setting}, which {reason}; rehearsal cannot follow. {cure}."
            )


def warn_if_untested(trainer: Trainer) -> None:
    """Say once, on the first process, that a way of splitting the model was never run with rehearsal.

    Args:
        trainer: The trainer.
    """
    untested = {"FSDP": trainer.is_fsdp_enabled, "DeepSpeed": trainer.is_deepspeed_enabled}
    for name in (name for name, used in untested.items() if used and trainer.is_world_process_zero()):
        logger.warning(
            "Rehearsal under %s is untested. Every step still checks that the rows observed are the rows planned, and "
            "stops if they are not. Compare a short run with one on plain data-parallel processes first.",
            name,
        )


def require_alike(trainer: Trainer, prior: PriorDataset) -> None:
    """Refuse new data that are missing or mislabelled, and prior data that are prepared differently.

    Args:
        trainer: The trainer, with its new data.
        prior: The prior data.

    Raises:
        DataError: If data are empty, not map-style, unlabelled, have other model inputs than each other, or
            labels outside the model's classes.
    """
    if trainer.train_dataset is None:
        raise DataError(
            "`trainer.train_dataset` is None, but rehearsal mixes new data with prior. Give the trainer one."
        )
    new = PriorDataset(trainer.train_dataset, "trainer.train_dataset")
    new_batch, prior_batch = (collate(collator_of(trainer, data), [data[0]]) for data in (new, prior))
    find_labels(new_batch, new.name)
    find_labels(prior_batch, prior.name)
    different = set(new_batch) ^ set(prior_batch)
    if different:
        raise DataError(
            f"The model would be given other inputs for prior than for new samples: "
            f"{shorten((f'`{name}`' for name in sorted(different)), 20)} comes from one of them only. Prepare "
            "`prior_data` exactly like `trainer.train_dataset`."
        )
    class_count = getattr(getattr(trainer.model, "config", None), "num_labels", None)
    label_key = next((key for key in LABEL_KEYS if key in new.column_names), None)
    if class_count and label_key and isinstance(trainer.train_dataset, Dataset | list):
        require_known_labels(new.column(label_key), np.arange(len(new)), class_count, new.name)


def collator_of(trainer: Trainer, data: Any) -> Any:
    """Return the collator that evaluation would use: it drops the columns that the model does not take.

    Args:
        trainer: The trainer.
        data: The data to be collated.

    Returns:
        The collator.
    """
    return trainer.get_test_dataloader(data).collate_fn
