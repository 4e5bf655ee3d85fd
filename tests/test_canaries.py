"""Each fact about a third-party library that mixcd relies on; a failure here says what changed under us."""

import inspect
import json

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from accelerate.utils import send_to_device
from datasets import Dataset, interleave_datasets
from datasets.distributed import split_dataset_by_node
from peft import LoraConfig, PeftModel, get_peft_model
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler
from transformers import (
    BatchEncoding,
    CohereConfig,
    Gemma2Config,
    GenerationConfig,
    GraniteConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from tiny import make_model, make_rows, make_trainer
from tiny_packed import MAX_LENGTH, make_packing_trainer
from tiny_sft import UNMARKED, make_sft_trainer
from tiny_sft import make_model as make_chat_model
from tiny_sft import make_rows as make_chats
from tiny_tasks import FAMILIES
from tiny_tasks import collate as collate_task


class Recorder(TrainerCallback, ExportableState):
    """Writes down which event came when, and what it saw."""

    def __init__(self):
        self.events = []

    def state(self):
        return {"args": {}, "attributes": {"events": len(self.events)}}

    def on_train_begin(self, args, state, control, **_):
        self.events.append(("begin", state.global_step, dict(state.stateful_callbacks)))

    def on_optimizer_step(self, args, state, control, **_):
        self.events.append(("optimizer", state.global_step))

    def on_step_end(self, args, state, control, **_):
        self.events.append(("end", state.global_step))

    def on_log(self, args, state, control, logs=None, **_):
        self.events.append(("log", state.global_step, sorted(logs)))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def trainer(base_model, new_data, tmp_path, recorder):
    return make_trainer(base_model, new_data, tmp_path, max_steps=4, callbacks=[recorder])


# --- transformers --------------------------------------------------------------------------------------------------


def test_the_trainer_says_before_a_training_step_whether_the_weights_move_after_it(base_model, tmp_path, recorder):
    data = make_rows(40, seed=2, task="new")  # five batches an epoch: the last step of each is shorter
    settings = {"max_steps": 4, "gradient_accumulation_steps": 3, "callbacks": [recorder]}
    trainer = make_trainer(base_model, data, tmp_path, **settings)
    step = trainer.training_step

    def training_step(*rest, **named):
        recorder.events.append(trainer.accelerator.sync_gradients)
        return step(*rest, **named)

    trainer.training_step = training_step
    trainer.train()
    events = [event for event in recorder.events if event is False or event is True or event[0] == "optimizer"]
    long, short = [False, False, True], [False, True]
    steps = [[*batches, ("optimizer", done)] for done, batches in enumerate([long, short, long, short])]
    assert events == [event for one in steps for event in one]


def test_the_trainer_looks_both_shadowed_methods_up_on_the_instance(trainer):
    calls = []
    make_loader, step = trainer.get_train_dataloader, trainer.training_step

    def get_train_dataloader():
        calls.append("loader")
        return make_loader()

    def training_step(model, inputs, *rest, **named):
        assert isinstance(model, torch.nn.Module)
        assert "labels" in inputs
        calls.append("step")
        return step(model, inputs, *rest, **named)

    trainer.get_train_dataloader, trainer.training_step = get_train_dataloader, training_step
    trainer.train()
    assert calls == ["loader", *["step"] * 4]


def test_the_optimizer_event_comes_before_the_step_counter_grows(trainer, recorder):
    trainer.train()
    assert recorder.events[1:5] == [("optimizer", 0), ("end", 1), ("optimizer", 1), ("end", 2)]


def test_callback_state_is_there_when_training_begins(trainer, recorder, base_model, new_data, tmp_path):
    trainer.args.save_strategy, trainer.args.save_steps = "steps", 2
    trainer.train()
    resumed = Recorder()
    again = make_trainer(base_model, new_data, tmp_path, max_steps=4, callbacks=[resumed])
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    name, step, stored = resumed.events[0]
    assert (name, step) == ("begin", 2)
    assert stored["Recorder"]["attributes"]["events"] > 0


def test_the_loader_is_made_before_training_begins(trainer, recorder):
    order = []
    make_loader = trainer.get_train_dataloader
    trainer.get_train_dataloader = lambda: (order.append(len(recorder.events)), make_loader())[1]
    trainer.train()
    assert order == [0]


def test_logging_inside_a_log_event_reaches_all_callbacks_and_keeps_the_loss(base_model, new_data, tmp_path, recorder):
    class LogsMore(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in logs:
                Trainer.log(trainer, {"more": 1.0})

    trainer = make_trainer(
        base_model,
        new_data,
        tmp_path,
        max_steps=2,
        logging_strategy="steps",
        logging_steps=1,
        callbacks=[recorder, LogsMore()],
    )
    trainer.train()
    logs = [event for event in recorder.events if event[0] == "log" and event[1] == 1]
    assert any("loss" in keys for _, _, keys in logs)
    assert any("more" in keys for _, _, keys in logs)


def test_the_total_batch_size_counts_accumulation(base_model, new_data, tmp_path):
    trainer = make_trainer(base_model, new_data, tmp_path, gradient_accumulation_steps=3)
    assert trainer.get_total_train_batch_size(trainer.args) == 24
    assert (trainer.get_tp_size(), trainer.get_cp_size(), trainer.get_sp_size()) == (1, 1, 1)


def test_the_arguments_that_attach_reads_exist():
    fields = set(inspect.signature(TrainingArguments).parameters)
    assert {
        "train_sampling_strategy",
        "data_seed",
        "ignore_data_skip",
        "accelerator_config",
        "restore_callback_states_from_checkpoint",
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
    } <= fields


def test_the_test_loader_drops_columns_before_the_collator(trainer, prior_data):
    seen = []
    trainer.data_collator = lambda rows: seen.append(sorted(rows[0])) or {}
    for data in (prior_data, [dict(prior_data[0])]):
        collate = trainer.get_test_dataloader(data).collate_fn
        collate([dict(data[0])] if isinstance(data, list) else [trainer.get_test_dataloader(data).dataset[0]])
    assert seen == [["attention_mask", "input_ids", "label"]] * 2


def test_training_steps_fast_forward_with_skip_first_batches():
    assert "skip_first_batches(train_dataloader" in inspect.getsource(Trainer._run_epoch)


def test_folders_that_start_with_an_underscore_are_not_pushed_to_the_hub():
    assert 'ignore_patterns=["_*"' in inspect.getsource(Trainer.push_to_hub)
    assert 'ignore_patterns=["_*"' in inspect.getsource(Trainer._push_from_checkpoint)


# --- accelerate ----------------------------------------------------------------------------------------------------


class Counting(Sampler):
    def __init__(self, count):
        self.count = count
        self.drawn = 0

    def __len__(self):
        return self.count

    def __iter__(self):
        for number in range(self.count):
            self.drawn += 1
            yield number


def test_the_prepared_loader_takes_a_sampler_and_a_collator(trainer):
    loader = trainer.get_train_dataloader()
    assert isinstance(loader, DataLoaderShard)
    assert isinstance(loader.batch_sampler.sampler, RandomSampler)
    loader.set_sampler(Counting(16))
    seen = []
    collate = loader.base_dataloader.collate_fn
    loader.base_dataloader.collate_fn = lambda rows: seen.append(len(rows)) or collate(rows)
    assert len(loader) == 2
    assert len(list(loader)) == 2
    assert seen == [8, 8]


@pytest.mark.parametrize(("workers", "prefetch"), [(0, None), (1, 2), (2, 2), (1, 3)])
def test_the_loader_reads_one_batch_and_the_workers_prefetch_ahead(trainer, workers, prefetch):
    trainer.args.dataloader_num_workers, trainer.args.dataloader_prefetch_factor = workers, prefetch
    loader = trainer.get_train_dataloader()
    sampler = Counting(160)
    loader.set_sampler(sampler)
    batches = iter(loader)
    for given in (1, 2, 3):
        next(batches)
        ahead = sampler.drawn / 8 - given
        assert ahead <= 1 + workers * (prefetch or 2)
    assert ahead >= 1


def test_skipping_batches_reads_the_sampler_from_the_start_and_keeps_the_collator(trainer):
    loader = trainer.get_train_dataloader()
    sampler = Counting(40)
    loader.set_sampler(sampler)
    seen = []
    loader.base_dataloader.collate_fn = lambda rows: seen.append(rows[0]["label"]) or {"labels": torch.zeros(1)}
    skipped = skip_first_batches(loader, 3)
    assert len(list(skipped)) == 2
    assert sampler.drawn == 40
    assert len(seen) == 2


def test_micro_batches_go_to_the_ranks_in_turn():
    batches = DataLoader(list(range(8)), batch_size=2).batch_sampler
    shards = [list(BatchSamplerShard(batches, num_processes=2, process_index=rank)) for rank in (0, 1)]
    assert shards == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


# --- torch, datasets, numpy ----------------------------------------------------------------------------------------


def test_the_loader_fetches_a_whole_batch_at_once_where_it_can():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, number):
            raise AssertionError("rows were fetched one by one")

        def __getitems__(self, numbers):
            return numbers

    assert [batch.tolist() for batch in DataLoader(Rows(), batch_size=2)] == [[0, 1], [2, 3]]


def test_a_forward_hook_sees_one_output_mapping_with_logits():
    model, outputs = make_model(), []
    model.register_forward_hook(lambda _m, _a, out: outputs.append(out))
    model(input_ids=torch.ones(2, 3, dtype=torch.long), labels=torch.zeros(2, dtype=torch.long))
    assert [tuple(output["logits"].shape) for output in outputs] == [(2, 3)]
    assert outputs[0].get("nothing") is None


def test_datasets_fetch_rows_as_dicts_and_give_up_formats():
    data = Dataset.from_dict({"x": [1, 2, 3]})
    assert data.__getitems__([2, 0]) == [{"x": 3}, {"x": 1}]
    assert data.with_format("torch").with_format(None)["x"][:] == [1, 2, 3]


def test_philox_is_keyed_and_counted():
    def draw(key, purpose):
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, purpose])).integers(0, 2**32, 4).tolist()

    assert draw([1, 2], 0) == draw([1, 2], 0)
    assert draw([1, 2], 0) != draw([1, 2], 1)
    assert draw([1, 2], 0) != draw([1, 3], 0)


