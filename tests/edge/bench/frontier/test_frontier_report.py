import json

import numpy as np
import pytest

from frontier_rows import make_row, make_sweep
from mixcd.edge.bench.frontier.frontier_comparison import match_gain, measure_volumes
from mixcd.edge.bench.frontier.frontier_report import report_frontier
from mixcd.edge.bench.frontier.frontier_runs import gather_runs, join_results, judge_by, require_half
from mixcd.edge.bench.frontier.seed_interval import estimate_mean
from mixcd.words.errors import DataError, SettingError


def find_method(report, name):
    return next(method for method in report.methods if method.name == name)


def find_point(report, name, mix_ratio):
    return next(point for point in find_method(report, name).points if point.mix_ratio == mix_ratio)


def test_scores_differences_and_yield_are_those_of_the_rows():
    report = report_frontier(make_sweep())
    point = find_point(report, "drift", 0.1)
    assert point.new.value == pytest.approx(0.88)
    assert point.prior.value == pytest.approx(0.6 + 0.018 + 0.01)
    assert point.prior_difference.value == pytest.approx(0.018)
    assert point.prior_difference.interval == pytest.approx(estimate_mean(np.array([0.02, 0.018, 0.016])).interval)
    assert point.new_difference.value == pytest.approx(0)
    assert point.yield_rate == 0.2
    assert point.damaged_share.value == pytest.approx(0.9 - point.prior.value)
    assert [one.value for one in report.base] == pytest.approx([0.4, 0.9])
    assert find_point(report, "none", 0.0).yield_rate is None
    assert find_point(report, "uniform", 0.1).prior_difference is None


def test_the_validation_half_has_its_own_scores():
    report = report_frontier(make_sweep(), "validation")
    assert find_point(report, "drift", 0.1).new.value == pytest.approx(0.78)
    assert report.base[0].value == pytest.approx(0.3)


def test_the_order_of_the_rows_does_not_matter():
    rows = make_sweep(methods=("uniform", "drift", "none", "oracle-hard"))
    assert report_frontier(rows) == report_frontier(rows[::-1])


def test_at_equal_new_scores_the_matched_gain_is_the_paired_difference():
    point = find_point(report_frontier(make_sweep()), "drift", 0.3)
    assert point.matched.match == "matched"
    assert point.matched.gain.value == pytest.approx(point.prior_difference.value)
    assert point.matched.gain.interval == pytest.approx(point.prior_difference.interval)


@pytest.mark.parametrize(
    ("new", "match", "gain"), [(0.95, "clamped", -0.1), (0.87, "matched", -0.15), (0.8, "none", None)]
)
def test_new_scores_beyond_the_reference_are_clamped_above_and_unmatched_below(new, match, gain):
    rows = [*make_sweep(seeds=2), *(make_row("rival", 0.2, seed, new=new, prior=0.5 + 0.01 * seed) for seed in (0, 1))]
    matched = find_point(report_frontier(rows), "rival", 0.2).matched
    assert matched.match == match
    if gain is None:
        assert matched.gain is None
    else:
        assert matched.gain.value == pytest.approx(gain)


def test_below_all_that_the_reference_offers_nothing_matches_even_if_it_was_once_as_low():
    worse = [make_row("uniform", 0.5, seed, new=0.7, prior=0.4) for seed in (0, 1)]  # than uniform elsewhere
    rows = [*make_sweep(seeds=2), *worse, *(make_row("rival", 0.2, seed, new=0.75, prior=0.6) for seed in (0, 1))]
    matched = find_point(report_frontier(rows), "rival", 0.2).matched
    assert (matched.gain, matched.match) == (None, "none")


def test_ten_seeds_are_bootstrapped_with_method_and_reference_together():
    point = find_point(report_frontier(make_sweep(seeds=10)), "drift", 0.3)
    low, high = point.matched.gain.interval
    assert 0 < low < point.matched.gain.value < high < 0.02  # seeds differ by far more than their differences do


