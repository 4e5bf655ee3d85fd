"""Batches whose samples stand in one row: each sample's result is what it would be alone, or the batch is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DataCollatorWithFlattening, OPTConfig, OPTForCausalLM, Trainer, TrainingArguments

import mixcd
from device import USE_CPU
from mixcd.matter.base_model.batched_inference import collate, put_results
from mixcd.matter.base_model.inference import Inference
from mixcd.matter.correctness import RightClass
from mixcd.matter.model_shape.joined_rows import find_own, require_known_starts
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.trainer_predictions import predict_now
from mixcd.words.errors import UnsupportedTrainerError
from tiny_tasks import FAMILIES, SMALL, causal_row

FAMILY = FAMILIES["causal language model"]
RULE = mixcd.RightTokens(loss_tolerance=1.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return FAMILY.train_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def model(weights):
    made = FAMILY.make_model()
    made.load_state_dict(weights)
    return made


def make_rows(count, seed, task):
    rng = np.random.default_rng(seed)
    rows = [causal_row(rng, task) for _ in range(count)]
    return [{name: row[name] for name in ("input_ids", "labels")} for row in rows]


def make_trainer(model, folder, collator, **settings):
    args = TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 16,
            "max_steps": 10,
            "learning_rate": 0.0,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": USE_CPU,
            "dataloader_pin_memory": False,
            **settings,
        }
    )
    return Trainer(model=model, args=args, train_dataset=make_rows(80, 2, "new"), data_collator=collator)


def predict_alone(model, rows):
    """Predict each row in a batch of its own, without a mask or a cache."""

    def collate_alone(part):
        return {name: torch.tensor([row[name] for row in part]).to(model.device) for name in part[0]}

    rule = mixcd.RightTokens(is_shifted=True)
    return Inference(model.eval(), PriorDataset(rows), rule, collate_alone, batch_size=1).predict_all()


SETTINGS = [
    {},
    {"return_flash_attn_kwargs": True},
    {"return_seq_idx": True},
    {"separator_id": 5},
    {"position_ids_start": 2},
    {"return_flash_attn_kwargs": True, "return_seq_idx": True, "separator_id": 0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_samples_that_are_joined_are_observed_as_if_they_were_alone(settings, attention, model, tmp_path):
    model.set_attn_implementation(attention)
    prior = make_rows(200, 3, "prior")
    trainer = make_trainer(model, tmp_path, DataCollatorWithFlattening(**settings), gradient_accumulation_steps=2)
    held_out = make_rows(50, 4, "prior")
    rehearsal = mixcd.attach(trainer, prior, mix_ratio=0.25, held_out=held_out)
    with torch.no_grad():
        alone = predict_alone(model, prior)
    predictions, seen = rehearsal.predictions, []
    np.testing.assert_array_equal(predictions.correct, alone["correct"])
    np.testing.assert_allclose(predictions.loss, alone["loss"], atol=1e-5)
    np.testing.assert_array_equal(predictions.token_count, [len(row["input_ids"]) for row in prior])
    assert 0.3 < alone["correct"].mean() < 0.99  # some of both, or the test shows nothing
    learn = rehearsal._loop.learn
    rehearsal._loop.learn = lambda observation, *rest: seen.append(observation) or learn(observation, *rest)
    trainer.train()
    assert len(seen) == 10
    for observation in seen:
        np.testing.assert_array_equal(observation.correct, alone["correct"][observation.sample_ids])
        np.testing.assert_allclose(observation.loss, alone["loss"][observation.sample_ids], atol=1e-5)
    assert rehearsal.counts.observed_count.sum() == 10 * 4
    assert rehearsal.counts.damaged_count.sum() == 0
    change = rehearsal.evaluate().prior
    assert (change.damaged_count, change.gained_count) == (0, 0)


def test_the_loss_of_joined_samples_is_what_the_trainer_evaluates(model, tmp_path):
    trainer = make_trainer(model, tmp_path, DataCollatorWithFlattening())
    rows = make_rows(64, 4, "prior")
    found = predict_now(trainer, PriorDataset(rows), mixcd.RightTokens(is_shifted=True))
    ours = found["loss"].reshape(4, 16)  # two target tokens a sample
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(ours.mean(), abs=1e-6)


def test_joined_samples_are_rehearsed_in_a_loop_of_ones_own(model, tmp_path):
    model.config.use_cache = False
    collator, prior = DataCollatorWithFlattening(), make_rows(100, 3, "prior")
    rehearsal = mixcd.rehearse(
        model, make_rows(60, 2, "new"), prior, tmp_path, mix_ratio=0.25, batch_size=8, collate_fn=collator
    )
    with torch.no_grad():
        alone = predict_alone(model, prior)
    np.testing.assert_array_equal(rehearsal.predictions.correct, alone["correct"])
    for batch in rehearsal.loader():
        with rehearsal.observe(model, batch) as inputs:
            loss = model(**inputs).loss
        loss.backward()
        rehearsal.commit()
    assert rehearsal.counts.observed_count.sum() == rehearsal.steps_per_epoch * 2
    assert rehearsal.counts.damaged_count.sum() == 0


def test_joined_samples_are_compared_as_if_they_were_alone(model, weights):
    other = FAMILY.make_model()
    other.load_state_dict(weights)
    assert model.config.use_cache  # as it is loaded
    rows = make_rows(48, 3, "prior")
    found = mixcd.compare(model, other, rows, collate_fn=DataCollatorWithFlattening(), progress=False)
    with torch.no_grad():
        alone = predict_alone(model, rows)
    assert found.change.score_before == found.change.score_after == alone["correct"].mean()


# --- refusals -------------------------------------------------------------------------------------------------------


def test_a_collator_that_hides_where_samples_start_is_refused_by_name(model, tmp_path):
    trainer = make_trainer(model, tmp_path, DataCollatorWithFlattening(return_position_ids=False))
    with pytest.raises(UnsupportedTrainerError, match="`DataCollatorWithFlattening` joined . samples in one row, but"):
        mixcd.attach(trainer, make_rows(50, 3, "prior"), mix_ratio=0.25)


def test_an_attention_that_ignores_where_samples_start_is_refused(model, tmp_path):
    collator = DataCollatorWithFlattening(return_position_ids=False, return_flash_attn_kwargs=True)
    trainer = make_trainer(model, tmp_path, collator)
    with pytest.raises(UnsupportedTrainerError, match=r"with sdpa attention mixes them up: the batch has no `position"):
        mixcd.attach(trainer, make_rows(50, 3, "prior"), mix_ratio=0.25)
    assert not (tmp_path / "mixcd").exists()


def test_a_model_that_mixes_up_joined_samples_is_refused_by_name(tmp_path):
    torch.manual_seed(0)
    opt = OPTForCausalLM(
        OPTConfig(
            vocab_size=SMALL["vocab_size"],
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            init_std=0.5,
        )
    )
    rows, collator = make_rows(50, 3, "prior"), DataCollatorWithFlattening()
    said = "`DataCollatorWithFlattening` joins the samples .* but `OPTForCausalLM` with sdpa attention mixes them up"
    with pytest.raises(UnsupportedTrainerError, match=said):
        mixcd.attach(make_trainer(opt, tmp_path, collator), rows, mix_ratio=0.25, correctness=RULE)
    with pytest.raises(UnsupportedTrainerError, match=said):
        mixcd.compare(opt, opt, rows, collate_fn=collator, progress=False)


def test_training_on_joined_samples_with_a_cache_is_refused(model, tmp_path):
    collator, new, prior = DataCollatorWithFlattening(), make_rows(20, 2, "new"), make_rows(50, 3, "prior")
    said = r"`DataCollatorWithFlattening` joins .* Set `model.config.use_cache = False`"
    with pytest.raises(UnsupportedTrainerError, match=said):
        mixcd.rehearse(model, new, prior, tmp_path, mix_ratio=0.25, batch_size=8, collate_fn=collator)
    trainer = make_trainer(model, tmp_path, collator, use_cache=True)
    with pytest.raises(UnsupportedTrainerError, match=said):
        mixcd.attach(trainer, prior, mix_ratio=0.25)


def test_results_of_another_number_of_rows_are_never_spread():
    arrays = {}
    with pytest.raises(UnsupportedTrainerError, match="A batch of 3 samples came back from the model as results of 1"):
        put_results(arrays, np.array([4, 2, 0]), {"loss": np.zeros(1)}, 5)
    with pytest.raises(UnsupportedTrainerError, match="A batch of 2 samples .* of 3"):
        put_results(arrays, slice(3, 9), {"loss": np.zeros(3)}, 5)
    assert not arrays


class FirstRow(torch.nn.Module):
    """Predicts the first row of a batch alone."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(1, 2)

    def forward(self, x, labels=None):
        return {"logits": self.head(x[:1])}


