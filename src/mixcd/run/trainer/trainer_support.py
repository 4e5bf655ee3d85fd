"""Which trainers rehearsal can follow, and which data they may be given."""

import logging
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer

from mixcd.matter.base_model.batched_inference import collate
from mixcd.matter.base_model.require_apart import require_cache_off
from mixcd.matter.correctness import (
    CorrectnessRule,
    RightClass,
    TokenRule,
    choose_common_rule,
    choose_rule,
    require_one_target,
)
from mixcd.matter.correctness.reading import LABEL_KEYS
from mixcd.matter.correctness.right_class import require_known_labels
from mixcd.matter.model_shape.model_limits import require_fixed_masks, require_padding
from mixcd.matter.prior_and_new_data.label_names import count_classes, require_same_numbers
from mixcd.matter.prior_and_new_data.packed_rows import SEQ_LENGTHS, unpack_rows
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.matter.prior_and_new_data.split_choice import choose_held_out
from mixcd.matter.prior_and_new_data.streamed_rows import StreamedRows
from mixcd.run.outcome.held_out import name_held_out
from mixcd.run.trainer.followed_trainers import require_followed
from mixcd.run.trainer.sft_trainer import (
    expect_fused_head,
    is_sft_trainer,
    prepare_raw,
    require_same_targets,
    warn_of_dropped,
)
from mixcd.run.trainer.trained_targets import require_targets, warn_of_other_format, warn_of_weights
from mixcd.run.trainer.trainer_packing import require_whole_samples
from mixcd.words.errors import AlreadyAttachedError, DataError, UnsupportedTrainerError

logger = logging.getLogger(__name__)

SHADOWED = ("get_train_dataloader", "training_step")
"""The public methods that are replaced on the instance."""


