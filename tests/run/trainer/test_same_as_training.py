import copy
import logging

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, Trainer

import mixcd
from mixcd.words.errors import CacheError, UnsupportedTrainerError
from tiny import CLASSES, WORDS, collate, make_rows, make_trainer
from tiny_sft import make_model as make_chat_model
from tiny_sft import make_rows as make_chats
from tiny_sft import make_sft_trainer, make_tokenizer


def make_decoder(pad):
    torch.manual_seed(0)
    return LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            num_labels=CLASSES,
            pad_token_id=pad,
        )
    )


@pytest.mark.parametrize("pad", [5, None])
def test_the_prior_pass_pads_by_the_tokenizers_token_as_training_does(pad, tmp_path):
    tokenizer = make_tokenizer()

    def pad_by_tokenizer(rows):
        batch = collate(rows)
        batch["input_ids"][batch["attention_mask"] == 0] = tokenizer.pad_token_id
        return batch

    model = make_decoder(tokenizer.pad_token_id)
    rows = make_rows(200, 1, "prior").map(lambda row: {"input_ids": [max(token, 8) for token in row["input_ids"]]})
    settings = {"processing_class": tokenizer, "data_collator": pad_by_tokenizer}
    make_trainer(model, rows, tmp_path / "base", max_steps=60, **settings).train()
    model.config.pad_token_id = pad
    trainer = make_trainer(model, rows, tmp_path / "run", learning_rate=0.0, **settings)
    rehearsal = mixcd.attach(trainer, rows, mix_ratio=0.5, held_out=rows)
    trainer.train()
    assert rehearsal.predictions.prediction.tolist() == trainer.predict(rows).predictions.argmax(-1).tolist()
    assert rehearsal.counts.damaged_count.sum() == 0
    change = rehearsal.evaluate().prior
    assert (change.damaged_count, change.gained_count) == (0, 0)


class Reweighing(Trainer):
    """Predicts on other inputs than the batch's."""

    def compute_loss(self, model, inputs, *rest, **named):
        return super().compute_loss(model, {**inputs, "input_ids": inputs["input_ids"].flip(0, 1)}, *rest, **named)


def test_a_step_that_predicts_on_other_inputs_is_refused(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=Reweighing)
    with pytest.raises(UnsupportedTrainerError, match="predicts differently when the trainer calls.*`Reweighing`"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25)


class TwoPasses(Trainer):
    """A reference pass first, as for a distance to another model."""

    def compute_loss(self, model, inputs, *rest, **named):
        with torch.no_grad():
            model(**{**inputs, "input_ids": inputs["input_ids"].flip(0, 1)})
        return super().compute_loss(model, inputs, *rest, **named)


def test_a_step_of_several_passes_is_compared_by_the_one_that_fits(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=TwoPasses)
    assert mixcd.attach(trainer, prior_data, mix_ratio=0.25).predictions.correct.mean() > 0.7


def test_a_config_that_changed_under_the_cache_is_found(base_model, new_data, prior_data, tmp_path):
    mixcd.attach(make_trainer(base_model, new_data, tmp_path), prior_data, mix_ratio=0.25)
    other = copy.deepcopy(base_model.config)
    other.hidden_act = "tanh"
    changed = type(base_model)(other)
    changed.load_state_dict(base_model.state_dict())
    with pytest.raises(CacheError, match="holds other predictions than the model makes: on sample"):
        mixcd.attach(make_trainer(changed, new_data, tmp_path), prior_data, mix_ratio=0.25)


def collate_without_mask(rows):
    batch = collate(rows)
    return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}


def test_predictions_that_depend_on_padding_are_warned_of(base_model, new_data, prior_data, tmp_path, caplog):
    trainer = make_trainer(base_model, new_data, tmp_path, data_collator=collate_without_mask)
    with caplog.at_level(logging.WARNING):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25)
    assert "depends on the padding beside it: on sample" in caplog.text


class OtherBatches(Trainer):
    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        loader.base_dataloader.collate_fn = lambda rows: {**collate(rows), "token_type_ids": torch.ones(1)}
        return loader


def test_a_training_loader_with_a_collator_of_its_own_is_refused(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, trainer_class=OtherBatches)
    with pytest.raises(UnsupportedTrainerError, match="the training loader makes other `token_type_ids` than"):
        mixcd.attach(trainer, prior_data, mix_ratio=0.25)


def test_a_model_that_was_cast_meanwhile_is_not_compared(base_model, new_data, prior_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path)
    rehearsal = mixcd.attach(trainer, prior_data, mix_ratio=0.25, held_out=prior_data)
    trainer.model = base_model.to(torch.bfloat16)
    with pytest.raises(UnsupportedTrainerError, match="weights float32, now bfloat16"):
        rehearsal.evaluate()


def test_the_check_leaves_trls_metrics_alone(tmp_path):
    trainer = make_sft_trainer(make_chat_model(), make_chats(60, "new"), tmp_path, assistant_only_loss=True)
    rule = mixcd.RightTokens(loss_tolerance=1.0)
    mixcd.attach(trainer, make_chats(60, "prior"), mix_ratio=0.25, correctness=rule)
    assert not trainer._metrics["eval"]
