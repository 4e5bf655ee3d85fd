import copy
import json
import re

import numpy as np
import pytest
import torch
from rich.console import Console

import mixcd
from mixcd.edge.cli.comparison_tables import make_summary, print_comparison
from mixcd.edge.compare.comparison import Comparison, compare_outcomes
from mixcd.edge.compare.json_page import comparison_to_json
from mixcd.edge.compare.verdict import judge_damage, judge_rehearsal, list_hardest
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.evaluation import TaskChange, compare_correctness
from mixcd.words.errors import SettingError
from mixcd.words.vocabulary import Partition, TokenChange
from tiny_tasks import FAMILIES
from tiny_tasks import collate as collate_task

FAMILY = FAMILIES["causal language model"]


def collate(rows):
    return collate_task([{name: value for name, value in row.items() if name != "kind"} for row in rows])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base, folder = FAMILY.make_model(), tmp_path_factory.mktemp("base")
    base.load_state_dict(FAMILY.train_base(folder))
    tuned = copy.deepcopy(base)
    FAMILY.make_trainer(tuned, FAMILY.make_rows(80, 2, "new"), folder, max_steps=15).train()
    return base, tuned


@pytest.fixture(scope="module")
def rows():
    rows = FAMILY.make_rows(240, 3, "prior")
    return rows.add_column("kind", [f"k{ids[0] % 3}" for ids in rows["input_ids"]])


@pytest.fixture(scope="module")
def comparison(models, rows):
    return mixcd.compare(*models, rows, collate_fn=collate)


def list_right(model, rows):
    return Inference(model, PriorDataset(rows), FAMILY.rule, collate, 32).predict_all()["right_tokens"].tolist()


def count_flips(models, rows):
    pairs = [list(zip(*one, strict=True)) for one in zip(*(list_right(model, rows) for model in models), strict=True)]
    flips = [
        (len(one), sum(was for was, _ in one), one.count((True, False)), one.count((False, True))) for one in pairs
    ]
    return TokenChange(*np.array(flips).T)


def test_damage_of_texts_is_counted_by_token(comparison, models, rows):
    flips, tokens = count_flips(models, rows), comparison.change.tokens
    assert tokens.lost_count == flips.lost_count.sum() > 0
    assert tokens.gained_count == flips.gained_count.sum()
    assert comparison.damaged_share == tokens.damaged_share == pytest.approx(flips.damage.mean())
    assert comparison.damaged_interval == tokens.damaged_interval
    assert comparison.is_damaged == (tokens.damaged_interval[0] > 0.01)
    worst = [one.sample_id for one in comparison.most_damaged]
    assert sorted(worst) == np.flatnonzero(flips.lost_count).tolist()


def test_bins_are_ranked_by_their_damage_by_token(comparison, models, rows):
    flips = count_flips(models, rows)
    kinds = next(one for one in comparison.partitions if one.name == "kind")
    bounds = [one.change.tokens.damaged_interval[0] for one in kinds.bins]
    assert bounds == sorted(bounds, reverse=True)
    for one in kinds.bins:
        own = np.array(rows["kind"]) == one.name.removeprefix("kind=")
        assert one.change.tokens.damaged_share == pytest.approx(flips[own].damage.mean())


def test_a_cache_gives_the_same_comparison(comparison, models, rows, tmp_path):
    for _ in range(2):
        cached = mixcd.compare(*models, rows, collate_fn=collate, cache_dir=tmp_path / "cache")
        assert cached.change == comparison.change
        assert cached.partitions == comparison.partitions


def test_equal_models_lose_nothing(models, rows):
    same = mixcd.compare(models[0], models[0], rows, collate_fn=collate)
    tokens = same.change.tokens
    assert (tokens.lost_count, tokens.gained_count, tokens.sign_flip_p) == (0, 0, 1.0)
    assert re.match(r"Nothing broke: none of the 240 samples lost a target token that was right. ", judge_damage(same))
    assert same.most_damaged == ()


