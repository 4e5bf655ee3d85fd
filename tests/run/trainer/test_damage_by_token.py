"""Damage by token on the real trainers, against plain Python on what the models predict before and after."""

import json

import numpy as np
import pytest

import mixcd
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.run_folder import change_to_json
from mixcd.run.trainer.trainer_predictions import predict_now
from mixcd.words.errors import DataError
from tiny_tasks import FAMILIES

TEXTS = ("causal language model", "sequence to sequence", "token classification")


@pytest.fixture(scope="module", params=TEXTS)
def trained(request, tmp_path_factory):
    """Train with rehearsal; return what was right before and after of the held-out data, and all observations."""
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp("trained")
    model = family.make_model()
    model.load_state_dict(family.train_base(folder / "base"))
    trainer = family.make_trainer(model, family.make_rows(80, 2, "new"), folder / "run", max_steps=40)
    sets = {"one": family.make_rows(60, 4, "prior"), "two": family.make_rows(250, 5, "prior")}
    prior = {name: family.make_rows(100, seed, "prior") for seed, name in enumerate(sets, 6)}
    rehearsal = mixcd.attach(trainer, prior, mix_ratio=0.25, held_out=sets, cache_dir=folder / "cache")
    data = PriorDataset(sets)
    before = predict_now(trainer, data, family.rule)["right_tokens"].tolist()
    assert str(rehearsal.evaluate().prior.tokens).count(" 0 tokens right→wrong, 0 wrong→right, net +0.0%") == 1
    seen, learn = [], rehearsal._loop.learn

    def record(observation, *rest):
        seen.append(observation)
        return learn(observation, *rest)

    rehearsal._loop.learn = record
    trainer.train()
    after = predict_now(trainer, data, family.rule)["right_tokens"].tolist()
    return rehearsal, before, after, seen


def count_flips(before, after):
    """Return of each sample its target tokens, and which of them were right before, lost and gained."""
    pairs = [list(zip(was.tolist(), now.tolist(), strict=True)) for was, now in zip(before, after, strict=True)]
    return [
        (len(pair), sum(one for one, _ in pair), pair.count((True, False)), pair.count((False, True))) for pair in pairs
    ]


def test_damage_on_held_out_samples_is_as_in_plain_python(trained):
    rehearsal, before, after, _ = trained
    evaluation, flips = rehearsal.evaluate(), count_flips(before, after)
    parts = {"one": flips[:60], "two": flips[60:]}
    for change, own in ((evaluation.prior, flips), *((evaluation.prior_sets[name], parts[name]) for name in parts)):
        target, right, lost, gained = (sum(column) for column in zip(*own, strict=True))
        tokens = change.tokens
        assert (tokens.target_count, tokens.right_before, tokens.lost_count, tokens.gained_count) == (
            target,
            right,
            lost,
            gained,
        )
        assert tokens.damaged_share == pytest.approx(np.mean([one[2] / max(one[1], 1) for one in own]))
        assert tokens.net_change == (gained - lost) / target
        assert change.lead is tokens
        assert tokens.damaged_interval[0] <= tokens.damaged_share <= tokens.damaged_interval[1]
    assert evaluation.prior.tokens.lost_count > 0
    bins = evaluation.bins.values()
    for name in ("sample_count", "target_count", "right_before", "lost_count", "gained_count", "damaged_count"):
        assert sum(getattr(one.tokens, name) for one in bins) == getattr(evaluation.prior.tokens, name)


def test_counts_sum_the_damage_of_what_was_observed(trained):
    rehearsal, *_, seen = trained
    damage = np.concatenate([one.tokens.damage for one in seen])
    assert ((damage >= 0) & (damage <= 1)).all()
    assert rehearsal.counts.damaged_count.sum() == pytest.approx(damage.sum())
    assert rehearsal.counts.observed_count.sum() == len(damage)
    assert 0 < damage.sum() < len(damage)
    right = rehearsal.predictions.right_tokens
    for one in seen:
        assert one.tokens.right_before.tolist() == right.right_count[one.sample_ids].tolist()
        assert one.tokens.target_count.tolist() == right.counts[one.sample_ids].tolist()
    assert rehearsal.last_step.damaged == pytest.approx(seen[-1].tokens.damage.sum())


def test_a_report_leads_with_tokens_and_shows_whole_samples_beside_them(trained, tmp_path):
    rehearsal, *_ = trained
    rehearsal.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    for said in ("tokens it had right, on average", "Token accuracy", "Damage by token", "sign-flip", "McNemar"):
        assert said in page
    assert page.index("Token accuracy") < page.index("Whole samples: scores")
    told = str(rehearsal.evaluate())
    assert told.startswith("prior task: token accuracy ")
    assert "every target token right: score " in told
    json.dumps(change_to_json(rehearsal.evaluate().prior), allow_nan=False)


def test_a_rule_of_whole_samples_shows_tokens_beside_them(tmp_path):
    family = FAMILIES["causal language model"]
    model = family.make_model()
    trainer = family.make_trainer(model, family.make_rows(40, 2, "new"), tmp_path, max_steps=3)
    rule = mixcd.RightTokens(loss_tolerance=0.5)
    rows = family.make_rows(60, 3, "prior")
    rehearsal = mixcd.attach(trainer, rows, mix_ratio=0.25, held_out=rows, correctness=rule)
    trainer.train()
    change = rehearsal.evaluate().prior
    assert change.lead is change
    assert change.tokens.target_count == 120
    rehearsal.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.index("Whole samples: scores") < page.index("Token accuracy")
    assert "went from right to wrong" in page


def test_a_model_that_has_no_token_right_is_warned_of_and_one_without_targets_is_refused(tmp_path, caplog):
    family = FAMILIES["causal language model"]
    trainer = family.make_trainer(family.make_model(), family.make_rows(40, 2, "new"), tmp_path)
    wrong = family.make_rows(20, 3, "prior").map(lambda row: {"labels": [*row["labels"][:-2], 2, 2]})
    rehearsal = mixcd.attach(trainer, wrong, mix_ratio=0.25, cache_dir=tmp_path / "wrong")
    if rehearsal.predictions.right_tokens.right_count.sum() == 0:
        assert "predicts none of the 40 target tokens of `prior_data`, so none can be damaged" in caplog.text
    rehearsal.detach()
    masked = wrong.map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(DataError, match="No sample of `prior_data` has a target token"):
        mixcd.attach(trainer, masked, mix_ratio=0.25, cache_dir=tmp_path / "masked")
