"""Evaluation: what fine-tuning kept and lost on held-out data, sample by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from scipy.stats import binomtest

from mixcd.run.outcome.cluster_statistics import LEAST_SAMPLES as LEAST_SAMPLES
from mixcd.run.outcome.generation import GenerationChange
from mixcd.run.outcome.token_totals import TokenTotals, total_tokens
from mixcd.words.vocabulary import Flags, Partition, TokenChange

MOST_ROWS = 1000
"""Damaged samples that a page lists."""


@dataclass(frozen=True)
class TaskChange:
    """How one task's held-out samples fared from the base to the fine-tuned model.

    Args:
        sample_count: Held-out samples.
        right_before: Samples the base model got right.
        damaged_count: Right before, wrong after: collateral damage.
        gained_count: Wrong before, right after.
        tokens: The same by target token; None where there are none.
    """

    sample_count: int
    right_before: int
    damaged_count: int
    gained_count: int
    tokens: TokenTotals | None = None

    @property
    def is_graded(self) -> bool:
        """Whether damage is counted by token."""
        return self.tokens is not None and self.tokens.is_graded

    @property
    def lead(self) -> "TaskChange | TokenTotals":
        """The figures that come first: those by token where damage is counted so, else these by sample.

        Both have `score_before`, `score_after`, `net_change`, `damaged_count`, `damaged_share` and `damaged_interval`.
        """
        return self.tokens if self.tokens is not None and self.is_graded else self

    @property
    def hardness(self) -> tuple[float, float]:
        """Sort by this to have the hardest hit first: by the lower bound of the damaged share, 0 where it has none."""
        if not self.is_graded:
            return -self.damaged_interval[0], 0.0
        interval = self.lead.damaged_interval
        return -interval[0] if interval else 0.0, -self.lead.damaged_share

    @property
    def score_before(self) -> float:
        """The base model's accuracy."""
        return self.right_before / self.sample_count

    @property
    def score_after(self) -> float:
        """The fine-tuned model's accuracy."""
        return (self.right_before - self.damaged_count + self.gained_count) / self.sample_count

    @property
    def net_change(self) -> float:
        """Score after minus score before: gained share minus damaged share, exactly."""
        return (self.gained_count - self.damaged_count) / self.sample_count

    @property
    def damaged_share(self) -> float:
        """Share of the samples that went from right to wrong."""
        return self.damaged_count / self.sample_count

    @property
    def damaged_interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the damaged share: says whether there is damage."""
        interval = binomtest(self.damaged_count, self.sample_count).proportion_ci(0.95, method="wilson")
        return float(interval.low), float(interval.high)

    @property
    def mcnemar_p(self) -> float:
        """The exact two-sided McNemar p-value: do losses and gains balance?"""
        flips = self.damaged_count + self.gained_count
        return float(binomtest(self.damaged_count, flips, 0.5).pvalue) if flips else 1.0

    def __str__(self) -> str:
        parts = [str(part) for part in (self._tell_samples(), self.tokens) if part is not None]
        return "; ".join(reversed(parts) if self.is_graded else parts)

    def _tell_samples(self) -> str:
        low, high = self.damaged_interval
        told = "every target token right: " if self.is_graded else ""
        return (
            f"{told}score {self.score_before:.3f} → {self.score_after:.3f}, damaged {self.damaged_share:.1%} "
            f"({low:.1%} to {high:.1%}): {self.damaged_count} right→wrong, {self.gained_count} wrong→right, "
            f"net {self.net_change:+.1%} (McNemar p = {self.mcnemar_p:.2g}), {self.sample_count} held-out samples"
        )


@dataclass(frozen=True)
class DamagedSample:
    """One damaged held-out prior sample: it went from right to wrong, or by token, some of its target tokens did.

    Args:
        sample_id: Its row in the held-out data.
        bin_name: Its bin under the run's partition strategy, applied to the held-out data; empty for clusters of
            features.
        label: The class that the base model predicted, rightly; None where predictions are no class.
        prediction: The class that the fine-tuned model predicts, likewise.
        text: How its text starts; in language models the prompt.
        damage: In language models, of the target tokens that were right, the share that is wrong; else None.
        answer: In language models, what the model should say, in pieces around the first damaged token: the second,
            the fourth and so on are damaged, joined they are the text. Empty after the worst `MOST_ROWS` samples, or
            where no tokenizer is known.
        now: What the fine-tuned model predicts at the first damaged token, likewise.
    """

    sample_id: int
    bin_name: str
    label: int | None
    prediction: int | None
    text: str
    damage: float | None = None
    answer: Sequence[str] = ()
    now: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Held-out scores before and after fine-tuning.

    Args:
        prior: The prior task.
        new: The new task, when the trainer has an evaluation set of it.
        damaged: The damaged prior samples, in the order of their ids; in language models the worst first.
        prior_sets: The prior data sets, each alone, when several were given by name.
        bins: The bins of the run's partition on the held-out prior data; empty for clusters of features.
        false_damage_rate: Of the held-out prior samples that the base model had right, the share that is wrong when
            they are read again, by random augmentation alone; None where rows are the same each time.
        generation: What the models wrote by themselves, by task, "prior" and "new"; empty where they did not.
        columns: The bins of each column that was named, on the held-out prior data.
    """

    prior: TaskChange
    new: TaskChange | None
    damaged: Sequence[DamagedSample]
    prior_sets: Mapping[str, TaskChange] = field(default_factory=dict)
    bins: Mapping[str, TaskChange] = field(default_factory=dict)
    false_damage_rate: float | None = None
    generation: Mapping[str, GenerationChange] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, TaskChange]] = field(default_factory=dict)

    def __str__(self) -> str:
        sets = "".join(f"\n  {name}: {change}" for name, change in self.prior_sets.items())
        prior_texts, new_texts = (
            f"\n  {self.generation[task]}" if task in self.generation else "" for task in ("prior", "new")
        )
        new = f"\nnew task:   {self.new}{new_texts}" if self.new else ""
        share = (self.false_damage_rate or 0.0) * self.prior.score_before
        told = f"\n  of the damaged, about {share:.1%} of all samples, are noise: rows are read differently each time"
        noise = told if self.false_damage_rate else ""
        return f"prior task: {self.prior}{noise}{prior_texts}{sets}{new}"


