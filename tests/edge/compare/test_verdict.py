import numpy as np
import pytest

from mixcd.edge.compare.comparison import PRIOR_LOSS, Comparison, compare_outcomes
from mixcd.edge.compare.verdict import judge_damage, judge_rehearsal, list_hardest
from mixcd.run.outcome.evaluation import TaskChange
from mixcd.words.vocabulary import Partition
from outcomes import make_uneven


def judge(sample_count, damaged, **settings):
    return judge_damage(Comparison(TaskChange(sample_count, sample_count, damaged, 0), (), **settings))


def test_nothing_broke():
    assert judge(1000, 0) == (
        "Nothing broke: none of the 1,000 samples went from right to wrong. (With so many, up to 0.4% could and still "
        "not show.)"
    )


def test_damage_beyond_the_tolerance():
    assert judge(1000, 50) == (
        "Damage: 5.0% of the samples went from right to wrong (3.8% to 6.5%), beyond the tolerance of 1.0%."
    )


def test_damage_within_the_tolerance():
    assert judge(10_000, 20) == (
        "No damage to speak of: 0.2% of the samples went from right to wrong (0.1% to 0.3%), within the tolerance of "
        "1.0%."
    )


def test_damage_that_the_samples_cannot_tell():
    assert judge(200, 3) == (
        "Damage is not shown, but possible: 1.5% of the samples went from right to wrong (0.5% to 4.3%), and the "
        "tolerance of 1.0% lies within these bounds. More samples would tell."
    )


def test_too_few_samples():
    assert judge(12, 3) == "Too few samples to tell: there are 12, and an interval needs at least 30."


def test_guesses_are_named():
    comparison = Comparison(TaskChange(1000, 600, 150, 150), (), choices=5)
    assert "11.0% of the samples went from right to wrong beyond what guessing explains (" in judge_damage(comparison)


def test_the_hardest_hit_bins_are_named_and_rehearsal_is_worth_its_lift():
    before, after, topic = make_uneven()
    comparison = compare_outcomes(before, after, [("topic", topic), (PRIOR_LOSS, topic)])
    assert [one.name for one in list_hardest(comparison)] == ["topic=2"]
    assert judge_damage(comparison).endswith(" Hardest hit: `topic=2` 40.4%.")
    told = judge_rehearsal(comparison)
    assert told.startswith("Rehearsal: damage is uneven. Drawn by `prior loss`, rehearsed samples are damaged 2.1")
    assert told.endswith("% of them instead of 16.1%, to begin with.")


def test_even_damage_needs_no_more_than_uniform_rehearsal():
    rng = np.random.default_rng(0)
    after, bins = rng.random(10_000) > 0.2, Partition(rng.integers(0, 5, 10_000), tuple("abcde"))
    comparison = compare_outcomes(np.ones(10_000, bool), after, [("topic", bins)])
    assert judge_rehearsal(comparison) == "Rehearsal: damage is even over these bins, so uniform rehearsal will do."


def test_little_damage_does_not_tell_how_it_falls():
    after = np.ones(600, dtype=bool)
    after[::40] = False
    bins = Partition(np.random.default_rng(1).integers(0, 20, 600), tuple(f"topic={k}" for k in range(20)))
    told = judge_rehearsal(compare_outcomes(np.ones(600, bool), after, [("topic", bins)]))
    assert told.startswith("Rehearsal: these samples do not tell whether damage is uneven: the lift by `topic` is 1.")
    assert told.endswith("Uniform rehearsal is a safe start.")


def test_without_partitions_uniform_rehearsal_is_a_start():
    told = judge_rehearsal(Comparison(TaskChange(1000, 900, 500, 0), ()))
    assert told == ("Rehearsal: these samples do not tell whether damage is uneven. Uniform rehearsal is a safe start.")


@pytest.mark.parametrize("change", [TaskChange(1000, 900, 0, 0), TaskChange(12, 12, 6, 0)])
def test_where_no_damage_is_shown_rehearsal_has_nothing_to_mend(change):
    assert judge_rehearsal(Comparison(change, ())) == "Rehearsal: no damage was shown that it could prevent."


def test_long_names_are_cut_in_sentences():
    right = np.ones(4000, dtype=bool)
    bins = Partition(np.arange(4000) % 2, ("topic=" + "x" * 10_000, "topic=b"))
    comparison = compare_outcomes(right, bins.bin_ids == 1, [("topic", bins)])
    assert len(judge_damage(comparison)) < 300