def test_huge_populations_are_chosen_from_without_being_listed():
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    chosen = rng.choice(10**12, 4096, replace=False, shuffle=False)  # a list of these would take 8 terabytes
    assert np.unique(chosen).size == 4096


def test_a_vit_is_not_resumed_by_the_trainer_itself(tmp_path):
    """Once it is, the known fault in `supported_trainers.py` can go."""
    family, weights = FAMILIES["images"], []
    for resume in (None, str(tmp_path / "checkpoint-2")):
        torch.manual_seed(0)
        model = family.make_model()
        rows = family.make_rows(30, 2, "new")
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        family.make_trainer(model, rows, tmp_path, **settings).train(resume_from_checkpoint=resume)
        weights.append(model.classifier.weight)
    assert not torch.equal(*weights)


def test_a_language_model_says_which_layer_is_its_head_and_a_wrapper_does_not(base_model):
    model = make_chat_model()
    assert model.get_output_embeddings() is model.lm_head
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    assert not hasattr(type(adapted), "get_output_embeddings")
    assert not hasattr(type(torch.compile(model, backend="eager")), "get_output_embeddings")
    assert adapted.get_base_model().get_output_embeddings() is model.lm_head
    assert base_model.get_output_embeddings() is None


@pytest.mark.parametrize(
    "config",
    [Gemma2Config(final_logit_softcapping=0.5), GraniteConfig(logits_scaling=0.5), CohereConfig(logit_scale=0.5)],
)
def test_configs_say_by_these_names_what_becomes_of_logits(config):
    names = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    assert [getattr(config.get_text_config(), name) for name in names if hasattr(config, name)] == [0.5]


