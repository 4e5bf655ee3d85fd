import weakref

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.checkpoint import checkpoint
from transformers import Trainer

import mixcd
from mixcd.matter.base_model.token_bits import compare_tokens, pack_samples
from mixcd.matter.correctness import EachToken, RightClass
from mixcd.matter.fine_tuned_model.prediction_observer import NEW_SAMPLE, PredictionObserver
from mixcd.words.errors import DataError, PlanError, UnsupportedTrainerError
from mixcd.words.vocabulary import grade_damage
from tiny import make_model, make_rows, make_trainer
from tiny_tasks import FAMILIES


def make_batch(labels):
    ids = torch.arange(3, 3 + 2 * len(labels)).reshape(-1, 2)
    return {"input_ids": ids, "labels": torch.tensor(labels)}


def test_an_observation_is_what_the_forward_pass_showed():
    model, observer, batch = make_model(dropout=0.0), PredictionObserver(RightClass()), make_batch([0, 1, 2])
    with observer.watch(model, torch.tensor([7, NEW_SAMPLE, 2**40]), batch):
        output = model(**batch)
    seen = observer.read_rehearsed(observer.take())
    losses = torch.nn.functional.cross_entropy(output.logits, batch["labels"], reduction="none").detach().numpy()
    assert seen.sample_ids.tolist() == [7, 2**40]
    assert seen.correct.tolist() == (output.logits.argmax(-1) == batch["labels"])[[0, 2]].tolist()
    np.testing.assert_array_equal(seen.loss, losses[[0, 2]].astype(np.float64))


def test_forwards_without_gradients_are_not_read():
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch([0])
    with observer.watch(model, torch.tensor([1]), batch):
        with torch.no_grad():
            model(**batch)
        model(**batch)
    assert len(observer.take()) == 1
    assert observer.forward_count == 1


# --- several passes on one batch ------------------------------------------------------------------------------------

LABELS = [0, 1, 2, 0]
OTHER_TOKENS = {"input_ids": torch.arange(30, 38).reshape(-1, 2)}


def shift(output):
    return output.logits.square().mean()


SEVERAL = {
    "a reference first": lambda model, batch, other: (other.logits.detach(), model(**batch).loss)[1],
    "a reference that takes no part": lambda model, batch, other: (shift(other), model(**batch).loss)[1],
    "a target that is detached": lambda model, batch, other: shift(model(**batch)) + 0 * other.logits.detach().sum(),
    "a reference of weight 0": lambda model, batch, other: model(**batch).loss + 0.0 * shift(other),
    "its logits alone": lambda model, batch, other: shift(model(**batch)),
    "its hidden states alone": lambda model, batch, other: (
        model(**batch, output_hidden_states=True).hidden_states[-1].square().mean()
    ),
}


@pytest.mark.parametrize("backward_inside", [True, False])
@pytest.mark.parametrize("make_loss", SEVERAL.values(), ids=SEVERAL)
def test_the_pass_that_gradients_flow_through_is_read(make_loss, backward_inside, caplog):
    model, observer, batch = make_model(dropout=0.0), PredictionObserver(RightClass()), make_batch(LABELS)
    expected = torch.nn.functional.cross_entropy(model(**batch).logits, batch["labels"], reduction="none")
    with observer.watch(model, torch.arange(4), batch):
        loss = make_loss(model, batch, model(**OTHER_TOKENS))
        if backward_inside:
            loss.backward()
    if not backward_inside:
        loss.backward()
    seen = observer.read_rehearsed(observer.take())
    np.testing.assert_array_equal(seen.loss, expected.detach().numpy().astype(np.float64))
    assert observer.forward_count == 2
    assert not caplog.text


def test_a_reference_pass_after_the_trained_one_is_not_read():
    model, observer, batch = make_model(dropout=0.0), PredictionObserver(RightClass()), make_batch(LABELS)
    with observer.watch(model, torch.arange(4), batch):
        trained = model(**batch)
        (trained.loss + (trained.logits - model(**OTHER_TOKENS).logits.detach()).square().mean()).backward()
    seen = observer.read_rehearsed(observer.take())
    np.testing.assert_allclose(seen.loss.mean(), trained.loss.item(), rtol=1e-6)


def test_a_reference_pass_of_other_rows_does_no_harm():
    model, observer, batch = make_model(dropout=0.0), PredictionObserver(RightClass()), make_batch(LABELS)
    part = {name: value[:3] for name, value in batch.items()}
    with observer.watch(model, torch.arange(4), batch):
        model(**part)
        trained = model(**batch)
        trained.loss.backward()
    np.testing.assert_allclose(observer.read_rehearsed(observer.take()).loss.mean(), trained.loss.item(), rtol=1e-6)