def test_any_method_is_compared_with_any_other():
    runs = gather_runs(make_sweep(), "test")
    gain, back = match_gain(runs["drift"], 0.1, runs["uniform"]), match_gain(runs["uniform"], 0.1, runs["drift"])
    assert gain.gain.value == pytest.approx(-back.gain.value)
    assert find_point(report_frontier(make_sweep(), against="drift"), "uniform", 0.1).matched == back


def test_only_seeds_of_both_are_paired_and_it_is_said():
    rows = [row for row in make_sweep(seeds=4) if (row["method"], row["seed"]) not in {("drift", 0), ("uniform", 3)}]
    report = report_frontier(rows)
    point = find_point(report, "drift", 0.1)
    assert (point.prior.seed_count, point.prior_difference.seed_count, point.matched.gain.seed_count) == (3, 2, 2)
    assert point.prior_difference.value == pytest.approx(np.mean([0.018, 0.016]))
    assert "Not every run has every seed" in report.notes[0]
    assert find_method(report, "drift").volume_difference.seed_count == 2


def test_without_a_shared_seed_there_is_no_comparison():
    rows = [row for row in make_sweep(seeds=2) if (row["method"] == "drift") == (row["seed"] == 1)]
    point = find_point(report_frontier(rows), "drift", 0.1)
    assert point.prior_difference is None
    assert point.matched is None


def test_one_seed_has_no_intervals_and_it_is_said():
    report = report_frontier(make_sweep(seeds=1, methods=("uniform", "drift", "none", "oracle-hard")))
    point = find_point(report, "drift", 0.1)
    assert point.prior.interval is None
    assert point.matched.gain.interval is None
    assert point.headroom.is_there is None
    assert report.notes == ("Fewer than 2 seeds: there are no intervals, and one seed decides nothing.",)


def test_volumes_lie_above_the_base_models_new_and_plain_fine_tunings_prior_score():
    report = report_frontier(make_sweep(seeds=2))
    # uniform: (0.88, 0.6) and (0.84, 0.8) above (0.4, 0.5); both scores of a seed move together
    assert find_method(report, "uniform").volume.value == pytest.approx(0.48 * 0.1 + 0.44 * 0.2)
    drift = find_method(report, "drift")
    assert drift.volume_difference.value == pytest.approx(np.mean([0.48 * 0.02, 0.48 * 0.018]))
    assert find_method(report, "none").volume.value == 0
    assert find_method(report, "none").volume_difference is None


def test_volumes_are_compared_over_the_mix_ratios_of_both():
    rows = [*make_sweep(seeds=2), *(make_row("drift", 0.5, seed, new=0.7, prior=0.95) for seed in (0, 1))]
    more, same = (find_method(report_frontier(one), "drift") for one in (rows, make_sweep(seeds=2)))
    assert more.volume.value > same.volume.value
    assert more.volume_difference == same.volume_difference


def test_without_plain_fine_tuning_there_are_no_volumes_and_it_is_said():
    report = report_frontier(make_sweep(methods=("uniform", "drift")))
    assert [method.volume for method in report.methods] == [None, None]
    assert 'No "none" runs: without plain fine-tuning there is no reference for volumes.' in report.notes
    assert measure_volumes({}, [], {}) == {}


def test_captured_headroom_is_of_the_named_or_the_default_oracle():
    rows = make_sweep(methods=("uniform", "drift", "oracle-hard"))
    report = report_frontier(rows)
    headroom = find_point(report, "drift", 0.1).headroom
    assert headroom.is_there
    assert headroom.captured.value == pytest.approx(0.018 / 0.042)
    assert find_point(report, "oracle-hard", 0.1).headroom is None
    assert find_point(report, "uniform", 0.1).headroom is None
    named = report_frontier([{**row, "method": row["method"].replace("hard", "mine")} for row in rows])
    assert any("there is no captured headroom" in note for note in named.notes)
    renamed = [{**row, "method": row["method"].replace("hard", "mine")} for row in rows]
    assert find_point(report_frontier(renamed, oracle="oracle-mine"), "drift", 0.1).headroom == headroom