def require_supported(trainer: Trainer) -> None:
    """Refuse a trainer that rehearsal cannot follow, before anything is computed.

    Raises:
        AlreadyAttachedError: If it rehearses already, or something else shadows the same methods.
        UnsupportedTrainerError: If it is of a kind that is not followed, or its settings order, split, pack or hide
            the rows; says which.
    """
    require_followed(trainer)
    require_whole_samples(trainer)
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
    joins = getattr(args, "padding_free", False) or getattr(trainer, "padding_free", False)
    parallel = trainer.get_cp_size() > 1 or trainer.get_sp_size() > 1
    for refused, setting, reason, cure in (
        (strategy != "random", f'train_sampling_strategy="{strategy}"', "orders the rows itself", 'Use "random"'),
        (dispatches, "`dispatch_batches` or `split_batches`", "splits batches after they are drawn", "Turn them off"),
        (
            joins and (not is_sft_trainer(trainer) or getattr(args, "pad_to_multiple_of", None)),
            "`padding_free=True`" + (" with `pad_to_multiple_of`" if is_sft_trainer(trainer) else ""),
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


def warn_of_settings(trainer: Trainer) -> None:
    """Say once, on the first process, what was never run with rehearsal, and what makes damage look larger."""
    if not trainer.is_world_process_zero():
        return
    untested = {
        "FSDP": trainer.is_fsdp_enabled,
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "quantised weights": getattr(trainer.model, "is_quantized", False),
    }
    for name in (name for name, used in untested.items() if used):
        logger.warning(
            "Rehearsal with %s is untested. Every step still checks that the rows observed are the rows planned, and "
            "stops if they are not. Compare a short run with one on plain data-parallel processes first.",
            name,
        )
    if trainer.state.global_step:
        logger.warning(
            "This trainer has trained for %d steps already. The model as it is now counts as the base model, so what "
            "these steps damaged is not seen. To measure or prevent it, call `attach` before `train()`.",
            trainer.state.global_step,
        )
    if getattr(trainer.args, "neftune_noise_alpha", None):
        logger.warning(
            "`neftune_noise_alpha` adds noise to embeddings in training, so up to a third of the rehearsed samples can "
            "look damaged that are not (`benchmarks/noise.py`). `evaluate()` is made without it. Leave it out while "
            "damage rates are to be read, or measure them by `probe=mixcd.Probe(64)`."
        )


def warn_of_generation(trainer: Trainer, rule: CorrectnessRule) -> None:
    """Say when evaluation decodes in another way than the rule, which judges by what greedy decoding would give."""
    if not isinstance(rule, TokenRule) or not getattr(trainer.args, "predict_with_generate", False):
        return
    model: Any = trainer.model
    settings = getattr(trainer.args, "generation_config", None) or getattr(model, "generation_config", None)
    beams = getattr(trainer.args, "generation_num_beams", None) or getattr(settings, "num_beams", None) or 1
    for used, what in ((beams > 1, f"{beams} beams"), (bool(getattr(settings, "do_sample", False)), "sampling")):
        if used:
            logger.warning(
                "Evaluation generates with %s, but a prior sample is right by what greedy decoding would give: scores "
                "of generated text may move differently from the damage that is counted. Use greedy decoding to "
                "compare the two.",
                what,
            )


def require_alike(
    trainer: Trainer,
    prior: PriorDataset,
    correctness: CorrectnessRule | str | None,
    stream: StreamedRows | None = None,
) -> CorrectnessRule:
    """Refuse new data that are missing or mislabelled, and prior data that are prepared differently.

    Args:
        stream: The new data where they are a stream, of which the first rows are looked at.

    Raises:
        DataError: If data are empty, not map-style, unlabelled, of other tasks or with other model inputs than each
            other, have labels outside the model's classes, or number label names in another order; or if the
            tokenizer cannot pad.
        SettingError: If the rule is none, or contradicts the model, or a regression was given none.
        UnsupportedTrainerError: If the labels fit no task that is known, or the collator masks at random.
    """
    if trainer.train_dataset is None:
        raise DataError(
            "`trainer.train_dataset` is None, but rehearsal mixes new data with prior. Give the trainer one."
        )
    warn_of_dropped(trainer)
    model = cast(torch.nn.Module, trainer.model)
    new_data = trainer.train_dataset if stream is None else stream.first_rows
    new = PriorDataset(new_data, "trainer.train_dataset")
    require_padding(trainer.data_collator)
    require_fixed_masks(trainer.data_collator)
    batches = [_first_batch(trainer, data) for data in (new, prior)]
    rule = expect_fused_head(trainer, choose_common_rule(correctness, model, *batches))
    require_targets(trainer, new_data, rule)
    warn_of_weights(trainer, rule, batches[0][1])
    if not is_sft_trainer(trainer):  # which trains without a cache whatever the model is set to
        require_cache_off(model, prior, collator_of(trainer, prior))
    require_same_numbers(model, new, prior)
    class_count = count_classes(model, new[0])
    label_key = next((key for key in LABEL_KEYS if key in new.column_names), None)
    readable = [new] if isinstance(new_data, Dataset | list) else []
    readable += [prior] if len(prior.features()) == max(1, len(prior.set_names)) else []  # columns, read at once
    if isinstance(rule, RightClass) and class_count and label_key:
        for data in readable:
            require_known_labels(data.column(label_key), np.arange(len(data)), class_count, data.name)
    if is_sft_trainer(trainer) and "labels" in new.column_names:
        require_same_targets(new, prior)
    warn_of_other_format(trainer, rule, new, prior)
    return rule


def hides_logits(trainer: Trainer, rule: CorrectnessRule) -> bool:
    """Whether a trainer is known to train without logits of tokens: by Liger's fused loss."""
    fused = (getattr(trainer.args, "liger_kernel_config", None) or {}).get("fused_linear_cross_entropy", True)
    return isinstance(rule, TokenRule) and not rule.is_fused and trainer.args.use_liger_kernel and fused


def _first_batch(trainer: Trainer, data: PriorDataset) -> tuple[str, Mapping[str, Any]]:
    """Return what messages call some data, and a batch of their first row."""
    row = data[0]
    require_one_target(row, cast(torch.nn.Module, trainer.model), data.name)
    return data.name, collate(collator_of(trainer, data), [row])


def rule_of(trainer: Trainer, data: PriorDataset, correctness: CorrectnessRule | str | None = None) -> CorrectnessRule:
    """Return the rule that judges predictions on some data: the caller's, or what model and labels are made for."""
    batch = collate(collator_of(trainer, data), [data[0]])
    return expect_fused_head(trainer, choose_rule(correctness, cast(torch.nn.Module, trainer.model), batch, data.name))


def collect_held_out(
    trainer: Trainer, held_out: Any, prior: PriorDataset | None, column_names: tuple[str, ...]
) -> dict[str, PriorDataset]:
    """Collect the held-out data of both tasks.

    Args:
        trainer: The trainer; its `eval_dataset`, when it is one dataset, is the new task's.
        prior: The prior data that are rehearsed, whose targets those held out must have, too; None where that was seen.

    Returns:
        The data by task, "prior" and "new"; none where no prior data are held out.

    Raises:
        DataError: If the data are empty, not map-style, lack a column, or have targets where prior data are masked.
    """
    if held_out is not None:
        held_out = prepare_raw(trainer, choose_held_out(held_out, "held_out"), "held_out")
        if prior is not None and is_sft_trainer(trainer) and "labels" in prior.column_names:
            require_same_targets(prior, PriorDataset(held_out, "held_out"))
    new: Any = None if isinstance(trainer.eval_dataset, Mapping) else trainer.eval_dataset
    if SEQ_LENGTHS in (getattr(new, "column_names", None) or ()):
        new = unpack_rows(new)  # samples are judged one by one
    return name_held_out(held_out, new, "trainer.eval_dataset", column_names)


def collator_of(trainer: Trainer, data: Any) -> Any:
    """Return the collator that evaluation would use: it drops the columns that the model does not take."""
    return trainer.get_test_dataloader(data).collate_fn
