"""`compare`: two models over the same prior samples, at the cost of two forward passes over them.

In language models one more shows what the fine-tuned model says where the samples that are listed are damaged.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mixcd.edge.compare.columns import bin_losses, choose_columns
from mixcd.edge.compare.comparison import (
    PRIOR_LOSS,
    TOLERANCE,
    Comparison,
    SampleDamage,
    compare_outcomes,
    rank_damaged,
    require_settings,
)
from mixcd.edge.compare.models import Model, ModelPair, open_models
from mixcd.edge.compare.passes import ComparisonPass, Outcomes, compare_outcomes_by_token
from mixcd.edge.compare.samples import Preparation, open_samples, renumber_labels
from mixcd.edge.compare.texts import read_gold, read_text
from mixcd.edge.config.data_config import ColumnsConfig
from mixcd.matter.base_model.batched_inference import Collate, collate
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.base_model.prior_predictions import LEAST_SHARE_RIGHT, halve_by_tokens
from mixcd.matter.correctness import CorrectnessRule, RightClass, RightLabels, choose_rule
from mixcd.matter.correctness.reading import apply_tolerance
from mixcd.matter.model_shape.model_kind import is_token_classifier
from mixcd.matter.model_shape.model_limits import require_fixed_masks
from mixcd.matter.prior_and_new_data.fixed_random_numbers import fixed_random_numbers
from mixcd.matter.prior_and_new_data.label_names import names_of_model, require_same_numbers
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.column_bins import bin_samples
from mixcd.run.outcome.sample_texts import DamagedText, describe_damaged
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Floats, Ids

BATCH_SIZE = 32
"""Rows a batch at the length of the longest row, by default."""


def compare(
    base: Model,
    tuned: Model,
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    tolerance: float = TOLERANCE,
    choices: int | None = None,
    correctness: CorrectnessRule | str | None = None,
    cache_dir: str | Path | None = None,
    tokenizer: Any = None,
    collate_fn: Collate | None = None,
    names: ColumnsConfig | None = None,
    max_length: int | None = None,
    assistant_only_loss: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Comparison:
    """Compare a fine-tuned model with its base model, sample by sample: what broke, and would rehearsal mend it?

    Nothing is trained, and nothing is written but the cache, if one is named. `judge_damage` and `judge_rehearsal` put
    the result in sentences.

    Args:
        base: The base model: loaded, or its folder or hub name.
        tuned: The fine-tuned model, likewise; or the folder of an adapter of PEFT, for which the base model is loaded
            once. Where the base model is an adapter, too, each goes on the model that it was made for. Labels of the
            same names are matched in any order.
        data: Samples of the prior task: prepared rows, as in training; raw ones as `mixcd train` takes them, of texts
            with labels, questions with answers, sources with targets, conversations, prompts with completions; or a
            file, folder or hub name of either; or a dict of such, whose keys become the column `prior_set`.
        columns: The columns by which damage is told apart, beside the base model's loss; by default all that hold one
            value a sample, without those in which nearly every value is its own.
        tolerance: The damaged share that is tolerated: above it, at its lower bound, there is damage. Where damage is
            counted by token, as by default in language models, it is the mean damage: of its target tokens that were
            right, the share that a sample lost.
        choices: How many options a question has, where samples are multiple-choice questions: what guessing loses is
            taken off. Not where damage is counted by token.
        correctness: When a prediction is right; by default what model and labels are made for.
        cache_dir: A prediction cache of the base model on these data: read, and filled where it lacks something.
        tokenizer: The tokenizer of both models; by default the one beside them.
        collate_fn: Makes a batch of a list of prepared rows; by default what the rows and the tokenizer ask for.
        names: Which of the columns are what, by the names of a config's `columns`.
        max_length: The most tokens of a sample; what model and tokenizer take by default, in conversations at most what
            TRL's `SFTTrainer` does.
        assistant_only_loss: In conversations, whether only what the assistant says is a target, as `SFTConfig` has it.
            Of prompts with completions only the completion is.
        batch_size: Rows a batch at the length of the longest row. Shorter rows share larger batches.
        progress: Whether to show progress bars.

    Returns:
        Scores, flips, damage by columns and by prior loss, the most damaged samples.

    Raises:
        SettingError: If a setting makes no sense, or a model cannot be loaded.
        DataError: If the data cannot be read, lack a column or labels; or if labels, tokenizers or losses do not allow
            a comparison.
        CacheError: If the cache was made from something else.

    Example:
        >>> import torch
        >>> class Sign(torch.nn.Module):  # says whether a number is above a threshold
        ...     def __init__(self, threshold):
        ...         super().__init__()
        ...         self.threshold = torch.nn.Parameter(torch.tensor(threshold))
        ...
        ...     def forward(self, x):
        ...         return {"logits": torch.stack([self.threshold - x, x - self.threshold], -1)}
        >>> rows = [{"x": float(x), "label": int(x > 0), "kind": "ab"[x % 2]} for x in range(-50, 50)]
        >>> def collate(rows):
        ...     return {"x": torch.tensor([r["x"] for r in rows]), "labels": torch.tensor([r["label"] for r in rows])}
        >>> comparison = compare(Sign(0.5), Sign(10.5), rows, collate_fn=collate)
        >>> comparison.change.damaged_count, comparison.partitions[0].name, comparison.is_damaged
        (10, 'x', True)
    """
    require_settings(tolerance, choices)
    if batch_size < 1:
        raise SettingError(f"`batch_size` is {batch_size}, but a batch needs at least 1 row. Pass 1 or more.")
    pair = open_models(base, tuned, tokenizer)
    names = names or ColumnsConfig()
    if collate_fn is None:
        how = Preparation(names, max_length, assistant_only_loss)
        data, collate_fn = open_samples(data, pair.base, pair.tokenizer, how, "data")
    samples = PriorDataset(data, "data")
    require_same_numbers(pair.base, samples)
    require_fixed_masks(collate_fn)
    rule = choose_rule(correctness, pair.base, collate(collate_fn, [samples[0]]), samples.name)
    label_names = names_of_model(pair.base)
    _require_guesses(choices, rule)
    set_names = label_names if isinstance(rule, RightLabels) else None
    chosen, left_out = choose_columns(samples, columns, names.label, set_names)
    run = ComparisonPass(samples, rule, batch_size, progress)
    before, after = _predict(pair, run, collate_fn, cache_dir)
    tokens = compare_outcomes_by_token(before, after)
    class_names = dict(enumerate(label_names)) if isinstance(rule, RightClass) else {}
    is_damaged = tokens.lost_count > 0 if tokens is not None and rule.is_graded else before.correct & ~after.correct
    worst = rank_damaged(is_damaged, before.loss, after.loss, damage=None if tokens is None else tokens.damage)
    rows = samples.rows(before.sample_ids[worst].tolist())
    golds = [read_gold(row, rule, pair.tokenizer, label_names) for row in rows]
    texts = [read_text(row, names, rule, pair.tokenizer) for row in rows]
    most_damaged = [
        _describe(before, after, position, class_names, gold, text)
        for position, gold, text in zip(worst.tolist(), golds, texts, strict=True)
    ]
    if tokens is not None:
        answers = _tell_answers(pair, run, collate_fn, before, after, worst)
        most_damaged = _add_answers(most_damaged, tokens.damage[worst], answers)
    return compare_outcomes(
        before.correct,
        after.correct,
        [
            (PRIOR_LOSS, bin_losses(before.loss)),
            *((name, bin_samples(samples, name, column, before.sample_ids, class_names)) for name, column in chosen),
        ],
        tokens,
        is_graded=rule.is_graded,
        most_damaged=most_damaged,
        tolerance=tolerance,
        choices=choices,
        notes=[*left_out, *_note(samples, before, rule, pair.dtype)],
        dtype=pair.dtype,
    )


def _predict(
    pair: ModelPair, run: ComparisonPass, collate_fn: Collate, cache_dir: str | Path | None
) -> tuple[Outcomes, Outcomes]:
    """The two passes; what the fine-tuned model predicts comes back in the base model's numbers.

    Rows that are augmented at random are read with the same random numbers in both.
    """
    numbers = _match_labels(pair, run.rule)
    with pair.base_alone() as model, fixed_random_numbers(0):
        if cache_dir is None:
            before = run.predict(model, np.arange(len(run.data)), collate_fn, "The base model")
        else:
            before = run.read_or_predict(model, cache_dir, collate_fn, pair.tokenizer)
    with pair.tuned_alone() as model, fixed_random_numbers(0):
        after = run.predict(model, before.sample_ids, renumber_labels(collate_fn, numbers), "The fine-tuned model")
    after = replace(after, correct=apply_tolerance(run.rule, after.correct, after.loss, before.loss))
    if numbers is not None and after.prediction is not None:
        after = replace(after, prediction=np.argsort(numbers)[after.prediction])
    return before, after


def _match_labels(pair: ModelPair, rule: CorrectnessRule) -> Ids | None:
    """The fine-tuned model's number of each label of the base model; None where they are the same, or are none."""
    has_labels = isinstance(rule, RightClass | RightLabels) or is_token_classifier(pair.base)
    return pair.match_labels() if has_labels else None


