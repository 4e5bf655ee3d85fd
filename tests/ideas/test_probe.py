import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mixcd.ideas.probe import Probe, choose_probed, probe_cost
from mixcd.words.errors import SettingError

FEW = settings(deadline=None, max_examples=60)
SEEDS = st.integers(0, 2**62)


@given(st.integers(1, 200), st.integers(1, 300), st.integers(1, 20), SEEDS, st.integers(0, 10**6))
@FEW
def test_probed_samples_are_distinct_ascending_and_as_many_as_asked_for(
    probed_count, sample_count, every, seed, number
):
    ids = choose_probed(Probe(probed_count, every), sample_count, seed, number * every)
    assert ids.size == min(probed_count, sample_count)
    assert (np.diff(ids) > 0).all()
    assert 0 <= ids.min() <= ids.max() < sample_count


@given(st.integers(1, 50), SEEDS, st.lists(st.integers(0, 500), min_size=1, max_size=20))
@FEW
def test_what_is_probed_depends_on_seed_and_step_alone(every, seed, steps):
    probe = Probe(5, every)
    forward = {step: choose_probed(probe, 1000, seed, step) for step in steps}
    backward = {step: choose_probed(probe, 1000, seed, step) for step in reversed(steps)}
    for step in steps:
        assert (forward[step] is None) == (step % every != 0)
        np.testing.assert_array_equal(forward[step], backward[step])


def test_another_seed_or_step_probes_other_samples():
    chosen = {
        tuple(choose_probed(Probe(20), sample_count, seed, step).tolist())
        for sample_count in (1000, 100_000)
        for seed in (0, 1)
        for step in range(5)
    }
    assert len(chosen) == 2 * 2 * 5


def test_the_use_does_not_change_what_is_probed():
    audit, estimate = (choose_probed(Probe(9, 3, use), 500, 4, 6) for use in ("audit", "estimate"))
    assert audit.tolist() == estimate.tolist()


@pytest.mark.parametrize("sample_count", [50, 20_000])
def test_every_sample_is_as_likely(sample_count):
    probed = np.concatenate([choose_probed(Probe(25), sample_count, 3, step) for step in range(2000)])
    counts = np.bincount(probed * 50 // sample_count, minlength=50)
    assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sample_count": 0},
            "The probe's `sample_count` is 0, but it must be 1 or more. Pass, for example, `Probe(64, every=10)`.",
        ),
        (
            {"sample_count": 64, "every": -1},
            "The probe's `every` is -1, but it must be 1 or more. Pass, for example, `Probe(64, every=10)`.",
        ),
        (
            {"sample_count": 64, "use": "both"},
            'The probe\'s `use` is \'both\', but only "audit" and "estimate" exist. Pass one of them.',
        ),
    ],
)
def test_a_probe_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(SettingError) as failure:
        Probe(**options)
    assert str(failure.value) == message


def test_a_probe_of_as_many_tokens_as_a_step_costs_a_third_of_it():
    assert probe_cost(Probe(32), prior_tokens=20, step_tokens=640) == pytest.approx(1 / 3)


@given(st.integers(1, 1000), st.integers(1, 100), st.floats(1, 500), st.floats(1, 10**5))
@FEW
def test_the_cost_grows_with_the_samples_and_falls_with_the_pause(sample_count, every, prior_tokens, step_tokens):
    def cost(count, pause):
        return probe_cost(Probe(count, pause), prior_tokens=prior_tokens, step_tokens=step_tokens)

    assert cost(2 * sample_count, every) == pytest.approx(2 * cost(sample_count, every))
    assert cost(sample_count, 2 * every) == pytest.approx(cost(sample_count, every) / 2)
