"""Rehearsal on TRL's real `SFTTrainer`: raw data of every kind, fused head, joined rows, adapters."""

import json

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

import mixcd
from mixcd.matter.base_model.prediction_cache import read_basis, read_manifest
from mixcd.matter.prior_and_new_data.data_source import open_data
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.trainer.sft_trainer import prepare_raw
from mixcd.run.trainer.trainer_predictions import predict_now
from mixcd.run.trainer.trainer_support import require_alike
from mixcd.words.errors import DataError, UnsupportedTrainerError
from tiny_sft import UNMARKED, make_model, make_rows, make_sft_trainer

PRIOR_COUNT = 100
KINDS = {
    "chat": {"assistant_only_loss": True},
    "completion": {"completion_only_loss": True},
    "chat completion": {},
    "text": {},
}
RULE = mixcd.RightTokens(least_share=0.5, is_shifted=True)


@pytest.fixture(scope="session")
def base_weights(tmp_path_factory):
    """Return a function that trains the base model on one kind of data once."""
    made = {}

    def weights_of(kind):
        if kind not in made:
            model, folder = make_model(), tmp_path_factory.mktemp("sft")
            rows = make_rows(PRIOR_COUNT, "prior", kind=kind)
            make_sft_trainer(model, rows, folder, max_steps=120, **KINDS[kind]).train()
            made[kind] = {name: value.clone() for name, value in model.state_dict().items()}
        return made[kind]

    return weights_of


@pytest.fixture
def build(base_weights, tmp_path):
    def make(kind="chat", *, prior=None, held_out=None, **settings):
        model = make_model()
        model.load_state_dict(base_weights(kind))
        trainer = make_sft_trainer(
            model, make_rows(60, "new", kind=kind), tmp_path / "run", **{**KINDS[kind], **settings}
        )
        rehearsal = mixcd.attach(
            trainer,
            make_rows(PRIOR_COUNT, "prior", kind=kind) if prior is None else prior,
            mix_ratio=0.25,
            correctness=RULE,
            held_out=held_out,
        )
        return trainer, rehearsal, record(rehearsal)

    return make


def record(rehearsal):
    seen, learn = [], rehearsal._loop.learn

    def recorded(observation, *rest):
        seen.append(observation)
        return learn(observation, *rest)

    rehearsal._loop.learn = recorded
    return seen


