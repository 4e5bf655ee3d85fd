"""Rehearsal on rows that hold several samples: TRL's packing, and others' by what their batches show."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithFlattening

import mixcd
from mixcd.words.errors import DataError, SettingError, UnsupportedTrainerError
from processes import launch
from tiny_packed import MAX_LENGTH, make_packing_trainer, make_texts
from tiny_sft import make_model, make_rows, make_sft_trainer

PRIOR_COUNT = 150


def attach(trainer, prior=None, **settings):
    prior = make_texts(PRIOR_COUNT, seed=1) if prior is None else prior
    return mixcd.attach(trainer, prior, mix_ratio=0.25, **settings)


@pytest.fixture
def build(tmp_path):
    def make(*, prior=None, mix_unit=None, held_out=None, correctness=None, lag=None, **settings):
        trainer = make_packing_trainer(tmp_path / "run", **settings)
        rehearsal = attach(trainer, prior, mix_unit=mix_unit, held_out=held_out, correctness=correctness, lag=lag)
        return trainer, rehearsal, record(rehearsal)

    return make


def record(rehearsal):
    """Return a list that fills with the block and the observation of each step."""
    seen, learn, plan, blocks = [], rehearsal._loop.learn, rehearsal._loop.block, {}

    def recorded(observation, *rest):
        seen.append((blocks[rehearsal._loop.steps_done], observation))
        return learn(observation, *rest)

    def planned(step):
        rows = plan(step)
        blocks[step] = rows.tolist()
        return rows

    rehearsal._loop.learn, rehearsal._loop.block = recorded, planned
    return seen


def assert_observed_as_predicted(rehearsal, seen, tolerance=1e-6):
    for _, observation in seen:
        np.testing.assert_allclose(
            observation.loss, rehearsal.predictions.loss[observation.sample_ids], rtol=0, atol=tolerance
        )
    assert rehearsal.counts.damaged_count.sum() == 0
    assert rehearsal.counts.observed_count.sum() > 0


def draws_of(seen):
    return [(block, sorted(observation.sample_ids.tolist())) for block, observation in seen]


# --- what is trained on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mix_unit", ["tokens", "rows"])
def test_each_packed_sample_is_trained_on_at_its_cached_loss_and_none_is_damaged(build, attention, mix_unit):
    trainer, rehearsal, seen = build(
        learning_rate=0.0, max_steps=20, gradient_accumulation_steps=2, attention=attention, mix_unit=mix_unit
    )
    trainer.train()
    assert_observed_as_predicted(rehearsal, seen)
    assert max(len(slot) for block, _ in seen for slot in block if isinstance(slot, tuple)) > 2
    assert rehearsal.forward_count == 40


def test_a_packed_batch_looks_as_if_the_trainer_had_packed_all_of_it(build):
    trainer, rehearsal, _ = build()
    new_count = len(trainer.train_dataset)
    rows = rehearsal._seam._mixed_data.__getitems__([0, (new_count + 3, new_count + 5), 2])
    assert [len(ids) for ids, _ in rows] == [len(row["seq_lengths"]) for _, row in rows]
    assert rows[1][0] == (3, 5)
    new, pack = rows[0][1], rows[1][1]
    assert {name: type(value) for name, value in pack.items()} == {name: type(value) for name, value in new.items()}
    prior = rehearsal._seam.prior.rows([3, 5])
    assert pack["input_ids"] == prior[0]["input_ids"] + prior[1]["input_ids"]
    assert pack["seq_lengths"] == [len(row["input_ids"]) for row in prior]


def test_the_mix_ratio_is_a_share_of_the_tokens_that_the_trainer_counts(build):
    trainer, rehearsal, seen = build(max_steps=30)
    trainer.train()
    mixture = rehearsal._loop.state.mixture
    assert mixture.all_tokens == trainer._total_train_tokens
    tokens = rehearsal.predictions.token_count
    assert mixture.prior_tokens == sum(int(tokens[one.sample_ids].sum()) for _, one in seen)
    assert abs(mixture.error(0.25)) <= MAX_LENGTH
    assert mixture.new_row_count == sum(isinstance(slot, int) for block, _ in seen for slot in block)


def test_rows_are_mixed_by_rows_on_demand(build):
    trainer, _, seen = build(max_steps=10, mix_unit="rows", per_device_train_batch_size=8)
    trainer.train()
    assert [sum(isinstance(slot, tuple) for slot in block) for block, _ in seen] == [2] * 10


def test_rows_that_are_not_packed_are_mixed_by_tokens_on_demand(build):
    trainer, rehearsal, seen = build(max_steps=20, mix_unit="tokens", packing=False)
    trainer.train()
    mixture = rehearsal._loop.state.mixture
    assert mixture.all_tokens == trainer._total_train_tokens
    assert abs(mixture.error(0.25)) <= MAX_LENGTH
    assert {type(slot) for block, _ in seen for slot in block} == {int}


def test_an_epoch_takes_every_new_row_about_once(build):
    trainer, rehearsal, seen = build(max_steps=-1, num_train_epochs=2)
    trainer.train()
    rows = len(trainer.train_dataset)
    assert len(seen) == 2 * rehearsal._loop.steps_per_epoch
    assert rehearsal._loop.state.mixture.new_row_count == pytest.approx(2 * rows, rel=0.1)


def test_chances_are_those_of_the_samples_that_were_drawn(tmp_path):
    """Of uniform draws every chance is 1, however many samples a step took."""
    trainer = make_packing_trainer(tmp_path, max_steps=6)
    rehearsal = attach(trainer, estimator="uniform")
    for step in range(6):
        rehearsal._loop.block(step)
        chances = rehearsal._loop._planned[step].draw.chances
        np.testing.assert_allclose(chances, 1.0, rtol=1e-2)


def test_wrapped_rows_stand_beside_single_prior_rows(build):
    trainer, rehearsal, seen = build(learning_rate=0.0, max_steps=10, packing_strategy="wrapped")
    trainer.train()
    assert_observed_as_predicted(rehearsal, seen, tolerance=2e-6)
    assert {type(slot) for block, _ in seen for slot in block} == {int}
    assert abs(rehearsal._loop.state.mixture.error(0.25)) <= MAX_LENGTH


def test_held_out_samples_are_judged_one_by_one(build):
    trainer, rehearsal, _ = build(held_out=make_texts(30, seed=5), max_steps=3, eval_dataset=make_texts(40, seed=6))
    assert "seq_lengths" in trainer.eval_dataset.column_names
    trainer.train()
    change = rehearsal.evaluate()
    assert (change.prior.sample_count, change.new.sample_count) == (30, 40)


# --- the same draws ---------------------------------------------------------------------------------------------------


def test_a_run_that_was_interrupted_goes_on_bit_for_bit(build, tmp_path):
    saving = {"max_steps": 16, "save_strategy": "steps", "save_steps": 7, "dataloader_num_workers": 2}
    whole, rehearsal, seen = build(**saving)
    whole.train()
    again, resumed, later = build(**saving)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-7"))
    assert draws_of(later) == draws_of(seen[7:])
    assert resumed._loop.state.mixture == rehearsal._loop.state.mixture
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_workers_change_no_draw(build):
    found = []
    for workers in (0, 2):
        trainer, _, seen = build(max_steps=12, dataloader_num_workers=workers, learning_rate=1e-2)
        trainer.train()
        found.append(draws_of(seen))
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_processes_train_as_one_with_accumulation(tmp_path):
    (alone,) = launch(1, tmp_path / "one", "--accumulation=2", worker="packing_worker.py")
    first, second = launch(2, tmp_path / "two", "--accumulation=1", worker="packing_worker.py")
    assert first["blocks"] == second["blocks"] == alone["blocks"]
    assert first["mixture"] == second["mixture"] == alone["mixture"]
    assert first["observed_count"] == second["observed_count"] == alone["observed_count"]
    assert first["weights"] == second["weights"] == alone["weights"]


# --- other trainers' rows, by what they show --------------------------------------------------------------------------


def pack_by_positions(texts, trainer):
    """Rows of three samples each that say by their positions where each starts."""
    rows = []
    for start in range(0, len(texts) - 2, 3):
        ids = [trainer.processing_class(texts[start + n]["text"])["input_ids"] for n in range(3)]
        flat = [token for one in ids for token in one]
        positions = [place for one in ids for place in range(len(one))]
        rows.append({"input_ids": flat, "labels": flat, "position_ids": positions})
    return Dataset.from_list(rows)


def join_with_positions(rows):
    """A collator that joins rows, keeping the positions that they bring: as ms-swift's template does."""
    flat = {name: [token for row in rows for token in row[name]] for name in ("input_ids", "labels")}
    positions = [place for row in rows for place in row.get("position_ids", range(len(row["input_ids"])))]
    batch = {name: torch.tensor([values]) for name, values in {**flat, "position_ids": positions}.items()}
    batch["labels"][batch["position_ids"] == 0] = -100
    return batch


