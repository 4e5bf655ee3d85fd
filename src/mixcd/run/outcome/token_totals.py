"""`TokenTotals`: what became of the target tokens of some samples, all together."""

from dataclasses import dataclass

import numpy as np

from mixcd.run.outcome.cluster_statistics import (
    LEAST_CHANGED,
    LEAST_P,
    LEAST_SAMPLES,
    LEAST_WEIGHTED,
    Interval,
    bootstrap_ratios,
    bound_mean,
    flip_signs,
)
from mixcd.words.vocabulary import TokenChange


@dataclass(frozen=True)
class TokenTotals:
    """How the target tokens of one task's held-out samples fared from the base to the fine-tuned model.

    Intervals are 95 % cluster bootstrap intervals: the samples are drawn anew, with all their tokens. They are None
    where samples are too few to tell.

    Args:
        sample_count: The samples.
        target_count: Their target tokens.
        right_before: Tokens the base model got right.
        lost_count: Right before, wrong after.
        gained_count: Wrong before, right after.
        damaged_count: Samples that lost at least one token.
        damaged_share: The mean damage d of the samples: of its tokens that were right, the share that a sample lost; 0
            where none was right.
        damaged_interval: Its interval; Wilson's, which is too wide if anything, where few samples are damaged.
        lost_interval: That of the lost share.
        net_interval: That of the net change.
        sign_flip_p: The two-sided p-value of a sign-flip test on the samples' net tokens: do losses and gains balance?
        is_graded: Whether damage is counted by token, so that these figures come first; else by sample.
    """

    sample_count: int
    target_count: int
    right_before: int
    lost_count: int
    gained_count: int
    damaged_count: int
    damaged_share: float
    damaged_interval: Interval | None
    lost_interval: Interval | None
    net_interval: Interval | None
    sign_flip_p: float
    is_graded: bool

    @property
    def score_before(self) -> float:
        """The base model's token accuracy: the share of the target tokens that it got right; 0 without any."""
        return self._share(self.right_before)

    @property
    def score_after(self) -> float:
        """The fine-tuned model's."""
        return self._share(self.right_before - self.lost_count + self.gained_count)

    @property
    def net_change(self) -> float:
        """Token accuracy after minus before: gained share minus lost share of the target tokens, exactly."""
        return self._share(self.gained_count - self.lost_count)

    @property
    def lost_share(self) -> float:
        """Share of the target tokens that went from right to wrong."""
        return self._share(self.lost_count)

    def __str__(self) -> str:
        low_high = "" if self.damaged_interval is None else " ({:.1%} to {:.1%})".format(*self.damaged_interval)
        return (
            f"token accuracy {self.score_before:.3f} → {self.score_after:.3f}, damage {self.damaged_share:.1%}"
            f"{low_high} of what each sample had right: {self.lost_count} tokens right→wrong, {self.gained_count} "
            f"wrong→right, net {self.net_change:+.1%} (sign-flip p {self.told_p}), {self.target_count} "
            f"target tokens"
        )

    @property
    def told_p(self) -> str:
        """The p-value in words: of drawn flips none is told smaller than they can show."""
        sign = "≤" if self.sign_flip_p <= LEAST_P else "="
        return f"{sign} {self.sign_flip_p:.2g}"

    def _share(self, count: int) -> float:
        return count / self.target_count if self.target_count else 0.0


def total_tokens(change: TokenChange, *, is_graded: bool) -> TokenTotals:
    """Sum what became of the target tokens of some samples.

    Args:
        change: Counts of each sample, shape (samples,).
        is_graded: Whether damage is counted by token.

    Example:
        >>> totals = total_tokens(TokenChange(*np.array([[4, 6], [4, 3], [1, 0], [0, 2]])), is_graded=True)
        >>> totals.damaged_share, totals.score_before, totals.net_change
        (0.125, 0.7, 0.1)
    """
    damage, net = change.damage, change.gained_count - change.lost_count
    count = len(damage)
    mean = float(damage.mean()) if count else 0.0
    damaged_count, changed_count = int((change.lost_count > 0).sum()), int((net != 0).sum())
    intervals: list[Interval | None] = [None, None, None]
    if count >= LEAST_SAMPLES:
        tokens = change.target_count
        found = bootstrap_ratios(
            np.stack([damage, change.lost_count, net], axis=1), np.stack([np.ones(count), tokens, tokens], axis=1)
        )
        is_weighted = count >= LEAST_WEIGHTED
        intervals = [
            _clip(found[0], 0.0) if damaged_count >= LEAST_CHANGED else bound_mean(mean, count),
            _clip(found[1], 0.0) if is_weighted and damaged_count >= LEAST_CHANGED else None,
            _clip(found[2], -1.0) if is_weighted and changed_count >= LEAST_CHANGED else None,
        ]
    return TokenTotals(
        sample_count=count,
        target_count=int(change.target_count.sum()),
        right_before=int(change.right_before.sum()),
        lost_count=int(change.lost_count.sum()),
        gained_count=int(change.gained_count.sum()),
        damaged_count=damaged_count,
        damaged_share=mean,
        damaged_interval=intervals[0],
        lost_interval=intervals[1],
        net_interval=intervals[2],
        sign_flip_p=flip_signs(net),
        is_graded=is_graded,
    )


def _clip(interval: Interval, least: float) -> Interval:
    low, high = interval
    return max(least, low), min(1.0, high)