def test_of_several_trained_passes_the_first_that_shows_every_row_is_read_and_that_is_said_once(caplog):
    model, observer, batch = make_model(dropout=0.0), PredictionObserver(RightClass()), make_batch(LABELS)
    part = {name: value[:3] for name, value in batch.items()}
    for _ in range(2):
        with observer.watch(model, torch.arange(4), batch):
            first, whole, other = model(**part), model(**batch), model(**OTHER_TOKENS)
            (first.loss + whole.loss + shift(other)).backward()
    seen = observer.read_rehearsed(observer.take())
    np.testing.assert_allclose(seen.loss[:4].mean(), whole.loss.item(), rtol=1e-6)
    assert len(seen.loss) == 8
    assert caplog.text.count("3 forward passes on one batch are trained on") == 1


def test_a_batch_that_is_trained_on_in_parts_is_refused():
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch(LABELS)
    with observer.watch(model, torch.arange(4), batch):
        for rows in (slice(2), slice(2, 4)):
            model(**{name: value[rows] for name, value in batch.items()}).loss.backward()
    with pytest.raises(UnsupportedTrainerError, match=r"for labels of shape \(4,\)|results of 2"):
        observer.take()


def test_several_passes_of_which_none_was_trained_on_are_refused():
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch([0])
    with observer.watch(model, torch.tensor([1]), batch):
        model(**batch)
        model(**batch)
    with pytest.raises(PlanError, match="called 2 times with gradients on one batch, and no gradient came back"):
        observer.take()


def test_a_trained_pass_whose_gradients_are_all_zero_is_read():
    model, observer, batch = make_model(dropout=0.0), PredictionObserver(RightClass()), make_batch(LABELS)
    with observer.watch(model, torch.arange(4), batch):
        model(**OTHER_TOKENS)
        trained = model(**batch)
        (0.0 * trained.loss).backward()
    np.testing.assert_allclose(observer.read_rehearsed(observer.take()).loss.mean(), trained.loss.item(), rtol=1e-6)


@pytest.mark.parametrize("readable", [True, False])
def test_nothing_of_a_pass_is_kept_but_what_was_read(readable):
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch(LABELS)
    with observer.watch(model, torch.arange(4), batch):
        part = batch if readable else {name: value[:3] for name, value in batch.items()}
        outputs = [model(**part), model(**batch)]
        kept = [weakref.ref(output.logits) for output in outputs]
        outputs[1].loss.backward()
    del outputs
    assert [one() for one in kept] == [None, None]
    assert len(observer.take()) == 4


def test_a_pass_that_is_computed_again_for_its_gradients_is_read_once():
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch(LABELS)
    with observer.watch(model, torch.arange(4), batch):
        checkpoint(
            lambda ids: model(ids, labels=batch["labels"]).loss, batch["input_ids"], use_reentrant=False
        ).backward()
    assert len(observer.take()) == 4


