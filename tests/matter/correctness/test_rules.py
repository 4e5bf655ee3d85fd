"""What the rules read off outputs, against plain arithmetic; and what they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers.modeling_outputs import (
    CausalLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)

from mixcd.matter.correctness import NearTarget, RightClass, RightLabels, RightSpan, RightTokens, token_rule
from mixcd.matter.correctness.reading import apply_tolerance
from mixcd.words.errors import DataError, SettingError, UnsupportedTrainerError

IDS = np.array([10, 11, 12])
CAUSAL, PAIRED = RightTokens(is_shifted=True), RightTokens(is_shifted=False)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def token_output(labels, vocabulary=7, right=(), seed=0):
    """Logits that predict the label at the positions in `right`, and token 0 elsewhere; labels are never 0."""
    logits = random(*labels.shape, vocabulary, seed=seed)
    logits[..., 0] = 9.0
    for sample, position in right:
        logits[sample, position, labels[sample, position]] = 20.0
    return CausalLMOutput(logits=logits)


# --- classes, sets, spans, numbers ----------------------------------------------------------------------------------


def test_classes_are_read_with_their_logits():
    logits, labels = random(3, 4), torch.tensor([0, 1, 2])
    reading = RightClass().read(SequenceClassifierOutput(logits=logits), {"labels": labels})
    assert reading.correct.tolist() == (logits.argmax(-1) == labels).tolist()
    assert reading.prediction.tolist() == logits.argmax(-1).tolist()
    torch.testing.assert_close(reading.loss, functional.cross_entropy(logits, labels, reduction="none"))
    assert reading.logits is logits


def test_label_sets_are_judged_whole():
    logits, labels = random(3, 4), (random(3, 4, seed=1) > 0).float()
    logits[0] = (labels[0] - 0.5) * 4
    reading = RightLabels().read(SequenceClassifierOutput(logits=logits), {"labels": labels})
    assert reading.correct.tolist() == [True, *((logits > 0) == (labels > 0.5)).all(1)[1:].tolist()]
    expected = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
    torch.testing.assert_close(reading.loss, expected)
    assert reading.prediction is None


def test_spans_are_read_by_both_ends():
    start, end = random(3, 5), random(3, 5, seed=1)
    start[:, 1], end[:, 3] = 9.0, 9.0
    targets = {"start_positions": start.argmax(-1), "end_positions": end.argmax(-1)}
    targets["end_positions"][2] += 1
    output = QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
    reading = RightSpan().read(output, targets)
    assert reading.correct.tolist() == [True, True, False]
    losses = [
        functional.cross_entropy(one, targets[key], reduction="none")
        for one, key in ((start, "start_positions"), (end, "end_positions"))
    ]
    torch.testing.assert_close(reading.loss, sum(losses) / 2)


def test_an_answer_that_ends_before_it_starts_is_never_right_not_even_where_it_is_predicted():
    """`run_qa.py` gives a one-token answer at a context's end the last position as its start, of padding or not."""
    start, end = random(4, 5), random(4, 5)
    mask = torch.tensor([[1, 1, 1, 1, 0], [1] * 5, [1] * 5, [1] * 5])
    targets = {
        "start_positions": torch.tensor([4, 4, 3, 1]),
        "end_positions": torch.tensor([2, 3, 0, 1]),
        "is_token": mask,
    }
    for logits, key in ((start, "start_positions"), (end, "end_positions")):
        logits[torch.arange(4), targets[key]] = 9.0
    output = QuestionAnsweringModelOutput(start_logits=start, end_logits=end)
    RightSpan().require_known(targets, output, np.arange(4), "prior_data")
    reading = RightSpan().read(output, targets)
    assert reading.correct.tolist() == reading.has_target.tolist() == [False, False, False, True]
    assert reading.loss[:3].tolist() == [0.0] * 3
    assert reading.loss[3] > 0
    assert reading.logits.isfinite().all()


def test_an_answer_in_the_padding_of_its_sample_is_refused_and_read_as_never_right():
    output = QuestionAnsweringModelOutput(start_logits=random(3, 4), end_logits=random(3, 4))
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]])
    targets = {
        "start_positions": torch.tensor([1, 2, 3]),
        "end_positions": torch.tensor([2, 2, 3]),
        "is_token": mask,
    }
    with pytest.raises(DataError, match="an answer outside the tokens of its sample on sample 10, 12: such"):
        RightSpan().require_known(targets, output, IDS, "prior_data")
    assert RightSpan().read(output, targets).has_target.tolist() == [False, True, False]