@pytest.mark.parametrize("name", ["causal language model", "images and text"])
def test_a_model_of_images_and_text_shifts_its_labels_as_one_of_text_does(name):
    family = FAMILIES[name]
    model, batch = family.make_model(), collate_task(family.make_rows(4, 1, "new").to_list())
    output = model(**batch)
    losses = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(output.loss, losses)


def test_a_hook_that_keeps_what_a_part_of_a_compiled_model_returns_is_compiled_once_and_called_each_time():
    class Watcher:
        seen = None

        def keep(self, _module, _inputs, output):
            self.seen = output.detach()

    model, counter = torch.nn.Sequential(torch.nn.Linear(2, 2)), CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for number in range(3):
        watcher = Watcher()
        hook = model[0].register_forward_hook(watcher.keep)
        compiled(torch.full((1, 2), float(number)))
        hook.remove()
        assert torch.equal(watcher.seen, model(torch.full((1, 2), float(number))))
    assert counter.frame_count == 1


# --- trl ------------------------------------------------------------------------------------------------------------


def test_sft_prepares_data_by_a_private_method_of_these_arguments_and_keeps_other_columns(tmp_path):
    trainer = make_sft_trainer(make_chat_model(), make_chats(10, "new"), tmp_path, assistant_only_loss=True)
    assert tuple(inspect.signature(trainer._prepare_dataset).parameters) == (
        "dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name",
    )  # fmt: skip
    rows = make_chats(6, "prior").add_column("number", list(range(6)))
    prepared = trainer._prepare_dataset(
        rows, trainer.processing_class, trainer.args, False, trainer._formatting_func, "prior"
    )
    assert {"input_ids", "labels", "number", "topic"} <= set(prepared.column_names)
    assert prepared["number"][:] == list(range(6))
    assert not trainer._skip_prepare_dataset


