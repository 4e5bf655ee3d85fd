"""What is missing in the targets of new rows is said at `attach`, by the real trainers."""

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

import mixcd
from device import USE_CPU
from mixcd.words.errors import DataError
from tiny_sft import UNMARKED, make_model, make_rows, make_sft_trainer

IDS = [3, 4, 5, 6]
MASKED, ASKED = [-100, -100, -100, -100], [-100, -100, 5, 6]
UNTARGETED = "has no target token (all labels masked, or the answer truncated away) on"


def rows_of(*labels, count=40, **columns):
    return Dataset.from_list([{"input_ids": IDS, "labels": labels[n % len(labels)], **columns} for n in range(count)])


def attach(new, prior, folder):
    trainer = make_sft_trainer(make_model(), new, folder, max_steps=3, max_length=None)
    return trainer, mixcd.attach(trainer, prior, mix_ratio=0.25)


def messages_about(what, caplog):
    return [message for message in caplog.messages if what in message]


def test_new_rows_without_any_target_are_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        attach(rows_of(MASKED), rows_of(ASKED), tmp_path)
    assert str(caught.value) == (
        f"`trainer.train_dataset` {UNTARGETED} all 40 rows: nothing could be learnt. Check the labels, and that "
        "answers fit the length limit."
    )


def test_the_template_is_named_where_it_marks_no_token_of_the_assistant(tmp_path):
    trainer = make_sft_trainer(make_model(), rows_of(MASKED, count=300), tmp_path, max_length=None)
    trainer.processing_class.chat_template = UNMARKED
    trainer.processing_class.name_or_path = "some/model"
    with pytest.raises(DataError) as caught:
        mixcd.attach(trainer, rows_of(ASKED), mix_ratio=0.25)
    assert str(caught.value) == (
        f"`trainer.train_dataset` {UNTARGETED} all 200 rows looked at: nothing could be learnt. The chat template of "
        "`some/model` has no `{% generation %}` markers, so no token counts as the assistant's. Put "
        "`{% generation %}` and `{% endgeneration %}` round what the assistant says, or train on all tokens."
    )


def test_some_new_rows_without_a_target_are_named_and_training_goes_on(tmp_path, caplog):
    trainer, rehearsal = attach(rows_of(MASKED, ASKED), rows_of(ASKED), tmp_path)
    assert messages_about("has no target", caplog) == [
        f"`trainer.train_dataset` {UNTARGETED} 20 of 40 rows: rows 0, 2, 4, 6, 8 and 15 more. Nothing is learnt from "
        "them. Leave them out, or prepare them anew."
    ]
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 3 * 2


def test_a_first_token_is_no_target_for_nothing_predicts_it(tmp_path):
    with pytest.raises(DataError, match="`trainer.train_dataset` has no target token"):
        attach(rows_of([3, -100, -100, -100]), rows_of(ASKED), tmp_path)


def test_steps_whose_new_rows_have_no_target_train_on_the_prior_ones(tmp_path):
    """With new rows alone the loss would be 0 divided by 0 targets."""
    labels = [MASKED] * 39 + [ASKED]
    trainer, _ = attach(rows_of(*labels), rows_of(ASKED), tmp_path)
    trainer.train()
    assert all(torch.isfinite(value).all() for value in trainer.model.parameters())


def test_prior_rows_without_any_target_are_refused_in_one_line(tmp_path, caplog):
    with pytest.raises(DataError) as caught:
        attach(rows_of(ASKED), rows_of(MASKED), tmp_path)
    assert str(caught.value) == (
        "No sample of `prior_data` has a target token: every label is masked (-100), or the answers were truncated "
        "away. Nothing could be rehearsed or lost. Check the labels, that answers fit the length limit, and that a "
        "chat template marks what the assistant says (`{% generation %}`)."
    )
    assert not messages_about("has no target", caplog)


