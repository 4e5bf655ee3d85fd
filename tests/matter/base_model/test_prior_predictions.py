import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mixcd.ideas.partition_strategy import ByFeatures
from mixcd.matter.base_model.head_features import pool_head_input
from mixcd.matter.base_model.inference import Processes
from mixcd.matter.base_model.prior_predictions import assign_bins, predict_prior
from mixcd.matter.correctness import NearTarget
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.words.errors import CacheError, DataError, FolderInUseError, SettingError, UnsupportedTrainerError
from mixcd.words.files import lock_folder
from mixcd.words.vocabulary import UNCACHED_BIN, PriorTable
from tiny import collate, make_model, make_rows, make_trainer


@pytest.fixture
def predict(base_model, prior_data, tmp_path):
    def run(model=base_model, data=prior_data, folder=tmp_path / "cache", **settings):
        return predict_prior(
            model, data, folder, **{"collate_fn": collate, "progress": False, "part_size": 250, **settings}
        )

    return run


class Interrupting:
    """A collator that is interrupted after some batches."""

    def __init__(self, batches):
        self.left = batches

    def __call__(self, rows):
        if len(rows) != 8:  # the fingerprint's batch is not counted
            self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return collate(rows)


def test_predictions_are_the_trainers_own(predict, base_model, prior_data, tmp_path):
    found = predict()
    expected = make_trainer(base_model, prior_data, tmp_path).predict(prior_data)
    right = expected.predictions.argmax(-1) == expected.label_ids
    np.testing.assert_array_equal(found.correct, right)
    np.testing.assert_array_equal(found.prediction, expected.predictions.argmax(-1))
    losses = torch.nn.functional.cross_entropy(
        torch.tensor(expected.predictions), torch.tensor(expected.label_ids), reduction="none"
    )
    np.testing.assert_allclose(found.loss, losses, rtol=1e-5)
    assert found.token_count.tolist() == [len(row) for row in prior_data["input_ids"]]
    assert found.sample_ids.tolist() == list(range(600))


def test_modes_gradients_and_random_state_are_put_back(predict, base_model):
    base_model.train()
    base_model.classifier.eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    predict()
    assert base_model.training
    assert not base_model.classifier.training
    assert base_model.bert.training
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in base_model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_second_call_reads_the_cache(predict):
    first, second = predict(), predict()
    assert first.forward_count > 0
    assert second.forward_count == 0
    np.testing.assert_array_equal(first.loss, second.loss)