def test_the_fused_head_of_sft_scores_labels_without_logits(tmp_path):
    trainer = make_sft_trainer(make_chat_model(), make_chats(10, "new"), tmp_path, assistant_only_loss=True)
    batch = next(iter(trainer.get_train_dataloader()))
    output = trainer.model(**batch, fused_lm_head=True, use_cache=False)
    width = batch["labels"].shape[1] - 1
    for name in ("log_probs", "is_top1", "label_mask"):
        assert output[name].shape == (8, width), name
    assert "logits" not in output
    assert output.label_mask.tolist() == (batch["labels"][:, 1:] != -100).tolist()
    logits = trainer.model(**{key: value for key, value in batch.items() if key != "labels"}).logits[:, :-1]
    target = output.label_mask
    assert (logits.argmax(-1) == batch["labels"][:, 1:])[target].tolist() == output.is_top1.bool()[target].tolist()


def test_joined_rows_of_sft_say_where_each_starts_and_mask_its_first_token(tmp_path):
    trainer = make_sft_trainer(make_chat_model(), make_chats(10, "new"), tmp_path, padding_free=True, max_length=None)
    batch = next(iter(trainer.get_train_dataloader()))
    starts = batch["cu_seq_lens_q"]
    assert starts.shape == (9,)
    assert (starts[0], starts[-1]) == (0, batch["input_ids"].shape[1])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert (batch["labels"][0, starts[:-1].long()] == -100).all()


def test_sft_packs_whole_samples_in_rows_that_say_how_long_each_is(tmp_path):
    trainer = make_packing_trainer(tmp_path)
    row = trainer.train_dataset[0]
    assert list(row) == ["input_ids", "labels", "seq_lengths"]
    assert sum(row["seq_lengths"]) == len(row["input_ids"]) <= MAX_LENGTH
    batch = next(iter(trainer.get_train_dataloader()))
    starts = batch["cu_seq_lens_q"]
    assert len(batch["input_ids"]) == 1
    assert (batch["position_ids"][0, starts[:-1].long()] == 0).all()
    assert (batch["labels"][0, starts[:-1].long()] == -100).all()
    wrapped = make_packing_trainer(tmp_path, packing_strategy="wrapped")
    assert wrapped.train_dataset.column_names == ["input_ids", "labels"]
    assert "attention_mask" in next(iter(wrapped.get_train_dataloader()))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_samples_of_a_packed_row_are_kept_apart_by_their_positions_unless_there_is_a_cache(attention):
    model = make_chat_model().eval()
    model.set_attn_implementation(attention)
    first, second = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10, 11]])
    packed, positions = torch.cat([first, second], 1), torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    alone = model(input_ids=second).logits
    for use_cache in (False, True):
        together = model(input_ids=packed, position_ids=positions, use_cache=use_cache).logits[:, 4:]
        assert torch.allclose(alone, together, atol=1e-5) != use_cache