def assert_observed_as_predicted(rehearsal, seen, steps):
    assert len(seen) == steps
    for observation in seen:
        ids = observation.sample_ids
        assert observation.correct.tolist() == rehearsal.predictions.correct[ids].tolist()
        np.testing.assert_allclose(observation.loss, rehearsal.predictions.loss[ids], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_raw_data_of_every_kind_are_prepared_and_observed(build, kind):
    trainer, rehearsal, seen = build(kind, learning_rate=0.0, gradient_accumulation_steps=2, max_steps=6)
    right = rehearsal.predictions.correct
    assert right.mean() > 0.3
    trainer.train()
    assert rehearsal.forward_count == 12
    assert_observed_as_predicted(rehearsal, seen, 6)


def test_the_prior_rows_are_those_that_the_trainer_itself_would_make(build, tmp_path):
    _, rehearsal, _ = build("chat")
    own = make_sft_trainer(
        make_model(), make_rows(8, "new"), tmp_path / "own", assistant_only_loss=True,
        eval_dataset={"prior": make_rows(PRIOR_COUNT, "prior")},
    ).eval_dataset["prior"]  # fmt: skip
    rows = rehearsal._seam.prior.rows(range(PRIOR_COUNT))
    assert [row["input_ids"] for row in rows] == list(own["input_ids"])
    assert [row["labels"] for row in rows] == list(own["labels"])


def test_the_fused_head_reads_what_the_logits_say(build):
    trainer, rehearsal, _ = build("chat")
    rows = PriorDataset(rehearsal._seam.prior.rows(range(PRIOR_COUNT)), "rows")
    plain = mixcd.RightTokens(least_share=0.5, is_shifted=True)
    fused, logits = (predict_now(trainer, rows, rule) for rule in (rehearsal._opened.rule, plain))
    assert rehearsal._opened.rule.is_fused
    assert fused["correct"].tolist() == logits["correct"].tolist()
    np.testing.assert_allclose(fused["loss"], logits["loss"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fused["share_right"], logits["share_right"])


def test_no_array_of_tokens_times_vocabulary_is_made(build, monkeypatch):
    """The prior pass and training call the model with the fused head only."""
    trainer, rehearsal, _ = build("chat", max_steps=3)
    calls, forward = [], trainer.model.forward

    def watched(*args, fused_lm_head=False, **named):
        calls.append(fused_lm_head)
        return forward(*args, fused_lm_head=fused_lm_head, **named)

    monkeypatch.setattr(trainer.model, "forward", watched)
    trainer.train()
    predict_now(trainer, rehearsal._seam.prior, rehearsal._opened.rule)
    assert len(calls) > 3
    assert all(calls)


def test_rows_that_are_joined_instead_of_padded_are_told_apart(build, tmp_path):
    trainer, rehearsal, seen = build("chat", learning_rate=0.0, max_steps=5, padding_free=True, max_length=None)
    joined = rehearsal.predictions
    trainer.train()
    assert_observed_as_predicted(rehearsal, seen, 5)
    assert sum(len(one.sample_ids) for one in seen) == 5 * 2
    _, padded, _ = build("chat", output_dir=str(tmp_path / "padded"))
    assert joined.correct.tolist() == padded.predictions.correct.tolist()
    np.testing.assert_allclose(joined.loss, padded.predictions.loss, rtol=1e-3, atol=1e-4)
    assert joined.token_count.tolist() == padded.predictions.token_count.tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"dataloader_num_workers": 2},
        {"loss_type": "dft"},
        {"label_smoothing_factor": 0.1},
        {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_setting_of_the_trainer_changes_nothing_observed(build, settings):
    trainer, rehearsal, seen = build("chat", learning_rate=0.0, max_steps=4, **settings)
    trainer.train()
    assert_observed_as_predicted(rehearsal, seen, 4)


def test_damage_is_found_and_measured_on_raw_held_out_rows(build):
    trainer, rehearsal, _ = build("chat", held_out=make_rows(60, "prior"), max_steps=30)
    trainer.train()
    assert rehearsal.counts.damaged_count.sum() > 0
    change = rehearsal.evaluate().prior
    assert change.sample_count == 60
    assert change.damaged_count > 0


def test_a_run_that_was_interrupted_goes_on_with_the_same_draws(build, tmp_path):
    whole, rehearsal, seen = build("chat", max_steps=10, save_strategy="steps", save_steps=5)
    whole.train()
    again, resumed, later = build("chat", max_steps=10, save_strategy="steps", save_steps=5)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))
    assert [one.sample_ids.tolist() for one in later] == [one.sample_ids.tolist() for one in seen[5:]]
    assert resumed.counts.damaged_count.tolist() == rehearsal.counts.damaged_count.tolist()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_dict_of_raw_sets_and_bins_by_a_raw_column(build, base_weights, tmp_path):
    model = make_model()
    model.load_state_dict(base_weights("chat"))
    trainer = make_sft_trainer(model, make_rows(60, "new"), tmp_path, assistant_only_loss=True)
    prior = {"one": make_rows(50, "prior"), "two": list(make_rows(30, "prior"))}
    partition = mixcd.ByColumn("topic") * mixcd.ByColumn("prior_set")
    rehearsal = mixcd.attach(trainer, prior, mix_ratio=0.25, partition=partition, correctness=RULE)
    assert rehearsal.partition.bin_sizes.sum() == 80
    assert rehearsal.partition.bin_count == 4
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 10 * 2


WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ tool['name'] }} {% for key in tool['takes'] %}{{ key }} {% endfor %}{% endfor %}"
    "{% for message in messages %}{% for call in message['tool_calls'] or [] %}{{ call['function']['name'] }} "
    "{% for key, value in call['function']['arguments'].items() %}{{ key }} {{ value }} {% endfor %}{% endfor %}"
    "{{ message['content'] or '' }} {% endfor %}"
)