def compare_correctness(
    before: Flags, after: Flags, tokens: TokenChange | None = None, *, is_graded: bool = False
) -> TaskChange:
    """Count the flips between two models on the same samples.

    Args:
        before: Whether the base model got each sample right, shape (samples,).
        after: The same for the fine-tuned model.
        tokens: What became of their target tokens; None where there are none.
        is_graded: Whether damage is counted by token.

    Returns:
        The counts, from which scores, intervals and tests follow.

    Example:
        >>> import numpy as np
        >>> change = compare_correctness(np.array([True, True, False]), np.array([True, False, False]))
        >>> change.damaged_count, round(change.net_change, 3)
        (1, -0.333)
    """
    return TaskChange(
        sample_count=len(before),
        right_before=int(before.sum()),
        damaged_count=int((before & ~after).sum()),
        gained_count=int((~before & after).sum()),
        tokens=None if tokens is None else total_tokens(tokens, is_graded=is_graded),
    )


def compare_bins(
    partition: Partition, before: Flags, after: Flags, tokens: TokenChange | None = None, *, is_graded: bool = False
) -> list[TaskChange]:
    """Count the flips in each bin, empty ones too, as `compare_correctness` does in all samples."""
    kinds = (slice(None), before, before & ~after, ~before & after)
    counts = (partition.count(kind).tolist() for kind in kinds)
    changes = [TaskChange(*numbers) for numbers in zip(*counts, strict=True)]
    if tokens is None:
        return changes
    order = np.argsort(partition.bin_ids, kind="stable")
    edges = np.searchsorted(partition.bin_ids[order], range(partition.bin_count + 1))
    parts = (tokens[order[first:last]] for first, last in pairwise(edges))
    return [
        replace(one, tokens=total_tokens(part, is_graded=is_graded)) for one, part in zip(changes, parts, strict=True)
    ]