@pytest.mark.parametrize("start", [-1, 4, 99])
def test_a_new_sample_whose_answer_was_cut_off_does_not_stop_training(start):
    """New rows are not looked over; transformers ignores such an answer, too."""
    output = QuestionAnsweringModelOutput(start_logits=random(1, 4), end_logits=random(1, 4))
    targets = {"start_positions": torch.tensor([start]), "end_positions": torch.tensor([99])}
    reading = RightSpan().read(output, targets)
    assert reading.correct.tolist() == [False]
    assert reading.loss.tolist() == [0.0]


@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_numbers_are_judged_by_the_tolerance(shape):
    output = SequenceClassifierOutput(logits=torch.tensor([[1.0], [2.0], [3.0]]))
    targets = {"labels": torch.tensor([1.4, 2.6, 3.0]).reshape(shape)}
    reading = NearTarget(0.5).read(output, targets)
    assert reading.correct.tolist() == [True, False, True]
    torch.testing.assert_close(reading.loss, torch.tensor([0.16, 0.36, 0.0]))
    assert NearTarget(0.5).name == "regression: absolute error ≤ 0.5"


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_causal_model_is_judged_on_the_next_tokens():
    labels = torch.tensor([[-100, 2, 3, 4], [-100, -100, 5, 6], [1, 2, -100, -100]])
    right = [(0, 0), (0, 1), (0, 2), (1, 1)]  # position t predicts token t + 1
    logits = token_output(labels.roll(-1, 1).clamp(min=0), right=right).logits
    reading = CAUSAL.read(CausalLMOutput(logits=logits), {"labels": labels})
    assert reading.correct.tolist() == [True, False, False]
    assert reading.share.tolist() == [1.0, 0.5, 0.0]
    mean = [functional.cross_entropy(logits[row, :-1], labels[row, 1:], ignore_index=-100).item() for row in range(3)]
    torch.testing.assert_close(reading.loss, torch.tensor(mean))
    assert reading.head_mask.tolist() == [[True] * 3 + [False], [False, True, True, False], [True] + [False] * 3]


def test_an_encoder_decoder_is_judged_on_the_tokens_themselves():
    labels = torch.tensor([[2, 3, -100], [4, 5, 6]])
    output = token_output(labels.clamp(min=0), right=[(0, 0), (0, 1), (1, 0), (1, 2)])
    reading = PAIRED.read(output, {"labels": labels})
    assert reading.correct.tolist() == [True, False]
    torch.testing.assert_close(reading.share, torch.tensor([1.0, 2 / 3]))
    mean = [functional.cross_entropy(output.logits[row], labels[row], ignore_index=-100).item() for row in range(2)]
    torch.testing.assert_close(reading.loss, torch.tensor(mean))
    assert reading.head_mask.tolist() == [[True, True, False], [True] * 3]


def test_losses_are_the_same_in_pieces(monkeypatch):
    labels = torch.randint(0, 7, (3, 11), generator=torch.Generator().manual_seed(0))
    output = CausalLMOutput(logits=random(3, 11, 7))
    whole = CAUSAL.read(output, {"labels": labels}).loss
    monkeypatch.setattr(token_rule, "_NUMBERS_AT_ONCE", 50)
    torch.testing.assert_close(CAUSAL.read(output, {"labels": labels}).loss, whole)


def test_a_sample_without_a_target_token_is_never_right():
    labels = torch.full((2, 3), -100)
    labels[1] = 1
    for rule in (CAUSAL, PAIRED, RightTokens(0.01, is_shifted=True), RightTokens(loss_tolerance=9.0, is_shifted=True)):
        reading = rule.read(token_output(labels.clamp(min=0)), {"labels": labels})
        assert not reading.correct[0]
        assert reading.loss[0] == 0
        assert reading.share.isnan().tolist() == [True, False]


def test_a_share_of_the_tokens_may_be_enough():
    labels = torch.tensor([[1, 2, 3, 4, 5]])
    output = token_output(labels, right=[(0, place) for place in range(4)])
    for least, right in ((0.8, True), (0.81, False), (1.0, False)):
        assert RightTokens(least, is_shifted=False).read(output, {"labels": labels}).correct.tolist() == [right]


def test_a_loss_near_the_base_models_may_be_enough():
    rule = RightTokens(loss_tolerance=0.5, is_shifted=False)
    labels = torch.tensor([[1, 2], [3, 4]])
    reading = rule.read(token_output(labels), {"labels": labels})
    assert reading.correct.all()  # by itself every sample with a target is
    kept = apply_tolerance(rule, np.array([True, True, False]), np.array([1.5, 1.6, 0.0]), np.ones(3))
    assert kept.tolist() == [True, False, False]
    assert apply_tolerance(PAIRED, np.array([True]), np.array([9.0]), np.array([0.0])).tolist() == [True]