def test_what_is_printed_and_written_leads_with_tokens(comparison, tmp_path):
    tokens = comparison.change.tokens
    lines = list(make_summary(comparison))
    assert lines[0].startswith(f"score    {tokens.score_before:.3f} → {tokens.score_after:.3f} of 480 target tokens")
    assert lines[2] == f"flips    {tokens.lost_count} tokens right→wrong, {tokens.gained_count} wrong→right"
    assert "sign-flip p" in lines[3]
    assert "every target token right" in lines[-1]
    console = Console(record=True, width=150, file=open("/dev/null", "w"))  # noqa: SIM115
    print_comparison(comparison, console)
    text = " ".join(console.export_text().split())
    assert "of the tokens that a sample had right went wrong, on average" in text
    assert f"most damaged of {tokens.damaged_count} samples" in text
    written = json.loads(json.dumps(comparison_to_json(comparison), allow_nan=False))
    assert written["damaged_share"] == tokens.damaged_share
    assert written["change"]["tokens"]["lost_count"] == tokens.lost_count
    assert all("tokens" in one for partition in written["partitions"] for one in partition["bins"])
    mixcd.write_report(comparison, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    for said in ("mean damage by token", "cluster bootstrap", "Token accuracy", "Whole samples: flips"):
        assert said in page


def test_whole_samples_are_judged_by_name_with_tokens_beside_them(models, rows):
    whole = mixcd.compare(*models, rows, collate_fn=collate, correctness=mixcd.RightTokens())
    assert whole.damaged_share == whole.change.damaged_share == whole.change.damaged_count / 240
    assert "went from right to wrong" in judge_damage(whole)
    assert [line[:9] for line in make_summary(whole)][-1] == "tokens   "


def test_guesses_are_not_taken_off_damage_by_token(models, rows):
    with pytest.raises(SettingError, match="`choices` is 4, but it takes off what guessing among whole answers"):
        mixcd.compare(*models, rows, collate_fn=collate, choices=4)
    assert mixcd.compare(*models, rows, collate_fn=collate, choices=4, correctness="right-tokens").choices == 4


def test_a_base_model_that_has_no_token_right_is_noted(models, rows):
    silent = copy.deepcopy(models[0])
    with torch.no_grad():
        silent.lm_head.weight.zero_()  # always says token 0, which is no target
    notes = mixcd.compare(silent, models[1], rows, collate_fn=collate).notes
    assert (
        "The base model predicts no target token, so none can be damaged. Check the tokenizer and the labels." in notes
    )


def make_comparison(rates, count=120, **settings):
    """Compare bins in which each sample loses this share of 10 tokens, give or take some."""
    rng = np.random.default_rng(0)
    lost = np.concatenate([rng.binomial(10, rate, count) for rate in rates])
    ten = np.full(lost.size, 10)
    tokens = TokenChange(ten, ten, lost, np.zeros_like(lost))
    bins = Partition(np.repeat(np.arange(len(rates)), count), tuple(f"b{number}" for number in range(len(rates))))
    flags = np.ones(lost.size, dtype=bool), lost == 0
    return compare_outcomes(*flags, [("kind", bins)], tokens, is_graded=True, **settings)


def test_the_verdict_names_the_hardest_hit_bins_and_what_drawing_by_them_is_worth():
    uneven = make_comparison([0.02, 0.02, 0.3])
    assert [one.name for one in list_hardest(uneven)] == ["b2"]
    share = f"{uneven.damaged_share:.1%}"
    assert judge_damage(uneven).startswith(
        f"Damage: {share} of the tokens that a sample had right went wrong, on average"
    )
    assert judge_damage(uneven).endswith(
        f"Hardest hit: `b2` {uneven.partitions[0].bins[0].change.tokens.damaged_share:.1%}."
    )
    assert re.search(
        rf"damaged \S+ \(.*\) times as much as drawn uniformly: \S+ of their tokens instead of {share}",
        judge_rehearsal(uneven),
    )
    assert "Rehearsal: damage is even" in judge_rehearsal(make_comparison([0.1, 0.1, 0.1]))


def test_bins_of_few_samples_have_no_interval_and_come_last():
    few = make_comparison([0.3, 0.4], count=20)
    assert few.damaged_interval is not None
    assert [one.change.tokens.damaged_interval for one in few.partitions[0].bins] == [None, None]
    assert [one.name for one in few.partitions[0].bins] == ["b1", "b0"]
    assert list_hardest(few) == []
    print_comparison(few, Console(file=open("/dev/null", "w")))  # noqa: SIM115


def test_too_few_samples_to_tell():
    few = make_comparison([0.3], count=20)
    assert few.is_damaged is None
    assert judge_damage(few).startswith("Too few samples to tell")
    with pytest.raises(SettingError, match="There are 20 samples, but a bound"):
        few.exceeds(0.1)


def test_whole_samples_are_compared_as_they_always_were():
    before, after = np.random.default_rng(0).random((2, 200)) < 0.7
    assert compare_correctness(before, after) == TaskChange(
        200, int(before.sum()), int((before & ~after).sum()), int((~before & after).sum())
    )
    assert "tokens" not in comparison_to_json(Comparison(compare_correctness(before, after), ()))["change"]