def make_swift_like(folder, collator, packed=True, **settings):
    from transformers import Trainer, TrainingArguments

    trainer = make_sft_trainer(make_model(), make_rows(20, "new", kind="text"), folder / "sft")
    texts = make_texts(90, seed=2)
    if packed:
        data = pack_by_positions(texts, trainer)
    else:
        data = Dataset.from_list(
            [
                {key: trainer.processing_class(row["text"])["input_ids"] for key in ("input_ids", "labels")}
                for row in texts
            ]
        )
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=4, max_steps=6, report_to="none", use_cpu=True, save_strategy="no",
        learning_rate=0.0, disable_tqdm=True,
    )  # fmt: skip
    made = Trainer(make_model(), args, train_dataset=data, data_collator=collator)
    for name, value in settings.items():
        setattr(made, name, value)
    prior = [
        {"input_ids": ids, "labels": ids, "position_ids": list(range(len(ids)))}
        for ids in (trainer.processing_class(row["text"])["input_ids"] for row in make_texts(60, seed=3))
    ]
    return made, prior if packed else [{key: row[key] for key in ("input_ids", "labels")} for row in prior]


def test_rows_that_show_their_samples_by_positions_are_followed_and_prior_samples_stay_single(tmp_path):
    template = SimpleNamespace(packing=True, padding_free=True, sequence_parallel_size=1)
    trainer, prior = make_swift_like(tmp_path, join_with_positions, template=template)
    rehearsal = attach(trainer, prior)
    seen = record(rehearsal)
    trainer.train()
    assert_observed_as_predicted(rehearsal, seen)
    assert {type(slot) for block, _ in seen for slot in block} == {int}
    assert abs(rehearsal._loop.state.mixture.error(0.25)) <= 100


