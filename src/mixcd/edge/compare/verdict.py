"""The verdict of a comparison, in sentences: what broke, and what rehearsing would be worth."""

from mixcd.edge.compare.comparison import PRIOR_LOSS, Comparison
from mixcd.edge.compare.partition_damage import BinDamage, PartitionDamage, hardness
from mixcd.run.outcome.evaluation import LEAST_SAMPLES

WORTHWHILE_LIFT = 1.2
"""Below this lift a partition finds hardly more damaged samples than uniform draws do."""
_MOST_NAMED = 4
_NAME_START = 60


def judge_damage(comparison: Comparison) -> str:
    """Say whether the fine-tune broke anything, and what.

    Args:
        comparison: Two models on the same samples.

    Returns:
        One or more sentences.

    Example:
        >>> from mixcd.run.outcome.evaluation import TaskChange
        >>> judge_damage(Comparison(TaskChange(1000, 900, 50, 10), ()))
        'Damage: 5.0% of the samples went from right to wrong (3.8% to 6.5%), beyond the tolerance of 1.0%.'
    """
    count, interval = comparison.change.sample_count, comparison.damaged_interval
    if interval is None:
        return f"Too few samples to tell: there are {count}, and an interval needs at least {LEAST_SAMPLES}."
    is_graded = comparison.change.is_graded
    share = f"{comparison.damaged_share:.1%} of the "
    share += (
        "tokens that a sample had right went wrong, on average" if is_graded else "samples went from right to wrong"
    )
    share += " beyond what guessing explains" if comparison.choices else ""
    bounds = f"{interval[0]:.1%} to {interval[1]:.1%}"
    tolerance = f"the tolerance of {comparison.tolerance:.1%}"
    if comparison.change.lead.damaged_count == 0:
        broke = "lost a target token that was right" if is_graded else "went from right to wrong"
        return (
            f"Nothing broke: none of the {count:,} samples {broke}. (With so many, up to "
            f"{interval[1]:.1%} could and still not show.)"
        )
    if comparison.is_damaged:
        return f"Damage: {share} ({bounds}), beyond {tolerance}.{_name_hardest(comparison)}"
    if interval[1] <= comparison.tolerance:
        return f"No damage to speak of: {share} ({bounds}), within {tolerance}."
    return (
        f"Damage is not shown, but possible: {share} ({bounds}), and {tolerance} lies "
        "within these bounds. More samples would tell."
    )


def judge_rehearsal(comparison: Comparison) -> str:
    """Say what rehearsing prior samples would be worth.

    Args:
        comparison: Two models on the same samples.

    Returns:
        One or more sentences.

    Example:
        >>> from mixcd.run.outcome.evaluation import TaskChange
        >>> judge_rehearsal(Comparison(TaskChange(1000, 900, 0, 10), ()))
        'Rehearsal: no damage was shown that it could prevent.'
    """
    if not comparison.is_damaged:
        return "Rehearsal: no damage was shown that it could prevent."
    known = [one for one in comparison.partitions if one.lift.high < float("inf")]
    uneven = list_uneven(comparison)
    if uneven:
        best, share = uneven[0], comparison.change.lead.damaged_share
        often, of = ("much", "of their tokens") if comparison.change.is_graded else ("often", "of them")
        return (
            f"Rehearsal: damage is uneven. Drawn by {_quote(best.name)}, rehearsed samples are damaged {_lift(best)} "
            f"times as {often} as drawn uniformly: {min(1.0, share * best.lift.value):.1%} {of} instead of "
            f"{share:.1%}, to begin with."
        )
    if known and all(one.lift.high < WORTHWHILE_LIFT for one in known):
        return "Rehearsal: damage is even over these bins, so uniform rehearsal will do."
    told = f": the lift by {_quote(known[0].name)} is {_lift(known[0])}" if known else ""
    return f"Rehearsal: these samples do not tell whether damage is uneven{told}. Uniform rehearsal is a safe start."


def list_uneven(comparison: Comparison) -> list[PartitionDamage]:
    """List the partitions on which damage falls unevenly: their lift is worth having, and its lower bound above 1."""
    return [one for one in comparison.partitions if one.lift.low > 1 and one.lift.value >= WORTHWHILE_LIFT]


def list_hardest(comparison: Comparison) -> list[BinDamage]:
    """List the bins of columns that were hit harder than the samples as a whole, where that is more than noise.

    Returns:
        The bins, hardest hit first: by the lower bound of their damaged share, which lies above the whole's share.
    """
    share = comparison.change.lead.damaged_share
    columns = [one for one in comparison.partitions if one.name != PRIOR_LOSS and one.lift.low > 1]
    bins = [one for column in columns for one in column.bins if -one.change.hardness[0] > share]
    return sorted(bins, key=hardness)


def _name_hardest(comparison: Comparison) -> str:
    hardest = list_hardest(comparison)[:_MOST_NAMED]
    named = ", ".join(f"{_quote(one.name)} {one.change.lead.damaged_share:.1%}" for one in hardest)
    return f" Hardest hit: {named}." if named else ""


def _lift(one: PartitionDamage) -> str:
    return f"{one.lift.value:.2f} ({one.lift.low:.2f} to {one.lift.high:.2f})"


def _quote(name: str) -> str:
    return f"`{name if len(name) <= _NAME_START else name[:_NAME_START] + '…'}`"