def test_an_interrupted_pass_resumes_at_the_first_missing_part(predict, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict(collate_fn=Interrupting(12), batch_size=25)
    parts = sorted(path.name for path in (tmp_path / "cache").glob("part-*.parquet"))
    assert parts == ["part-000000.parquet"]
    resumed = predict(batch_size=25)
    whole = predict(folder=tmp_path / "whole", batch_size=25)
    assert 0 < resumed.forward_count < whole.forward_count
    np.testing.assert_array_equal(resumed.loss, whole.loss)


def test_a_pass_killed_before_its_first_part_starts_again(predict, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict(collate_fn=Interrupting(0))
    assert predict().forward_count > 0


def test_a_partial_cache_covers_its_share(predict):
    found = predict(share=0.3)
    assert found.sample_ids.size == 180
    assert np.array_equal(found.sample_ids, np.unique(found.sample_ids))
    assert found.base_correct.sum() == found.correct.sum()
    assert predict().forward_count == 0  # no share asked for: the cache is used as it is
    with pytest.raises(CacheError, match="holds a share of 0.3 of the prior data, but 1 was asked for"):
        predict(share=1.0)


def test_columns_are_stored_beside_the_predictions(predict, prior_data, tmp_path):
    found = predict(columns=("topic", "label"))
    assert found.columns["topic"].tolist() == prior_data["topic"][:]
    stored = pq.read_table(tmp_path / "cache" / "part-000000.parquet")
    assert stored.column_names == ["sample_id", "loss", "correct", "prediction", "token_count", "topic", "label"]


def test_batches_share_little_padding(predict, base_model, prior_data):
    shapes = []
    base_model.register_forward_pre_hook(
        lambda _m, _a, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    predict(batch_size=8, part_size=600)
    longest = max(map(len, prior_data["input_ids"]))
    assert max(rows * length for rows, length in shapes) <= 8 * longest
    padded = sum(rows * length for rows, length in shapes)
    assert padded < 1.02 * sum(map(len, prior_data["input_ids"]))


@pytest.mark.parametrize(
    ("what", "cure"),
    [
        ("model", "build the trainer from the base model"),
        ("tokenizer", "Use the tokenizer that the cache was made with"),
        ("data", "Use the same prior data in the same order"),
        ("preprocessing", "Collate and truncate as before"),
        ("rule", "Judge correctness as before"),
    ],
)
def test_a_cache_made_from_something_else_is_refused_and_kept(predict, prior_data, tmp_path, monkeypatch, what, cure):
    predict()
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    settings = {
        "model": {"model": make_model(seed=1)},
        "tokenizer": {"tokenizer": object()},
        "data": {"data": prior_data.map(lambda row, n: {"topic": "x" if n == 99 else row["topic"]}, with_indices=True)},
        "preprocessing": {"collate_fn": lambda rows: {**collate(rows), "more": torch.zeros(len(rows))}},
        "rule": {},
    }[what]
    if what == "rule":
        monkeypatch.setattr("mixcd.matter.correctness.RightClass.name", "another rule")
    with pytest.raises(CacheError, match=f"was made from another {what}.*{cure}"):
        predict(**settings)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


def test_a_cache_made_with_other_settings_is_refused_and_says_which(predict, base_model, base_weights):
    predict()
    base_model.config.pad_token_id = 7
    with pytest.raises(
        CacheError, match="by this model with other settings, .*: padding token 0, now 7. Let the model"
    ):
        predict()
    base_model.config.pad_token_id = 0
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(CacheError, match="autocast None, now bfloat16"),
    ):
        predict()
    assert predict().forward_count == 0


def test_altered_truncated_and_missing_parts_are_refused_by_name(predict, tmp_path):
    predict()
    part = tmp_path / "cache" / "part-000001.parquet"
    content = part.read_bytes()
    for broken in (content[:-10], bytes([content[0] ^ 1]) + content[1:], content + b"x"):
        part.write_bytes(broken)
        with pytest.raises(CacheError, match=r"`.*part-000001.parquet` was truncated or altered"):
            predict()
    part.unlink()
    with pytest.raises(CacheError, match=r"`.*part-000001.parquet` is missing"):
        predict()


def test_swapped_parts_are_refused(predict, tmp_path):
    predict()
    folder = tmp_path / "cache"
    first, second = (folder / f"part-00000{number}.parquet" for number in (0, 1))
    swap = folder / "swap"
    first.rename(swap)
    second.rename(first)
    swap.rename(second)
    with pytest.raises(CacheError, match=r"part-000000.parquet` was truncated or altered"):
        predict()


def test_any_altered_byte_of_the_manifest_is_refused(predict, tmp_path):
    predict(share=0.5, seed=1)
    manifest = tmp_path / "cache" / "manifest.json"
    content = manifest.read_text()
    for altered in (
        content.replace('"seed": 1', '"seed": 2'),
        content.replace('"seed": 1', '"seed":  1'),
        content.replace("\n ", "\n\t", 1),
        content + "\n",
    ):
        assert altered != content
        manifest.write_text(altered)
        with pytest.raises(CacheError, match=r"manifest.json` cannot be read: it was altered after it was written"):
            predict()


def test_parts_of_an_unfinished_pass_do_not_pass_for_each_other(predict, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict(collate_fn=Interrupting(12), batch_size=25, part_size=100)
    folder = tmp_path / "cache"
    for ending in ("parquet", "sha256"):
        first, second = (folder / f"part-00000{number}.{ending}" for number in (0, 1))
        first.rename(folder / "swap")
        second.rename(first)
        (folder / "swap").rename(second)
    with pytest.raises(CacheError, match=r"part-000000.parquet` was truncated or altered"):
        predict()


def test_the_remains_of_a_killed_writer_are_replaced(predict, tmp_path):
    (tmp_path / "cache").mkdir()
    for name in ("manifest.json.unfinished", "part-000000.parquet.unfinished", ".lock"):
        (tmp_path / "cache" / name).write_text("half")
    assert predict().forward_count > 0
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {
        "manifest.json",
        *(f"part-00000{number}.parquet" for number in range(3)),
        ".lock",
    }


def test_a_part_that_cannot_be_written_costs_that_part_only(predict, tmp_path, monkeypatch):
    write, written = pq.write_table, []

    def fill_the_disk(table, path, **settings):
        if len(written) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        write(table, path, **settings)

    monkeypatch.setattr(pq, "write_table", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        predict()
    monkeypatch.undo()
    assert not list((tmp_path / "cache").glob("*.unfinished"))
    resumed, whole = predict(), predict(folder=tmp_path / "whole")
    assert 0 < resumed.forward_count < whole.forward_count / 2
    np.testing.assert_array_equal(resumed.loss, whole.loss)


def test_processes_share_the_pass_and_each_writes_its_own_parts(predict, base_weights, tmp_path):
    barrier = threading.Barrier(2)

    def run(rank):
        model = make_model()
        model.load_state_dict(base_weights)
        return predict(model=model, processes=Processes(rank, 2, lambda: barrier.wait(60)), part_size=200)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, (0, 1))
    alone = predict(folder=tmp_path / "alone", part_size=200)
    assert first.forward_count > second.forward_count > 0
    assert first.forward_count + second.forward_count == alone.forward_count
    for found in (first, second):
        np.testing.assert_array_equal(found.loss, alone.loss)
    for path in (tmp_path / "alone").glob("part*"):
        assert path.read_bytes() == (tmp_path / "cache" / path.name).read_bytes()


def test_a_process_that_sees_no_cache_is_told_so(predict):
    with pytest.raises(CacheError, match=r"Process 1 sees no cache in `.*`, where process 0 wrote one"):
        predict(processes=Processes(1, 2, lambda: None))


def test_two_runs_do_not_fill_one_cache(predict, tmp_path):
    with (
        lock_folder(tmp_path / "cache"),
        pytest.raises(FolderInUseError, match=r"`.*cache` is in use by another run"),
    ):
        predict()
    predict()
    with lock_folder(tmp_path / "cache"):
        assert predict().forward_count == 0  # a complete cache is read by many


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "cannot be read"),
        ("{}", "cannot be read"),
        ('{"format": 99}', "has format 99.*Upgrade mixcd"),
        ('{"format": 3, "unknown": 1, "columns": []}', "cannot be read"),
        (
            '{"format": 2}',
            "has format 2, but this version of mixcd reads format 3.*with the version of mixcd that wrote",
        ),
    ],
)
def test_a_broken_manifest_is_refused(predict, tmp_path, content, fault):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "manifest.json").write_text(content)
    with pytest.raises(CacheError, match=fault):
        predict()


