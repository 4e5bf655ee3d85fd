from mixcd.run.outcome.evaluation import TaskChange
from mixcd.run.report.change_tables import list_bins, list_damaged, tell_scores


def test_scores_have_intervals_and_flips_both_ways():
    scores, flips = tell_scores({"prior": TaskChange(1000, 800, 50, 10)}).tables
    assert scores.rows == [["prior", "1,000", "0.800 (0.774–0.824)", "0.760 (0.733–0.785)", "-4.0"]]
    assert [str(cell) for cell in flips.rows[0]] == ["prior", "50", "5.0 % (3.8–6.5)", "10", "1.6e-07"]


def test_few_samples_have_no_interval():
    scores, flips = tell_scores({"prior": TaskChange(29, 20, 5, 1)}).tables
    assert scores.rows[0][2] == "0.690"
    assert str(flips.rows[0][2]) == "17.2 %"


def test_all_bins_of_a_table_have_one_scale():
    table = list_bins("By topic", {"hard": TaskChange(100, 90, 30, 0), "easy": TaskChange(100, 90, 1, 0)})
    scales = {row[2].scale for row in table.rows}
    assert scales == {table.rows[0][2].interval[1]}
    assert [row[0] for row in table.rows] == ["hard", "easy"]
    assert list_bins("none", {}).rows == []


def test_a_list_that_is_cut_says_so():
    assert list_damaged(["sample"], [["1"]], 5, "first ones").reading.startswith("1 of 5 damaged samples, first ones.")
    assert list_damaged(["sample"], [["1"]], 1, "first ones").reading.startswith("All damaged samples, first ones.")