def test_a_collator_that_hides_where_packed_samples_start_is_refused(tmp_path):
    trainer, prior = make_swift_like(tmp_path, DataCollatorWithFlattening())
    with pytest.raises(UnsupportedTrainerError, match="`DataCollatorWithFlattening` joined 3 samples in one row"):
        attach(trainer, prior)


@pytest.mark.parametrize(
    ("holder", "flag"), [("args", "sample_packing"), ("data_args", "neat_packing"), ("template", "packing")]
)
def test_a_setting_that_packs_rows_which_do_not_show_it_is_refused_by_name(tmp_path, holder, flag):
    trainer, prior = make_swift_like(tmp_path, DataCollatorWithFlattening(), packed=False)
    owner = getattr(trainer, holder, SimpleNamespace())
    setattr(owner, flag, True)
    setattr(trainer, holder, owner)
    with pytest.raises(UnsupportedTrainerError, match=f"`{holder}.{flag}`, which puts several samples in one row"):
        attach(trainer, prior)


def test_samples_that_are_split_over_processes_are_refused_by_name(tmp_path):
    trainer, prior = make_swift_like(tmp_path, join_with_positions, template=SimpleNamespace(sequence_parallel_size=2))
    with pytest.raises(UnsupportedTrainerError, match="`template.sequence_parallel_size`, which splits a sample"):
        attach(trainer, prior)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_packing_that_cuts_samples_is_refused_with_the_cure(build):
    with pytest.raises(
        UnsupportedTrainerError, match=r'"bfd_split"`, which cuts a sample .* Use `packing_strategy="bfd"`'
    ):
        build(packing_strategy="bfd_split")


def test_prior_samples_that_fit_in_no_pack_are_refused_by_id(build, tmp_path):
    ids = [[5] * 10] * 20 + [[5] * 40] * 2
    prior = Dataset.from_list([{"input_ids": one, "labels": one} for one in ids])
    with pytest.raises(DataError, match=r"2 samples longer than a packed row of 32 tokens, up to 40 tokens: 20, 21\."):
        build(prior=prior)


def test_samples_of_packed_rows_that_are_longer_than_the_positions_are_refused(build):
    with pytest.raises(
        DataError, match=r"`trainer.train_dataset` has 32 tokens on sample 0.*the model has 16 positions"
    ):
        build(positions=16, long_first=True, prior=make_rows(40, "prior", kind="text"))


def test_rows_longer_than_a_model_without_an_end_of_positions_was_made_for_are_warned_of(build, caplog):
    build(packing_strategy="wrapped", max_length=80, max_steps=1)
    assert "`trainer.train_dataset` has samples of up to 80 tokens, but the model was made for 64 pos" in caplog.text


def test_a_unit_of_the_mix_ratio_that_is_not_known_is_refused(build):
    with pytest.raises(SettingError, match="`mix_unit` is 'words', but the mix ratio is a share of the \"rows\" or"):
        build(mix_unit="words")


def test_a_setting_of_the_mix_is_not_changed_on_resuming(build, tmp_path):
    saving = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    build(**saving)[0].train()
    trainer, _, _ = build(mix_unit="rows", **saving)
    with pytest.raises(mixcd.RehearsalError, match="written with mix unit tokens, but this run has rows"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