def _tell_answers(
    pair: ModelPair, run: ComparisonPass, collate_fn: Collate, before: Outcomes, after: Outcomes, worst: Ids
) -> list[DamagedText]:
    """What language models should say and now say of the damaged samples; nothing for others, or without a tokenizer.

    A forward pass of the fine-tuned model over these samples, at most `MOST_ROWS`.
    """
    right_before, right_after = before.right_tokens, after.right_tokens
    if right_before is None or right_after is None or pair.tokenizer is None:
        return []
    collate_own = renumber_labels(collate_fn, _match_labels(pair, run.rule))
    with pair.tuned_alone() as model, fixed_random_numbers(0):
        now = Inference(model, run.data, run.rule, collate_own, run.batch_size, pair.tokenizer)
        right = ([bits[place] for place in worst.tolist()] for bits in (right_before, right_after))
        return describe_damaged(now, before.sample_ids[worst], *right)


def _add_answers(samples: Sequence[SampleDamage], damage: Floats, answers: Sequence[DamagedText]) -> list[SampleDamage]:
    graded = [replace(sample, damage=one) for sample, one in zip(samples, damage.tolist(), strict=True)]
    if not answers:
        return graded
    pairs = zip(graded, answers, strict=True)
    return [replace(sample, answer=one.answer, now=one.now) for sample, one in pairs]