def test_peft_only_warns_of_an_adapter_that_does_not_arrive_but_tells_when_loading_it_again(tmp_path):
    get_peft_model(make_chat_model().model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="missing adapter keys"):
        adapted = PeftModel.from_pretrained(make_chat_model(), tmp_path)
    report = adapted.load_adapter(tmp_path, "default")
    assert report.missing_keys
    assert report.unexpected_keys


def test_peft_merges_into_shared_weights_without_an_error():
    model = make_chat_model()
    tied = type(model)(type(model.config)(**{**model.config.to_dict(), "tie_word_embeddings": True}))
    adapted = get_peft_model(tied, LoraConfig(target_modules=["embed_tokens"], init_lora_weights=False))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        trained = adapted(ids).logits
        assert not torch.allclose(adapted.merge_and_unload()(ids).logits, trained, atol=1e-3)
    assert not any(weight.requires_grad for weight in tied.parameters())


def test_trl_refuses_a_chat_template_that_marks_nothing_of_the_assistant(tmp_path, monkeypatch):
    monkeypatch.setattr("tiny_sft.CHAT", UNMARKED)
    with pytest.raises(ValueError, match=r"not training-compatible .* or `\{% generation %\}` markers"):
        make_sft_trainer(make_chat_model(), make_chats(20, "new"), tmp_path, assistant_only_loss=True)


def test_rows_that_trl_drops_are_still_in_the_table_that_its_data_select_from(tmp_path):
    rows = list(make_chats(20, "new", kind="completion"))
    rows[3]["prompt"] = " ".join(["add 1"] * 20)
    data = make_sft_trainer(make_chat_model(), Dataset.from_list(rows), tmp_path, shuffle_dataset=True).train_dataset
    assert (len(data), data.data.num_rows) == (19, 20)
    labels = data.data.column("labels").to_pylist()
    assert [number for number, one in enumerate(labels) if max(one) < 0] == [3]


# --- streams -------------------------------------------------------------------------------------------------------


STREAM = Dataset.from_dict({"x": list(range(30))}).to_iterable_dataset(num_shards=4)
OTHER = Dataset.from_dict({"x": list(range(30, 60))}).to_iterable_dataset(num_shards=3)
LIKE_STREAM = [
    pytest.param(STREAM, id="shards"),
    pytest.param(STREAM.map(lambda row: {"y": row["x"]}).filter(lambda row: row["x"] % 2), id="mapped, filtered"),
    pytest.param(STREAM.shuffle(seed=1, buffer_size=8), id="shuffled"),
    pytest.param(interleave_datasets([STREAM, OTHER], probabilities=[0.3, 0.7], seed=2), id="interleaved"),
]


class ReadByBatches(IterableDataset):
    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        return (batch["x"][0] for batch in self.stream.iter(batch_size=1))


@pytest.mark.parametrize("stream", LIKE_STREAM)
def test_a_stream_of_datasets_that_is_read_by_batches_of_one_takes_no_notice_of_workers(stream):
    rows = [row["x"] for row in stream]
    assert list(ReadByBatches(stream)) == rows
    assert list(DataLoader(ReadByBatches(stream), batch_size=None, num_workers=1)) == rows


def test_a_worker_shuffles_a_stream_of_datasets_otherwise_than_its_process():
    stream = STREAM.shuffle(seed=1, buffer_size=8)
    rows = [row["x"] for row in stream]
    assert [row["x"] for row in DataLoader(stream, batch_size=None, num_workers=1)] != rows