def test_conversations_with_tools_are_prepared_alike_from_a_list_and_from_jsonl(tmp_path):
    def call(name, **arguments):
        return {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}

    asked = {"role": "user", "content": "7"}
    rows = [
        {"messages": [asked, {"role": "assistant", "content": "8"}]},
        {"messages": [asked, call("add", add=1)], "tools": [{"name": "add", "takes": {"add": "1"}}]},
        {"messages": [asked, call("take", take=2)], "tools": [{"name": "take", "takes": {"take": "2"}}]},
    ]
    expected = ["7 8", "add add 7 add add 1", "take take 7 take take 2"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    trainer = make_sft_trainer(make_model(), make_rows(20, "new"), tmp_path)
    trainer.processing_class.chat_template = WITH_TOOLS
    for data in (rows, open_data(str(tmp_path / "rows.jsonl"), name="prior_data")):
        prepared = prepare_raw(trainer, data, "prior_data")
        assert [trainer.processing_class.decode(ids) for ids in prepared["input_ids"]] == expected


def test_rows_keep_their_order_when_the_trainer_shuffles_its_own(build, tmp_path):
    _, plain, _ = build("chat")
    _, shuffled, _ = build("chat", shuffle_dataset=True, output_dir=str(tmp_path / "shuffled"))
    for one, other in zip(*(each._seam.prior.rows(range(10)) for each in (plain, shuffled)), strict=True):
        assert one["input_ids"] == other["input_ids"]


@pytest.mark.parametrize("settings", [{}, {"padding_free": True, "max_length": None}], ids=["padded", "joined"])
def test_bins_are_made_of_what_the_fused_head_is_given(base_weights, tmp_path, settings):
    model = make_model()
    model.load_state_dict(base_weights("chat"))
    trainer = make_sft_trainer(model, make_rows(60, "new"), tmp_path, assistant_only_loss=True, **settings)
    rehearsal = mixcd.attach(
        trainer, make_rows(40, "prior"), mix_ratio=0.25, partition=mixcd.ByFeatures(3), correctness=RULE, features=4
    )
    row = rehearsal._seam.prior[7]
    ids, labels = torch.tensor([row["input_ids"]]).to(model.device), torch.tensor(row["labels"])
    with torch.no_grad():
        states = model.eval().model(input_ids=ids).last_hidden_state[0].cpu()
    predicting = torch.nn.functional.pad(labels[1:] != -100, (0, 1))
    expected = states[predicting].mean(0).numpy()
    basis = read_basis(tmp_path / "_mixcd_cache", read_manifest(tmp_path / "_mixcd_cache"))
    np.testing.assert_allclose(rehearsal.predictions.arrays["features"][7], basis.apply(expected), atol=2e-2)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 10 * 2


def test_metrics_of_trainers_reach_trackers_once_a_step_and_so_do_rehearsals(build):
    class OwnMetrics(trl.SFTTrainer):
        def log(self, logs, *rest, **named):
            super().log({**logs, "own": 1.0}, *rest, **named)

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            seen.append((state.global_step, {*logs}))

    seen = []
    trainer, _, _ = build("chat", max_steps=3, trainer_class=OwnMetrics, logging_strategy="steps", logging_steps=1)
    trainer.add_callback(Tracker())
    trainer.train()
    kept = [(entry["step"], {*entry}) for entry in trainer.state.log_history]
    for logs in (seen, kept):
        steps = {name: [step for step, keys in logs if name in keys] for name in ("mean_token_accuracy", "mixcd/yield")}
        assert steps == {"mean_token_accuracy": [1, 2, 3], "mixcd/yield": [1, 2, 3]}
        assert [step for step, keys in logs if "own" in keys] == [1, 2, 3, 3]  # the last is the summary of training


# --- what is dropped and refused ------------------------------------------------------------------------------------


def test_rows_whose_answer_is_truncated_away_are_dropped_and_named(build, caplog):
    rows = list(make_rows(40, "prior", kind="completion"))
    for place in (3, 8):
        rows[place]["prompt"] = " ".join(["add 1"] * 20)
    _, rehearsal, _ = build("completion", prior=Dataset.from_list(rows))
    assert "2 of 40 rows of `prior_data` have no target left" in caplog.text
    assert "rows 3, 8" in caplog.text
    assert rehearsal.predictions.sample_count == 38


@pytest.mark.parametrize("shuffled", [False, True])
def test_new_rows_that_trl_drops_in_silence_are_named(tmp_path, caplog, shuffled):
    rows = list(make_rows(60, "new", kind="completion"))
    for place in (3, 8):
        rows[place]["prompt"] = " ".join(["add 1"] * 20)
    trainer = make_sft_trainer(make_model(), Dataset.from_list(rows), tmp_path, shuffle_dataset=shuffled)
    mixcd.attach(trainer, make_rows(40, "prior", kind="completion"), mix_ratio=0.25)
    assert [message for message in caplog.messages if "TRL left" in message] == [
        "TRL left 2 of 60 rows out of `trainer.train_dataset`: no target is left of them after truncation to "
        "`max_length`, rows 3, 8. Raise it, or shorten their prompts, to learn from them."
    ]


def test_new_rows_of_which_trl_leaves_none_are_refused(tmp_path):
    rows = [{"prompt": " ".join(["add 1"] * 20), "completion": " 2"}] * 60
    trainer = make_sft_trainer(make_model(), Dataset.from_list(rows), tmp_path)
    with pytest.raises(DataError) as caught:
        mixcd.attach(trainer, make_rows(40, "prior", kind="completion"), mix_ratio=0.25)
    assert str(caught.value) == (
        "TRL left all 60 rows out of `trainer.train_dataset`: no target is left of them after truncation to "
        "`max_length`, or every label is masked (-100). Raise it, or check the labels."
    )


def test_rows_that_the_user_left_out_are_not_called_dropped(tmp_path, caplog):
    chosen = make_rows(60, "new", kind="completion").select(range(40))
    trainer = make_sft_trainer(make_model(), chosen, tmp_path)
    mixcd.attach(trainer, make_rows(40, "prior", kind="completion"), mix_ratio=0.25)
    assert "TRL left" not in caplog.text


def test_a_chat_template_without_markers_is_named_with_its_cure(tmp_path):
    """TRL itself refuses such a template when the trainer is built; this one was changed later."""
    trainer = make_sft_trainer(make_model(), make_rows(20, "new"), tmp_path, assistant_only_loss=True)
    trainer.processing_class.chat_template = UNMARKED
    trainer.processing_class.name_or_path = "some/model"
    with pytest.raises(DataError) as caught:
        mixcd.attach(trainer, make_rows(20, "prior"), mix_ratio=0.25)
    assert str(caught.value) == (
        "`prior_data` would have no target under `assistant_only_loss`. The chat template of `some/model` has "
        "no `{% generation %}` markers, so no token counts as the assistant's. Put "
        "`{% generation %}` and `{% endgeneration %}` round what the assistant says, or train on all tokens."
    )


@pytest.mark.parametrize("kind", ["chat", "chat completion"])
def test_conversations_in_which_the_assistant_says_nothing_are_named(tmp_path, kind):
    trainer = make_sft_trainer(make_model(), make_rows(20, "new"), tmp_path, assistant_only_loss=True)
    rows = list(make_rows(20, "prior", kind=kind))
    for place in (4, 9):
        rows[place][{"chat": "messages", "chat completion": "completion"}[kind]] = [{"role": "user", "content": "1"}]
    with pytest.raises(DataError) as caught:
        mixcd.attach(trainer, Dataset.from_list(rows), mix_ratio=0.25)
    assert str(caught.value) == (
        "`prior_data` has rows without a turn of the assistant, which would have no target under "
        "`assistant_only_loss`: rows 4, 9. Leave them out."
    )


def test_prior_rows_without_any_target_are_refused(build):
    rows = [{"prompt": " ".join(["add 1"] * 20), "completion": " 2", "topic": "add"}] * 5
    with pytest.raises(DataError, match="No row of `prior_data` has a target left after truncation"):
        build("completion", prior=Dataset.from_list(rows))


def test_prior_data_that_would_train_on_prompts_by_accident_are_refused(build):
    prior = make_rows(40, "prior", kind="text")
    with pytest.raises(DataError, match="Every token of `prior_data` is a target, but .*% of the tokens of"):
        build("chat", prior=prior)


def test_a_preparation_that_changed_names_the_public_ways_out(tmp_path, monkeypatch):
    trainer = make_sft_trainer(make_model(), make_rows(20, "new"), tmp_path, assistant_only_loss=True)
    monkeypatch.setattr(type(trainer), "_prepare_dataset", lambda self, dataset, *more: dataset)
    with pytest.raises(UnsupportedTrainerError, match=r"eval_dataset=\{'prior': ...\}.*or give it with `input_ids`"):
        mixcd.attach(trainer, make_rows(20, "prior"), mix_ratio=0.25)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"padding_free": True, "max_length": None, "pad_to_multiple_of": 8}, "`padding_free=True` with `pad_to_mul"),
    ],
)
def test_settings_that_hide_where_a_sample_ends_are_refused(build, settings, part):
    with pytest.raises(UnsupportedTrainerError, match=part):
        build("chat", **settings)