class NearBase(Trainer):
    """Keeps an adapter's model near its base by a pass of the base model, which comes first."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with model.disable_adapter():
            base = model(**inputs).logits.detach()
        output = model(**inputs)
        return output.loss + 1e-6 * (output.logits - base).square().mean()


def test_damage_is_counted_beside_a_term_that_keeps_the_model_near_its_base(base_weights, tmp_path):
    model = make_model(dropout=0.0)
    model.load_state_dict(base_weights)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=64, target_modules="all-linear"))
    settings = {"trainer_class": NearBase, "max_steps": 60, "learning_rate": 2e-2, "remove_unused_columns": True}
    trainer = make_trainer(adapted, make_rows(100, 2, "new"), tmp_path, **settings)
    rehearsal = mixcd.attach(trainer, make_rows(200, 3, "prior"), mix_ratio=0.25, estimator="uniform")
    trainer.train()
    assert rehearsal.forward_count == 2 * 60
    assert rehearsal.counts.observed_count.sum() == 60 * 2
    assert rehearsal.counts.damaged_count.sum() > 5


def test_nothing_is_seen_outside_the_block_or_after_an_error():
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch([0])
    with pytest.raises(KeyError), observer.watch(model, torch.tensor([1]), batch):
        raise KeyError
    model(**batch)
    with pytest.raises(PlanError, match="No forward pass was observed in this step"):
        observer.take()


def test_micro_batches_add_up_and_are_taken_once():
    model, observer = make_model(), PredictionObserver(RightClass())
    for number in range(2):
        batch = make_batch([0, 1])
        with observer.watch(model, torch.tensor([number, NEW_SAMPLE]), batch):
            model(**batch)
    rows = observer.take()
    assert observer.read_rehearsed(rows).sample_ids.tolist() == [0, 1]
    assert observer.read(rows).sample_ids.tolist() == [0, NEW_SAMPLE, 1, NEW_SAMPLE]
    with pytest.raises(PlanError):
        observer.take()


def test_what_cannot_be_observed_is_refused():
    model, observer = make_model(), PredictionObserver(RightClass())
    with (
        pytest.raises(DataError, match=r"`trainer.train_dataset` has no labels"),
        observer.watch(model, torch.tensor([1]), {"input_ids": torch.ones(1, 1)}),
    ):
        pass
    with (
        pytest.raises(UnsupportedTrainerError, match="returned a tuple without `logits`"),
        observer.watch(model, torch.tensor([1]), make_batch([0])),
    ):
        model(**make_batch([0]), return_dict=False)


def test_a_pass_that_shows_no_predictions_is_refused_when_it_ends():
    model, observer, batch = make_model(), PredictionObserver(RightClass()), make_batch(LABELS)
    with (
        pytest.raises(UnsupportedTrainerError, match=r"for labels of shape \(4,\)|results of 3"),
        observer.watch(model, torch.arange(4), batch),
    ):
        model(**{name: value[:3] for name, value in batch.items()})


def make_texts(ids, seed):
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(3, 39, (len(ids), 7)))
    labels = tokens.clone()
    for row, start in enumerate(rng.integers(0, 7, len(ids))):
        labels[row, :start] = -100
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


def read_targets(model, batch):
    """Return which target tokens of each row are right, in plain Python."""
    with torch.no_grad():
        guesses = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    pairs = zip(guesses.tolist(), batch["labels"].tolist(), strict=True)
    return [[a == b for a, b in zip(said[:-1], wanted[1:], strict=True) if b != -100] for said, wanted in pairs]


def test_target_tokens_are_compared_with_the_base_models_and_counts_of_two_processes_are_joined_by_one_gather():
    torch.manual_seed(0)
    model = FAMILIES["causal language model"].make_model().eval()
    ids = [4, NEW_SAMPLE, 0, 2**40, 4, 9]
    batch = make_texts(ids, 0)
    now = read_targets(model, batch)
    before = {sample: np.random.default_rng(sample % 97).random(len(now[row])) < 0.5 for row, sample in enumerate(ids)}
    before[4] = np.ones(len(now[4]), dtype=bool)
    known = sorted({*ids} - {NEW_SAMPLE, 9})
    bits = pack_samples([before[sample] for sample in known])

    def compare(sample_ids, right_now):
        places = np.array([known.index(one) if one in known else -1 for one in sample_ids.tolist()])
        return compare_tokens(bits, places, right_now, sample_ids)

    batch["labels"][0] = batch["labels"][4]  # the same sample twice
    batch["input_ids"][0] = batch["input_ids"][4]
    now = read_targets(model, batch)
    rows = []
    for process in (slice(0, 3), slice(3, 6)):
        observer = PredictionObserver(EachToken(is_shifted=True), compare=compare)
        part = {name: value[process] for name, value in batch.items()}
        with observer.watch(model, torch.tensor(ids[process]), part):
            model(**part).loss.backward()
        rows.append(observer.take())
    assert torch.cat(rows).dtype == torch.int64
    seen = observer.read(torch.cat(rows))
    assert seen.sample_ids.tolist() == ids
    for row, sample in enumerate(ids):
        was = before[sample].tolist() if sample in known else [False] * len(now[row])
        flips = list(zip(was, now[row], strict=True)) if sample in known else []
        counts = [values[row] for values in vars(seen.tokens).values()]
        lost, gained = flips.count((True, False)), flips.count((False, True))
        assert counts == [len(now[row]), sum(one for one, _ in flips), lost, gained]
    assert observer.read_rehearsed(torch.cat(rows)).sample_ids.tolist() == [4, 0, 2**40, 4, 9]
    damage = grade_damage(np.zeros(0, dtype=bool), seen)
    assert ((damage >= 0) & (damage <= 1)).all()
    assert damage[5] == 0  # without a prediction
