"""What is refused, by behaviour, with a reason and a way out."""

from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler
from transformers import Trainer

import mixcd
from kernel_losses import HiddenLoss
from mixcd.words.errors import UnsupportedTrainerError
from tiny import collate, make_rows, make_trainer
from tiny_tasks import FAMILIES


def refuse(trainer, prior_data, message):
    with pytest.raises(UnsupportedTrainerError, match=message) as caught:
        mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    assert "get_train_dataloader" not in vars(trainer)
    return str(caught.value)


@pytest.mark.parametrize("strategy", ["sequential", "group_by_length", "batch_rebalance"])
def test_strategies_that_order_the_rows_are_refused(base_model, new_data, prior_data, tmp_path, strategy):
    trainer = make_trainer(base_model, new_data, tmp_path, train_sampling_strategy=strategy)
    refuse(trainer, prior_data, f'train_sampling_strategy="{strategy}", which orders the rows itself.*Use "random"')


@pytest.mark.parametrize("setting", ["split_batches", "dispatch_batches"])
def test_batches_that_are_split_later_are_refused(base_model, new_data, prior_data, tmp_path, setting):
    trainer = make_trainer(base_model, new_data, tmp_path, accelerator_config={setting: True})
    refuse(trainer, prior_data, "splits batches after they are drawn.*Turn them off")


def test_restored_callbacks_are_refused(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, restore_callback_states_from_checkpoint=True)
    refuse(trainer, prior_data, "replaces rehearsal's callback on resume.*Leave it off")


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("packing", r"`args.packing`, which puts several samples in one row.*Turn `args.packing` off"),
        ("padding_free", "`padding_free=True`.*Pass `padding_free=False`"),
    ],
)
def test_packed_rows_that_do_not_show_their_samples_are_refused(
    base_model, new_data, prior_data, tmp_path, setting, part
):
    trainer = make_trainer(base_model, new_data, tmp_path)
    setattr(trainer.args, setting, True)  # fields of SFTConfig
    refuse(trainer, prior_data, part)


def test_context_parallelism_is_refused(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    trainer.get_cp_size = lambda: 2
    refuse(trainer, prior_data, "context or sequence parallelism, which splits a sample")


def loader_of(sampler_of, batch_size=8):
    class OwnLoader(Trainer):
        def get_train_dataloader(self):
            data = self.train_dataset
            return DataLoader(data, batch_size=batch_size, sampler=sampler_of(data), collate_fn=collate)

    return OwnLoader


@pytest.mark.parametrize(
    ("sampler_of", "fault"),
    [
        (lambda data: WeightedRandomSampler([1.0] * len(data), len(data)), "draws with its own WeightedRandomSampler"),
        (lambda data: RandomSampler(data, replacement=True), "draws with replacement"),
    ],
)
def test_loaders_that_draw_otherwise_are_refused_by_their_class(
    base_model, new_data, prior_data, tmp_path, sampler_of, fault
):
    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=loader_of(sampler_of))
    message = refuse(trainer, prior_data, fault)
    assert "`OwnLoader`" in message
    assert "weigh samples by a `partition` instead" in message


def test_a_loader_with_another_batch_size_is_refused(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=loader_of(RandomSampler, batch_size=4))
    refuse(trainer, prior_data, "makes batches of 4 rows instead of 8")


def test_a_loader_over_another_dataset_is_refused(base_model, new_data, prior_data, tmp_path):
    class OtherData(Trainer):
        def get_train_dataloader(self):
            return DataLoader(make_rows(16, 5, "new"), batch_size=8, shuffle=True, collate_fn=collate)

    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=OtherData)
    refuse(trainer, prior_data, "draws from another dataset than `trainer.train_dataset`")


def test_an_own_plain_loader_works(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(
        base_model, new_data, tmp_path, trainer_class=loader_of(RandomSampler), remove_unused_columns=False
    )
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 20


def test_other_code_on_the_same_methods_is_refused(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    trainer.training_step = SimpleNamespace()
    with pytest.raises(mixcd.RehearsalError, match="`training_step` is already replaced on the instance"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25)


def test_noise_on_embeddings_is_warned_of(base_model, new_data, prior_data, tmp_path, caplog):
    trainer = make_trainer(base_model, new_data, tmp_path, neftune_noise_alpha=5.0)
    mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    assert "`neftune_noise_alpha` adds noise to embeddings in training" in caplog.text


# --- losses that show no logits -------------------------------------------------------------------------------------


class ScaledLogits(HiddenLoss):
    """Does to its logits what its config does not say."""

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        output = super().forward(input_ids, attention_mask, labels, **kwargs)
        if output.logits is not None:
            output["logits"] = output.logits * 1.2
        return output


def make_hiding(kind, folder, **settings):
    family = FAMILIES["causal language model"]
    model = kind(family.make_model().config)
    return family.make_trainer(model, family.make_rows(30, 2, "new"), folder, max_steps=3, **settings)


SCALED = "`ScaledLogits` shows no logits.*are not the model's own logits"
PRIOR = FAMILIES["causal language model"].make_rows(60, 3, "prior")


def test_a_head_that_cannot_be_read_is_refused_before_the_prior_pass_where_liger_is_asked_for(tmp_path):
    trainer = make_hiding(ScaledLogits, tmp_path)
    trainer.args.use_liger_kernel = True  # the package, which the trainer would want, is for GPUs
    refuse(
        trainer, PRIOR, r"`ScaledLogits` shows no logits.*are not the model's own logits.*fused_linear_cross_entropy"
    )
    assert not list(tmp_path.iterdir())
    trainer.args.liger_kernel_config = {"fused_linear_cross_entropy": False}
    mixcd.attach(trainer, PRIOR, mix_ratio=0.25)


def test_a_head_that_cannot_be_read_is_refused_before_anything_is_learnt_from_it(tmp_path):
    trainer = make_hiding(ScaledLogits, tmp_path)
    rehearsal = mixcd.attach(trainer, PRIOR, mix_ratio=0.25)
    with pytest.raises(UnsupportedTrainerError, match=SCALED):
        trainer.train()
    assert rehearsal.last_step is None


def test_a_head_is_read_without_another_forward_pass_but_one_of_one_row(tmp_path):
    trainer = make_hiding(HiddenLoss, tmp_path, gradient_accumulation_steps=2)
    rehearsal = mixcd.attach(trainer, PRIOR, mix_ratio=0.25)
    passes = []
    trainer.model.register_forward_hook(
        lambda module, inputs, batch, output: passes.append((module.training, len(batch["input_ids"]))),
        with_kwargs=True,
    )
    trainer.train()
    assert passes == [(True, 8), (True, 8), (False, 1)] + 4 * [(True, 8)]
    assert np.isfinite(rehearsal.last_step.prior_loss)
    assert np.isnan(rehearsal.last_step.new_loss)
