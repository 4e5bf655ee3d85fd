"""A comparison of two models on the same prior samples: what broke, where, and what rehearsing would be worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixcd.edge.compare.partition_damage import PartitionDamage, measure_damage, rank_partitions
from mixcd.run.outcome.evaluation import LEAST_SAMPLES, MOST_ROWS, TaskChange, compare_correctness
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Flags, Floats, Ids, Partition, TokenChange

MOST_SHOWN = 20
"""Damaged samples that the terminal and the JSON show."""
PRIOR_LOSS = "prior loss"
"""What the partition by the base model's loss is called, beside those by columns."""
TOLERANCE = 0.01
"""The damaged share that is tolerated by default."""


@dataclass(frozen=True)
class SampleDamage:
    """One damaged sample.

    Args:
        sample_id: Its row in the data, from 0.
        label: What it should be, which the base model got right: its class, its labels, its number, or how its answer
            or target text starts; None where the rows do not show it.
        prediction: The class that the fine-tuned model predicts; None where predictions are no class, for only the
            rule sees those.
        text: How its text starts.
        damage: In language models, of the target tokens that were right, the share that is wrong; else None.
        answer: In language models, what it should say, in pieces around the first damaged token: the second, the
            fourth and so on are damaged, joined they are the text. Empty where no tokenizer is known.
        now: What the fine-tuned model predicts at the first damaged token, likewise; else None.
    """

    sample_id: int
    loss_before: float
    loss_after: float
    label: str | None
    prediction: str | None
    text: str
    damage: float | None = None
    answer: Sequence[str] = ()
    now: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What became of the prior samples from the base to the fine-tuned model; `judge_damage` puts it in words.

    Args:
        change: Scores, flips and tests over all samples.
        partitions: How damage falls, the most uneven partition first.
        most_damaged: The damaged samples whose loss rose most, in language models those of the most damage, at most
            `MOST_ROWS`.
        tolerance: The damaged share that is tolerated; where damage is counted by token, the mean damage.
        choices: Options a question has, where samples are multiple-choice questions; else None.
        notes: What was left out, and why.
        dtype: What the weights of both models were held in; None where no model was run.
    """

    change: TaskChange
    partitions: tuple[PartitionDamage, ...]
    most_damaged: tuple[SampleDamage, ...] = ()
    tolerance: float = TOLERANCE
    choices: int | None = None
    notes: tuple[str, ...] = ()
    dtype: str | None = None

    @property
    def damaged_by_chance(self) -> float:
        """The share that mere guessing turns from right to wrong; 0 unless samples are multiple-choice questions."""
        return 0.0 if self.choices is None else expect_lost_guesses(self.change, self.choices)

    @property
    def damaged_share(self) -> float:
        """The share that went from right to wrong, less what guessing explains; or the mean damage by token."""
        return max(0.0, self.change.lead.damaged_share - self.damaged_by_chance)

    @property
    def damaged_interval(self) -> tuple[float, float] | None:
        """Its 95 % interval, less what guessing explains; None for fewer than `LEAST_SAMPLES` samples.

        Wilson's; by token a cluster bootstrap interval.
        """
        interval = self.change.lead.damaged_interval
        if interval is None or self.change.sample_count < LEAST_SAMPLES:
            return None
        low, high = interval
        return max(0.0, low - self.damaged_by_chance), max(0.0, high - self.damaged_by_chance)

    @property
    def is_damaged(self) -> bool | None:
        """Whether the lower bound of the damaged share is above the tolerance; None when samples are too few."""
        interval = self.damaged_interval
        return None if interval is None else interval[0] > self.tolerance

    def exceeds(self, rate: float) -> bool:
        """Whether the damaged share is above a rate, at its lower bound.

        Args:
            rate: From 0 to 1.

        Raises:
            SettingError: If the samples are too few to tell.
        """
        interval = self.damaged_interval
        if interval is None:
            raise SettingError(
                f"There are {self.change.sample_count} samples, but a bound of the damaged share needs at least "
                f"{LEAST_SAMPLES}. Compare on more samples."
            )
        return interval[0] > rate


def expect_lost_guesses(change: TaskChange, choices: int) -> float:
    """Return the share of multiple-choice questions that guessing alone would turn from right to wrong.

    Exact where nothing is known but by guessing, or what one model knows says nothing of what the other does; where
    both guess on the same questions, guessing explains more than this.

    Args:
        choices: Options a question has, at least 2.

    Example:
        >>> round(expect_lost_guesses(TaskChange(100, 60, 10, 10), choices=5), 6)
        0.04
    """
    return (1 - change.score_before) * (1 - change.score_after) / (choices - 1)  # (1 − acc₀)(1 − acc₁) / (k − 1)


def rank_damaged(
    damaged: Flags, loss_before: Floats, loss_after: Floats, most: int = MOST_ROWS, damage: Floats | None = None
) -> Ids:
    """Return the damaged samples whose loss rose most, or first those of the most damage.

    Args:
        damaged: Which samples are, shape (samples,).
        loss_before: The base model's losses, shape (samples,).
        loss_after: The fine-tuned model's.
        damage: The damage of each by its tokens, shape (samples,); None where it is not known.

    Returns:
        Their positions, shape (at most `most`,), the worst first; equal ones in their order.

    Example:
        >>> rank_damaged(np.array([True, False, True]), np.zeros(3), np.array([1.0, 9.0, 2.0])).tolist()
        [2, 0]
    """
    found = np.flatnonzero(damaged)
    rise = (loss_after - loss_before)[found]
    order = np.argsort(-rise, kind="stable") if damage is None else np.lexsort((-rise, -damage[found]))
    return found[order[:most]]


def compare_outcomes(
    before: Flags,
    after: Flags,
    partitions: Sequence[tuple[str, Partition]],
    tokens: TokenChange | None = None,
    *,
    is_graded: bool = False,
    most_damaged: Sequence[SampleDamage] = (),
    tolerance: float = TOLERANCE,
    choices: int | None = None,
    notes: Sequence[str] = (),
    dtype: str | None = None,
) -> Comparison:
    """Compare what two models got right on the same samples; no model is run.

    Args:
        before: Whether the base model got each sample right, shape (samples,).
        after: The same for the fine-tuned model.
        tokens: What became of their target tokens; None where there are none.
        is_graded: Whether damage is counted by token.

    Raises:
        SettingError: If a setting makes no sense.

    Example:
        >>> right = np.ones(100, dtype=bool)
        >>> compare_outcomes(right, right, []).is_damaged
        False
    """
    require_settings(tolerance, choices)
    return Comparison(
        change=compare_correctness(before, after, tokens, is_graded=is_graded),
        partitions=rank_partitions(
            measure_damage(name, one, before, after, tokens, is_graded=is_graded) for name, one in partitions
        ),
        most_damaged=tuple(most_damaged),
        tolerance=tolerance,
        choices=choices,
        notes=tuple(notes),
        dtype=dtype,
    )


def require_settings(tolerance: float, choices: int | None) -> None:
    """Refuse, by a `SettingError`, settings that make no sense, before any model runs."""
    if not 0 <= tolerance < 1:
        raise SettingError(
            f"`tolerance` is {tolerance}, but it is a share of the samples, from 0 to below 1. Pass {TOLERANCE}, say."
        )
    if choices is not None and choices < 2:
        raise SettingError(
            f"`choices` is {choices}, but a multiple-choice question has at least 2 options. Pass how many, or leave "
            "it out where samples are no such questions."
        )