def test_new_data_may_be_streamed_and_prior_data_may_not(build, tmp_path):
    streamed = make_rows(20, "new").to_iterable_dataset()
    trainer = make_sft_trainer(make_model(), streamed, tmp_path, assistant_only_loss=True, max_steps=2)
    rehearsal = mixcd.attach(trainer, make_rows(20, "prior"), mix_ratio=0.25)
    trainer.train()
    assert rehearsal.counts.observed_count.sum() == 4
    with pytest.raises(DataError, match="`prior_data` is a IterableDataset, which has no length"):
        build("chat", prior=make_rows(20, "prior").to_iterable_dataset())


def test_ligers_kernels_are_no_obstacle_where_trls_own_head_is_read(tmp_path):
    trainer = make_sft_trainer(make_model(), make_rows(20, "new"), tmp_path, assistant_only_loss=True)
    trainer.args.use_liger_kernel = True  # the package, which the trainer would want, is for GPUs
    require_alike(trainer, PriorDataset(trainer.train_dataset), None)


@pytest.mark.parametrize("rows", [[{"conversation": "x"}], [{"messages": [{"rol": "user", "content": "a"}]}]])
def test_rows_that_trl_cannot_prepare_are_refused_in_its_words(rows, tmp_path):
    trainer = make_sft_trainer(make_model(), make_rows(60, "new"), tmp_path, assistant_only_loss=True)
    with pytest.raises(
        DataError, match=r"^TRL cannot prepare `prior_data`, whose columns are `.*`: KeyError: 'text'. It"
    ):
        mixcd.attach(trainer, rows * 20, mix_ratio=0.25, correctness=RULE)