def test_a_model_that_answers_for_part_of_a_batch_is_refused():
    rows = [{"x": float(number), "labels": 0} for number in range(4)]
    with pytest.raises(UnsupportedTrainerError, match=r"logits` of shape \(1, 2\)|results of 1"):
        Inference(
            FirstRow(),
            PriorDataset(rows),
            RightClass(),
            lambda part: {
                "x": torch.tensor([[row["x"]] for row in part]),
                "labels": torch.tensor([row["labels"] for row in part]),
            },
            batch_size=4,
        ).predict_all()


# --- where samples start --------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=8), settings=st.sampled_from(SETTINGS))
def test_every_token_of_a_joined_row_is_one_samples_own(lengths, settings):
    rows = [{"input_ids": [7] * length, "labels": [7] * length} for length in lengths]
    own = find_own(collate(DataCollatorWithFlattening(**settings), rows), len(rows))
    assert own.sum(1).tolist() == lengths
    assert own.int().argmax(0).tolist() == np.repeat(np.arange(len(lengths)), lengths).tolist()
    assert (own.sum(0) == 1).all()


def test_rows_of_one_sample_each_are_left_alone():
    batch = {"input_ids": torch.ones(2, 3), "position_ids": torch.tensor([[0, 1, 0], [0, 0, 1]])}
    require_known_starts(batch, 2, "it")
    assert find_own(batch, 2) is None
    one = {"input_ids": torch.ones(1, 3), "position_ids": torch.tensor([[0, 1, 0]])}
    require_known_starts(one, 1, "it")
    assert find_own(one, 1) is None


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"position_ids": torch.tensor([[0, 1, 2, 3]])},
        {"position_ids": torch.tensor([[0, 0, 0, 1]])},
        {"cu_seq_lens_q": torch.tensor([0, 4])},
        {"cu_seq_lens_q": torch.tensor([0, 2, 3])},
    ],
    ids=["nowhere", "one", "three", "one by starts", "not to the end"],
)
def test_a_joined_row_of_another_number_of_samples_is_refused(more):
    with pytest.raises(UnsupportedTrainerError, match="`it` joined 2 samples in one row, but the row does not say"):
        require_known_starts({"input_ids": torch.ones(1, 4), **more}, 2, "it")