def test_the_names_tell_rules_apart():
    rules = [RightClass(), RightLabels(), RightSpan(), NearTarget(1.0), NearTarget(2.0), CAUSAL, PAIRED]
    rules += [RightTokens(0.5, is_shifted=True), RightTokens(loss_tolerance=0.5, is_shifted=True)]
    assert len({rule.name for rule in rules}) == len(rules)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: RightTokens(0.0), r"`least_share` is 0.0, but it is a share of the target tokens, in \(0, 1\]"),
        (lambda: RightTokens(1.5), "`least_share` is 1.5"),
        (lambda: RightTokens(loss_tolerance=-1.0), "`loss_tolerance` is -1.0, but it must be finite and not negative"),
        (lambda: RightTokens(0.5, loss_tolerance=0.1), "`least_share` and `loss_tolerance` are both given"),
        (lambda: NearTarget(float("nan")), "`tolerance` is nan, but it must be finite and not negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, part):
    with pytest.raises(SettingError, match=part):
        make()


@pytest.mark.parametrize(
    ("rule", "output", "targets", "part"),
    [
        (RightClass(), (1,), {"labels": torch.tensor([0])}, "a tuple without `logits`"),
        (RightClass(), {"logits": random(2, 1)}, {"labels": torch.tensor([0, 0])}, "a single output"),
        (RightClass(), {"logits": random(2, 3, 4)}, {"labels": torch.tensor([0, 0])}, r"`logits` of shape \(2, 3, 4\)"),
        (RightLabels(), {"logits": random(2, 3)}, {"labels": torch.ones(2, 4)}, r"shape \(2, 3\).* \(2, 4\)"),
        (RightClass(), {"logits": random(2, 3)}, {"labels": torch.tensor([0])}, r"shape \(2, 3\) .* shape \(1,\)"),
        (RightSpan(), {"logits": random(2, 3)}, {}, "a dict without `start_logits` and `end_logits`"),
        (
            RightSpan(),
            {"start_logits": random(2, 3), "end_logits": random(2, 3)},
            {"start_positions": torch.tensor([0]), "end_positions": torch.tensor([1])},
            "`start_logits` of 2 samples for 1 answers",
        ),
        (CAUSAL, {"loss": 1}, {"labels": torch.ones(2, 3)}, "no `logits` for .*computed inside a kernel"),
        (CAUSAL, {"logits": random(2, 5, 7)}, {"labels": torch.ones(2, 3)}, r"`logits` of shape \(2, 5, 7\)"),
        (NearTarget(1.0), {"logits": random(2, 3)}, {"labels": torch.ones(2)}, "one number a target"),
    ],
)
def test_outputs_that_show_no_predictions_are_refused(rule, output, targets, part):
    with pytest.raises(UnsupportedTrainerError, match=part):
        rule.read(output, targets)


@pytest.mark.parametrize(
    ("rule", "targets", "output", "part"),
    [
        (RightClass(), {"labels": torch.tensor([0, 3, -1])}, {"logits": random(3, 3)}, r"has label -1, 3 on sample 11"),
        (RightLabels(), {"labels": torch.tensor([[1.0], [0.5], [0.0]])}, {}, "labels other than 0 and 1 on sample 11"),
        (
            RightSpan(),
            {"start_positions": torch.tensor([0, 4, 1]), "end_positions": torch.tensor([0, 1, 9])},
            {"start_logits": random(3, 4), "end_logits": random(3, 4)},
            "an answer outside the tokens of its sample on sample 11, 12: such",
        ),
        (
            PAIRED,
            {"labels": torch.tensor([[1, -100], [7, 1], [-5, 1]])},
            {"logits": random(3, 2, 7)},
            "labels outside the model's 7 tokens .or classes of tokens. on sample 11, 12",
        ),
        (NearTarget(1.0), {"labels": torch.tensor([1.0, torch.nan, torch.inf])}, {}, "NaN or infinite on sample 11"),
    ],
)
def test_targets_that_cannot_be_predicted_are_refused_by_sample(rule, targets, output, part):
    with pytest.raises(DataError, match=part):
        rule.require_known(targets, output, IDS, "prior_data")


def test_a_batch_without_targets_is_refused():
    for rule, key in ((RightClass(), "labels"), (CAUSAL, "labels"), (RightSpan(), "start_positions")):
        with pytest.raises(DataError, match=f"`prior_data` has no labels.*judged against `{key}`"):
            rule.find_targets({"input_ids": torch.ones(1, 1)}, "prior_data")


# --- what drift is forecast of --------------------------------------------------------------------------------------

SEEDS = given(st.integers(0, 10_000))


@SEEDS
def test_a_label_set_is_right_when_no_wrong_decision_is_ahead(seed):
    logits, labels = random(20, 3, seed=seed), (random(20, 3, seed=seed + 1) > 0).float()
    reading = RightLabels().read(SequenceClassifierOutput(logits=logits), {"labels": labels})
    assert reading.logits.shape == (20, 4)
    assert ((reading.logits.argmax(-1) == 0) == reading.correct).all()


@SEEDS
def test_a_span_is_right_when_no_other_token_is_ahead(seed):
    start, end = random(20, 3, seed=seed), random(20, 3, seed=seed + 1)
    rng = np.random.default_rng(seed)
    starts, ends = np.sort(rng.integers(0, 3, (2, 20)), axis=0)
    targets = {"start_positions": torch.as_tensor(starts), "end_positions": torch.as_tensor(ends)}
    reading = RightSpan().read(QuestionAnsweringModelOutput(start_logits=start, end_logits=end), targets)
    assert reading.logits.shape == (20, 3)
    assert ((reading.logits.argmax(-1) == 0) == reading.correct).all()
    others = start.scatter(1, targets["start_positions"][:, None], -torch.inf).max(1).values
    own = start.gather(1, targets["start_positions"][:, None])[:, 0]
    torch.testing.assert_close(reading.logits[:, 1], others - own)


@pytest.mark.parametrize("tolerance", [0.0, 0.5])
@SEEDS
def test_a_number_is_right_when_it_is_not_too_far_on_either_side(tolerance, seed):
    predicted, wanted = random(20, 2, seed=seed).round(decimals=1), random(20, 2, seed=seed + 1).round(decimals=1)
    reading = NearTarget(tolerance).read(SequenceClassifierOutput(logits=predicted), {"labels": wanted})
    assert reading.logits.shape == (20, 5)
    assert ((reading.logits.argmax(-1) == 0) == reading.correct).all()


@pytest.mark.parametrize("least_share", [1.0, 0.7, 0.5])
@SEEDS
def test_tokens_are_right_when_the_odds_are_for_enough_of_them(least_share, seed):
    """With two tokens in the vocabulary, to be ahead is to have the odds."""
    logits, labels = random(20, 6, 2, seed=seed), (random(20, 6, seed=seed + 1) > 0).long()
    labels[random(20, 6, seed=seed + 2) > 1] = -100
    rule = RightTokens(least_share, is_shifted=False)
    reading = rule.read(CausalLMOutput(logits=logits), {"labels": labels})
    has_target = (labels != -100).any(-1)
    assert ((reading.logits.argmax(-1) == 0) == reading.correct)[has_target].all()


@pytest.mark.parametrize("rule", [CAUSAL, PAIRED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@SEEDS
def test_the_first_of_equally_likely_tokens_counts_as_in_argmax(rule, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (5, 6), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = -100
    logits = torch.randint(0, 3, (5, 6, 3), generator=generator).to(dtype)  # ties in most places
    before = logits.clone()
    reading = rule.read(CausalLMOutput(logits=logits), {"labels": labels})
    shown, wanted = (logits[:, :-1], labels[:, 1:]) if rule is CAUSAL else (logits, labels)
    right = ((shown.argmax(-1) == wanted) & (wanted != -100)).sum(-1)
    torch.testing.assert_close(reading.share, right / (wanted != -100).sum(-1), equal_nan=True)
    assert torch.equal(logits, before)


def test_token_odds_are_those_of_the_weakest_token():
    labels = torch.tensor([[3, 4, -100]])
    logits = random(1, 3, 7)
    reading = RightTokens(is_shifted=False).read(CausalLMOutput(logits=logits), {"labels": labels})
    probability = logits.softmax(-1)[0, [0, 1], [3, 4]]
    expected = torch.log((1 - probability) / probability).max()
    torch.testing.assert_close(reading.logits, torch.stack([torch.tensor(0.0), expected])[None])


def test_there_is_nothing_to_forecast_where_the_base_models_loss_is_the_measure():
    rule = RightTokens(loss_tolerance=0.1, is_shifted=False)
    labels = torch.tensor([[3, 4, -100]])
    assert not rule.has_logits
    assert rule.read(CausalLMOutput(logits=random(1, 3, 7)), {"labels": labels}).logits is None


def test_logits_of_the_surest_and_the_most_hopeless_fit_sixteen_bits():
    labels = torch.tensor([[3], [4]])
    logits = torch.full((2, 1, 7), 0.0)
    logits[:, :, 3] = 1e6
    reading = RightTokens(is_shifted=False).read(CausalLMOutput(logits=logits), {"labels": labels})
    assert torch.isfinite(reading.logits.half()).all()
    masked = torch.ones(1, 1, dtype=torch.long)  # one token, which nothing can be ahead of
    targets = {"start_positions": torch.zeros(1, dtype=torch.long), "end_positions": torch.zeros(1, dtype=torch.long)}
    output = QuestionAnsweringModelOutput(start_logits=random(1, 1), end_logits=random(1, 1))
    reading = RightSpan().read(output, {**targets, "is_token": masked})
    assert torch.isfinite(reading.logits.half()).all()
    assert reading.correct.all()