def test_an_oracle_that_gains_nothing_leaves_no_headroom():
    rows = [
        {**row, "prior_after_test": 0.6 + 0.01 * row["seed"] ** 2} if row["method"] == "oracle-hard" else row
        for row in make_sweep(methods=("uniform", "drift", "oracle-hard"))
    ]
    headroom = find_point(report_frontier(rows), "drift", 0.1).headroom
    assert headroom.is_there is False
    assert headroom.captured is None


def test_averages_with_the_base_model_are_methods_of_their_own():
    rows = [*make_sweep(seeds=2), *make_sweep(seeds=2, methods=("drift",), wise_ft=0.7)]
    report = report_frontier(rows)
    assert [method.name for method in report.methods] == ["drift", "drift + WiSE-FT 0.7", "none", "uniform"]
    assert find_method(report, "drift + WiSE-FT 0.7").points[0].prior_difference.seed_count == 2


def test_oracles_are_not_on_the_frontier_and_push_nobody_off():
    report = report_frontier(make_sweep(methods=("uniform", "drift", "oracle-hard")))
    on = {(method.name, point.mix_ratio) for method in report.methods for point in method.points if point.is_pareto}
    assert on == {("drift", 0.1), ("drift", 0.3)}


def test_the_same_run_twice_counts_once():
    rows = make_sweep()
    again = [{**row, "seconds": 9.0, "provenance": '{"when": "later"}', "prior_pass_forward_count": 0} for row in rows]
    assert join_results([rows, again]) == rows
    assert len(join_results([make_sweep(methods=("uniform",)), make_sweep(methods=("drift",))])) == 12


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "The results hold no runs, but a frontier needs at least one. Run `mixcd sweep` first."),
        (
            [[make_row()], [make_row("drift", task="other")]],
            "The results are of the tasks `toy` and `other`, but a frontier is of one task. Pass the files of one.",
        ),
        (
            [[make_row("drift", seed=2)], [make_row("drift", seed=2, prior=0.71)]],
            "The run of `drift` at mix ratio 0.25, seed 2 is there twice, with different numbers. A run counts once.",
        ),
        (
            [[make_row(settings='{"lag": 1}')], [make_row(seed=1, settings='{"lag": 2}')]],
            "The runs of `uniform` have different settings: `lag` is 1 and 2. Runs of one name must be alike.",
        ),
    ],
)
def test_results_that_do_not_fit_together_are_refused(files, message):
    with pytest.raises(DataError) as error:
        join_results(files)
    assert str(error.value).startswith(message)


def test_names_that_are_not_there_are_refused():
    for arguments, message in (
        ({"against": "unifrom"}, "but the results hold no run of it, did you mean `uniform`?"),
        ({"oracle": "x"}, "`oracle` names the method `x`, but the results hold no run of it (known: `drift`, `none`"),
    ):
        with pytest.raises(SettingError) as error:
            report_frontier(make_sweep(), **arguments)
        assert message in str(error.value)
    with pytest.raises(SettingError, match="`tset` is not a half of the held-out data, did you mean `test`\\?$"):
        require_half("tset")


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(DataError, match="The run of `drift` at mix ratio 0.25, seed 0, WiSE-FT 0.5 has the scores nan"):
        report_frontier([make_row(), make_row("drift", wise_ft=0.5, new=float("nan"))])


def measured(rows, **values):
    measures = json.dumps(dict.fromkeys(("before", "after"), values))
    return [{**row, "measures": measures} for row in rows]


def test_another_measure_takes_the_place_of_accuracy():
    rows = judge_by(measured(make_sweep(), prior_f1=0.25, new_f1=0.75), "f1")
    report = report_frontier(rows)
    point = find_point(report, "drift", 0.1)
    assert (point.prior.value, point.new.value, report.base[0].value) == (0.25, 0.75, 0.75)
    assert report.task == "toy, f1"


def test_a_measure_that_was_not_taken_is_refused():
    rows = measured(make_sweep(1), prior_f1=0.25, new_f1=0.75)
    with pytest.raises(SettingError, match="`drift` at mix ratio 0.1, seed 0 was not measured by `f2` "):
        judge_by(rows[2:], "f2")
    with pytest.raises(SettingError, match="was not measured by `f1`"):
        judge_by(make_sweep(1), "f1")