def test_a_folder_that_is_no_cache_is_refused_and_kept(predict, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match=r"is not a prediction cache: it holds other files"):
        predict(folder=tmp_path)
    with pytest.raises(CacheError, match=r"is not a prediction cache"):
        predict(folder=tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_losses_that_are_not_finite_name_their_samples(predict, base_model):
    with torch.no_grad():
        base_model.bert.embeddings.word_embeddings.weight[3] = float("nan")
    data = make_rows(40, seed=1, task="prior")
    broken = [number for number, row in enumerate(data["input_ids"]) if 3 in row]
    with pytest.raises(DataError, match=f"NaN or infinite on prior sample {broken[0]}, {broken[1]}"):
        predict(data=data, least_share_right=0)


def test_a_base_model_that_knows_too_little_is_refused(predict):
    wrong = make_rows(100, seed=3, task="prior").map(lambda row: {"label": (row["label"] + 1) % 3})
    with pytest.raises(DataError, match=r"right on \d+\.\d% of the prior samples, but rehearsal needs at least 20%"):
        predict(data=wrong)


def test_a_pass_that_is_refused_leaves_nothing_that_blocks_the_corrected_one(predict, prior_data):
    odd = prior_data.map(lambda row, number: {"label": 7 if number == 550 else row["label"]}, with_indices=True)
    with pytest.raises(DataError, match="label 7 on sample 550"):
        predict(data=odd, part_size=100)
    with pytest.raises(DataError, match="right on .* of the prior samples, but rehearsal needs at least 99%"):
        predict(data=prior_data.select(range(550)), least_share_right=0.99)
    assert predict(data=prior_data, part_size=100).forward_count


def test_a_cache_that_was_there_is_kept_when_it_is_refused(predict, tmp_path):
    predict()
    with pytest.raises(DataError, match="rehearsal needs at least 99%"):
        predict(least_share_right=0.99)
    assert predict().forward_count == 0


def test_a_long_pass_is_refused_after_its_first_rows(predict, base_model, tmp_path):
    base_model.classifier = torch.nn.Linear(16, 3)
    torch.nn.init.zeros_(base_model.classifier.weight)
    base_model.classifier.bias.data = torch.tensor([0.0, 0.0, 9.0])
    calls = []
    base_model.register_forward_hook(lambda *_: calls.append(1))
    data = make_rows(5000, seed=1, task="prior").map(lambda row: {"label": row["label"] % 2})
    with pytest.raises(DataError, match=r"right on 0.0% of 256 prior samples drawn at random, but rehearsal needs"):
        predict(data=data)
    assert len(calls) <= 256 / 8
    assert not (tmp_path / "cache").exists()


def test_settings_that_make_no_sense_are_refused(predict):
    for share in (0, -1, 1.1, float("nan")):
        with pytest.raises(SettingError, match="`share` is .*must lie in"):
            predict(share=share)
    with pytest.raises(SettingError, match="`batch_size` is 0"):
        predict(batch_size=0)


def test_labels_and_columns_that_are_missing_are_refused(predict):
    with pytest.raises(DataError, match="`prior_data` has no labels: its batches hold `input_ids`, `attention_mask`"):
        predict(collate_fn=lambda rows: {k: v for k, v in collate(rows).items() if k != "labels"})
    with pytest.raises(DataError, match="no column `nothing`"):
        predict(columns=("nothing",))


def test_labels_outside_the_models_classes_name_their_samples(predict):
    data = make_rows(50, seed=1, task="prior").map(
        lambda row, number: {"label": 5 if number in (7, 20) else row["label"]}, with_indices=True
    )
    with pytest.raises(DataError, match="has label 5 on sample (7|20), but the model knows classes 0 to 2"):
        predict(data=data)


def test_a_collator_that_returns_no_mapping_is_refused(predict):
    with pytest.raises(UnsupportedTrainerError, match="collator returned a list"):
        predict(collate_fn=lambda rows: list(rows))


def test_outputs_that_do_not_fit_the_labels_are_refused(predict, base_model):
    base_model.classifier = torch.nn.Linear(16, 1)
    with pytest.raises(UnsupportedTrainerError, match="single output, which is a regression"):
        predict()
    base_model.classifier = torch.nn.Linear(16, 4)
    with pytest.raises(UnsupportedTrainerError, match=r"shape \(\d+, 4\) for labels of shape \(\d+, 3\)"):
        predict(collate_fn=lambda rows: {**collate(rows), "labels": torch.zeros(len(rows), 3)})


def test_samples_longer_than_the_models_positions_are_named(predict):
    def lengthen(row, number):
        times = 9 if number in (3, 8) else 1
        return {name: row[name] * times for name in ("input_ids", "attention_mask")}

    data = make_rows(20, seed=1, task="prior").map(lengthen, with_indices=True)
    with pytest.raises(DataError, match=r"tokens on sample 3, 8, but the model has 16 positions\. Truncate when tok"):
        predict(data=data)


def test_the_rule_may_be_said(predict, base_model):
    base_model.classifier = torch.nn.Linear(16, 1)
    found = predict(correctness=NearTarget(1.5))
    assert found.prediction is None
    assert found.sources["rule"] == "regression: absolute error ≤ 1.5"


# --- logits and features ------------------------------------------------------------------------------------------


def test_logits_and_features_are_cached_in_the_same_pass(predict, base_model, prior_data, tmp_path):
    found = predict(features=8)
    expected = make_trainer(base_model, prior_data, tmp_path).predict(prior_data).predictions
    np.testing.assert_allclose(found.arrays["logits"], expected, atol=2e-3, rtol=2e-3)
    features = found.arrays["features"]
    assert features.shape == (600, 8)
    assert features.dtype == np.float16
    assert isinstance(features, np.memmap)
    np.testing.assert_allclose(features.astype(float).mean(0), 0, atol=0.01)
    np.testing.assert_allclose(features[:, 0].astype(float).std(), 1, atol=0.01)
    plain = predict(folder=tmp_path / "plain")
    np.testing.assert_array_equal(found.loss, plain.loss)
    assert plain.arrays == {}


def test_features_separate_what_the_head_separates(predict, prior_data):
    found = predict(features=16)
    features = np.column_stack([found.arrays["features"].astype(float), np.ones(600)])
    logits = found.arrays["logits"].astype(float)
    fitted = features @ np.linalg.lstsq(features, logits, rcond=None)[0]
    assert np.corrcoef(fitted.ravel(), logits.ravel())[0, 1] > 0.99  # all components: the head is linear in them


def test_logits_and_features_cost_what_is_promised(predict, tmp_path):
    data = make_rows(20_000, seed=1, task="prior")
    predict(data=data, features=8, part_size=None, batch_size=256)
    size = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert size / 20_000 <= 2 * 8 + 2 * 3 + 16


def test_features_survive_interruptions_and_are_shared_by_processes(predict, base_weights, tmp_path):
    whole = predict(folder=tmp_path / "whole", features=8, batch_size=25)
    with pytest.raises(KeyboardInterrupt):
        predict(collate_fn=Interrupting(30), batch_size=25, features=8)
    assert list((tmp_path / "cache").glob("part-*.parquet"))
    resumed = predict(batch_size=25, features=8)
    assert 0 < resumed.forward_count < whole.forward_count
    barrier = threading.Barrier(2)

    def run(rank):
        model = make_model()
        model.load_state_dict(base_weights)
        processes = Processes(rank, 2, lambda: barrier.wait(60))
        return predict(model=model, folder=tmp_path / "two", processes=processes, batch_size=25, features=8)

    with ThreadPoolExecutor(2) as pool:
        shared, _ = pool.map(run, (0, 1))
    for found in (resumed, shared):
        for name in ("logits", "features"):
            np.testing.assert_array_equal(found.arrays[name], whole.arrays[name])


@pytest.mark.parametrize("name", ["logits.safetensors", "features.safetensors"])
@pytest.mark.parametrize("fault", ["flip", "cut", "header", "delete"])
def test_altered_arrays_are_refused_by_name(predict, tmp_path, name, fault):
    predict(features=8)
    path = tmp_path / "cache" / name
    content = path.read_bytes()
    broken = {
        "flip": content[:-7] + bytes([content[-7] ^ 4]) + content[-6:],
        "cut": content[:-100],
        "header": bytes([255]) * 8 + content[8:],
        "delete": None,
    }[fault]
    path.unlink()
    if broken is not None:
        path.write_bytes(broken)
    with pytest.raises(CacheError, match=name):
        predict(features=8)


def test_a_pass_killed_before_its_manifest_starts_again(predict, tmp_path):
    (tmp_path / "cache").mkdir()
    for name in ("basis.safetensors", "features.safetensors", "logits.safetensors"):
        (tmp_path / "cache" / name).write_bytes(b"half")
    assert predict(features=8).arrays["features"].shape == (600, 8)


def test_an_altered_basis_is_refused_before_the_pass_goes_on(predict, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict(collate_fn=Interrupting(30), batch_size=25, features=8)
    basis = tmp_path / "cache" / "basis.safetensors"
    basis.write_bytes(basis.read_bytes()[:-1] + b"x")
    with pytest.raises(CacheError, match=r"`.*basis.safetensors` is missing, or was altered"):
        predict(batch_size=25, features=8)


def test_a_cache_without_features_is_refused_and_one_with_them_serves_all(predict, tmp_path):
    predict()
    with pytest.raises(CacheError, match="holds no features, which the estimator or the partition needs"):
        predict(features=8)
    predict(features=8, folder=tmp_path / "rich")
    assert predict(folder=tmp_path / "rich").forward_count == 0


def test_features_of_a_model_without_a_linear_head_are_refused(predict, base_model):
    class Bilinear(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return {"logits": torch.nn.functional.one_hot(input_ids[:, 0] % 3, 3).float()}

    model = Bilinear()
    model.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(UnsupportedTrainerError, match="The model has no linear layer"):
        predict(model=model, features=8)
    model.layer = torch.nn.Linear(2, 3)
    with pytest.raises(UnsupportedTrainerError, match="No linear layer of the model took part in its forward pass"):
        predict(model=model, features=8)


def test_the_head_of_a_model_that_scores_every_token_is_averaged_over_tokens():
    seen = [torch.arange(12, dtype=torch.float32).reshape(2, 3, 2)]
    pooled = pool_head_input(seen, {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}, 2)
    assert pooled.tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert seen == []


def test_the_head_of_a_model_that_scores_every_choice_is_averaged_over_the_choices_of_a_sample():
    mask = torch.ones(2, 3, 4)
    chosen = torch.arange(12, dtype=torch.float32).reshape(6, 2)
    assert pool_head_input([chosen], {"attention_mask": mask}, 2).tolist() == [[2.0, 3.0], [8.0, 9.0]]
    by_token = chosen[:, None].expand(6, 4, 2)
    assert pool_head_input([by_token], {"attention_mask": mask}, 2).tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_partitions_are_given_the_cached_features(predict, prior_data):
    found = predict(features=8, share=0.5)
    partition = assign_bins(ByFeatures(4), PriorDataset(prior_data), found)
    expected = ByFeatures(4).assign(PriorTable(found.loss, features=found.arrays["features"]))
    assert partition.bin_names == expected.bin_names
    assert partition.bin_ids[found.sample_ids].tolist() == expected.bin_ids.tolist()
    assert (partition.bin_ids == UNCACHED_BIN).sum() == 300


def test_a_partition_that_reads_features_is_refused_when_none_are_cached(predict, prior_data):
    with pytest.raises(DataError, match="`ByFeatures` needs the base model's features, but none are cached"):
        assign_bins(ByFeatures(4), PriorDataset(prior_data), predict())