@pytest.mark.parametrize(("new", "prior", "name"), [(0, 1, "trainer.train_dataset"), (1, 0, "prior_data")])
@pytest.mark.parametrize("second", [[-100, 5, 6, 7], [5, 6]], ids=["alike", "ragged"])
def test_several_target_sequences_a_row_are_refused(tmp_path, new, prior, name, second):
    data = [rows_of([ASKED, second]), rows_of(ASKED)]
    with pytest.raises(DataError) as caught:
        attach(data[new], data[prior], tmp_path)
    assert str(caught.value) == (
        f"The labels of a row of `{name}` are several target sequences, but a model is trained on one, and damage is "
        "counted on its tokens. Give every target a row of its own."
    )


class Weighed(Trainer):
    """Weighs each token's loss by what its row says."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weights, labels = (inputs.pop(name) for name in ("loss_scale", "labels"))
        output = model(**inputs)
        losses = torch.nn.functional.cross_entropy(output.logits[:, :-1].mT, labels[:, 1:], reduction="none")
        loss = (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()
        return (loss, output) if return_outputs else loss


def test_weights_of_tokens_are_left_to_the_loss_and_that_is_said_once(tmp_path, caplog):
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, remove_unused_columns=False, report_to="none", use_cpu=USE_CPU
    )
    data = rows_of(ASKED, loss_scale=[0.0, 1.0, 0.5, 2.0])
    trainer = Weighed(
        model=make_model(),
        args=args,
        train_dataset=data,
        data_collator=lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0]},
    )
    rehearsal = mixcd.attach(trainer, data, mix_ratio=0.25)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 3 * 2
    assert messages_about("hold", caplog) == [
        "Batches hold `loss_scale`. Damage counts every target token alike, whatever the loss weighs it. Mask the "
        "labels (-100) of tokens that are not to count."
    ]


def make_plain_trainer(data, folder):
    args = TrainingArguments(output_dir=str(folder), max_steps=3, report_to="none", use_cpu=USE_CPU)
    return Trainer(model=make_model(), args=args, train_dataset=data)


def test_rows_that_are_made_when_they_are_read_are_not_looked_at(tmp_path):
    def mask(rows):
        assert len(rows["input_ids"]) < 40
        return rows | {"labels": [MASKED for _ in rows["input_ids"]]}

    mixcd.attach(make_plain_trainer(rows_of(ASKED).with_transform(mask), tmp_path), rows_of(ASKED), mix_ratio=0.25)


def test_lists_of_rows_are_looked_at(tmp_path):
    with pytest.raises(DataError, match=r"`trainer.train_dataset` has no target token .* on all 40 rows"):
        mixcd.attach(make_plain_trainer(list(rows_of(MASKED)), tmp_path), list(rows_of(ASKED)), mix_ratio=0.25)


def test_tokenised_prior_rows_without_labels_are_refused_where_new_rows_are_masked(tmp_path):
    """TRL takes every token of theirs for a target."""
    said = "Every token of `prior_data` is a target, but 50% .* of rows that are tokenised already, with `labels`"
    with pytest.raises(DataError, match=said):
        attach(rows_of(ASKED), Dataset.from_list([{"input_ids": IDS}] * 40), tmp_path)


def test_held_out_rows_whose_prompts_are_targets_are_refused_beside_masked_prior_rows(tmp_path):
    chats = make_rows(40, "prior")
    trainer = make_sft_trainer(make_model(), make_rows(40, "new"), tmp_path, assistant_only_loss=True)
    with pytest.raises(DataError, match="Every token of `held_out` is a target, but .* of `prior_data` are masked"):
        mixcd.attach(trainer, chats, mix_ratio=0.25, held_out=make_rows(20, "prior", kind="text"))


def test_a_special_token_that_one_of_the_two_data_sets_lacks_is_warned_of_once(tmp_path, caplog):
    ended = Dataset.from_list([{"input_ids": [3, 4, 5, 1], "labels": ASKED}] * 40)
    attach(rows_of(ASKED), ended, tmp_path)
    (told,) = messages_about("prepared in two ways", caplog)
    assert told.startswith("`<eos>`: in nearly all rows of the one and hardly any of the other of")
    caplog.clear()
    attach(rows_of(ASKED), rows_of(ASKED), tmp_path / "alike")
    assert not messages_about("prepared in two ways", caplog)