def _describe(
    before: Outcomes, after: Outcomes, position: int, class_names: Mapping[int, str], gold: str | None, text: str
) -> SampleDamage:
    label, prediction = (None if one.prediction is None else int(one.prediction[position]) for one in (before, after))
    return SampleDamage(
        sample_id=int(before.sample_ids[position]),
        loss_before=float(before.loss[position]),
        loss_after=float(after.loss[position]),
        label=gold if label is None else class_names.get(label, str(label)),
        prediction=None if prediction is None else class_names.get(prediction, str(prediction)),
        text=text,
    )


def _require_guesses(choices: int | None, rule: CorrectnessRule) -> None:
    if choices is not None and rule.is_graded:
        raise SettingError(
            f"`choices` is {choices}, but it takes off what guessing among whole answers explains, and here damage is "
            "counted by token. Leave it out, or judge whole samples: `correctness=mixcd.RightTokens()`, say."
        )


def _note(samples: PriorDataset, before: Outcomes, rule: CorrectnessRule, dtype: str) -> Iterator[str]:
    """Say what to mind: what was not compared, what the base model does not know anyway, and what rounding changes."""
    if len(before.sample_ids) < len(samples):
        yield (
            f"The cache holds predictions for {len(before.sample_ids):,} of {len(samples):,} samples: only those are "
            "compared."
        )
    if before.untargeted_count:
        yield f"{before.untargeted_count:,} samples have {rule.untargeted}, so they never count as right."
    share = float(before.correct.mean())
    if before.right_tokens is not None and rule.is_graded:
        if not before.right_tokens.right_count.any():
            yield "The base model predicts no target token, so none can be damaged. Check the tokenizer and the labels."
    elif share < LEAST_SHARE_RIGHT:
        half = halve_by_tokens(before.share_right)
        cure = (
            "Check that it was trained on this task, and that labels and preprocessing are those it was trained with."
            if half is None
            else f"Half of the samples have {half:.0%} of their target tokens right, which `--least-share {half:g}`, "
            f"or `correctness=mixcd.RightTokens({half:g})`, would count as right."
        )
        yield f"The base model is right on only {share:.1%} of the samples, and no others can be damaged. {cure}"
    if " " in dtype:
        yield (
            f"The weights were held in {dtype}, so rounding alone turns some samples right or wrong. Load both models "
            "in one dtype."
        )