@pytest.mark.parametrize("stream", LIKE_STREAM)
def test_a_stream_of_datasets_keeps_its_state_as_json_in_the_object_that_is_read(stream):
    view = object.__new__(type(stream))
    vars(view).update(vars(stream))
    reader = iter(view)
    next(reader)
    state = view.state_dict()
    reader.close()  # an interleaved stream reads ahead in threads, which share the state of all its readers
    assert json.loads(json.dumps(state)) == state
    before = [row["x"] for row in stream]
    view.load_state_dict(state)
    next(iter(view))
    assert [row["x"] for row in stream] == before  # the stream itself still begins at its start


def test_datasets_has_one_node_read_the_others_rows_too_where_shards_do_not_fit_and_reorders_them_where_they_do():
    seen = []

    def see(row):
        seen.append(row["x"])
        return row

    one_shard = Dataset.from_dict({"x": list(range(12))}).to_iterable_dataset().map(see)
    assert [row["x"] for row in split_dataset_by_node(one_shard, rank=0, world_size=2)] == list(range(0, 12, 2))
    assert seen == list(range(12))
    shards = Dataset.from_dict({"x": list(range(12))}).to_iterable_dataset(num_shards=4)
    ranks = [[row["x"] for row in split_dataset_by_node(shards, rank, world_size=2)] for rank in range(2)]
    assert ranks == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]


def test_a_spawned_worker_gets_data_and_collator_that_share_an_object():
    shared = SharedRows()
    (seen,) = DataLoader(
        shared, batch_size=2, num_workers=1, multiprocessing_context="spawn", collate_fn=SharedCollator(shared)
    )
    assert seen == [[0, 1], [0, 1]]


class SharedRows:
    def __init__(self):
        self.fetched = []

    def __len__(self):
        return 2

    def __getitem__(self, number):
        self.fetched.append(number)
        return number


class SharedCollator:
    def __init__(self, rows):
        self.rows = rows

    def __call__(self, numbers):
        return [numbers, self.rows.fetched]


def test_a_batch_may_carry_a_text_to_the_device():
    moved = send_to_device(BatchEncoding({"x": torch.ones(1), "place": "{}"}), torch.device("cpu"))
    assert moved["place"] == "{}"


def test_the_trainer_may_be_given_fewer_workers_while_it_makes_a_loader(trainer):
    trainer.args.dataloader_num_workers, trainer.args.dataloader_prefetch_factor = 1, 6
    loader = trainer.get_train_dataloader()
    assert (loader.base_dataloader.num_workers, loader.base_dataloader.prefetch_factor) == (1, 6)


def test_generate_returns_the_prompt_first_and_what_it_is_told_beats_the_generation_config():
    model = FAMILIES["causal language model"].make_model()
    model.generation_config = GenerationConfig(
        eos_token_id=None, pad_token_id=0, do_sample=True, num_beams=2, max_length=4
    )
    asked = {"input_ids": torch.tensor([[0, 5], [6, 7]]), "attention_mask": torch.tensor([[0, 1], [1, 1]])}
    told = {"do_sample": False, "num_beams": 1, "max_new_tokens": 6}
    found = model.generate(**asked, **told)
    assert found.shape == (2, 8)
    assert torch.equal(found[:, :2], asked["input_ids"])
    assert torch.equal(found, model.generate(**asked, **told))
    alone = model.generate(input_ids=torch.tensor([[5]]), attention_mask=torch.ones(1, 1, dtype=torch.long), **told)
    assert torch.equal(found[0, 2:], alone[0, 1:])  # padding on the left is not looked at


def test_an_encoder_decoder_generates_the_token_that_starts_its_text_and_nothing_of_its_input():
    model = FAMILIES["sequence to sequence"].make_model()
    asked = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    found = model.generate(**asked, do_sample=False, num_beams=1, max_new_tokens=4)
    assert found[0, 0] == model.config.decoder_start_token_id
    assert found.shape[1] <= 5


def test_a_fused_head_of_trl_builds_logits_where_it_is_not_asked_to_score(tmp_path):
    trainer = make_sft_trainer(make_chat_model(), make_chats(8, "prior"), tmp_path)
    output = trainer.model(input_ids=torch.tensor([[5, 6, 7]], device=trainer.model.device))
    assert output.logits.shape[:2] == (1, 3)
