import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mixcd.ideas.partition_strategy import ByColumn, ByFeatures, ByPriorLoss, Combined
from mixcd.ideas.partition_strategy.by_features import FITTED_ROWS
from mixcd.words.errors import DataError, SettingError
from mixcd.words.vocabulary import PriorTable

FEW = settings(deadline=None, max_examples=60)
FEATURES = hnp.arrays(
    np.float16,
    st.tuples(st.integers(1, 40), st.integers(1, 4)),
    elements=st.integers(-4, 4).map(float),
)


def tabulate(features):
    return PriorTable(np.zeros(len(features)), features=features)


def assign(features, bins=10, seed=0):
    return ByFeatures(bins, seed).assign(tabulate(features))


def make_blobs(samples=600, clusters=6, seed=0):
    """Well-separated clusters in 16-bit features, and which one every sample is of."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(clusters, size=samples)
    centres = 20 * np.eye(clusters)
    return (centres[truth] + rng.normal(size=(samples, clusters))).astype(np.float16), truth


@given(FEATURES, st.integers(1, 12), st.integers(0, 3))
@FEW
def test_every_row_has_a_bin_and_no_bin_is_empty(features, bins, seed):
    partition = assign(features, bins, seed)
    assert partition.bin_ids.shape == (len(features),)
    assert partition.bin_ids.dtype == np.int32
    assert partition.bin_ids.min() == 0
    assert partition.bin_sizes.min() >= 1
    assert partition.bin_sizes.sum() == len(features)
    assert 1 <= partition.bin_count <= min(bins, len(np.unique(features, axis=0)))


@given(FEATURES, st.integers(1, 12))
@FEW
def test_equal_rows_share_a_bin(features, bins):
    bin_ids = assign(np.concatenate([features, features]), bins).bin_ids
    assert bin_ids[: len(features)].tolist() == bin_ids[len(features) :].tolist()


@given(FEATURES, st.integers(1, 12), st.integers(0, 3))
@FEW
def test_the_same_seed_gives_the_same_bins(features, bins, seed):
    assert assign(features, bins, seed).bin_ids.tolist() == assign(features, bins, seed).bin_ids.tolist()


@given(FEATURES)
@FEW
def test_as_many_bins_as_distinct_rows_give_each_its_own(features):
    distinct, row = np.unique(features, axis=0, return_inverse=True)
    partition = assign(features, len(distinct) + 3)
    assert partition.bin_ids.tolist() == row.ravel().tolist()


def test_one_bin_holds_everyone():
    assert assign(make_blobs()[0], 1).bin_ids.tolist() == [0] * 600


@pytest.mark.parametrize("seed", range(3))
def test_well_separated_clusters_are_told_apart(seed):
    features, truth = make_blobs(seed=seed)
    partition = assign(features, 12, seed)  # more bins than clusters: none may straddle two
    owners = [set(truth[partition.bin_ids == bin_id]) for bin_id in range(partition.bin_count)]
    assert all(len(owner) == 1 for owner in owners)


def test_bins_are_named_by_number():
    assert assign(np.array([[0.0], [9.0]]), 2).bin_names == ("cluster 0", "cluster 1")


def test_another_seed_may_start_elsewhere():
    features = np.random.default_rng(0).normal(size=(500, 3))
    assert assign(features, 8, 0).bin_ids.tolist() != assign(features, 8, 1).bin_ids.tolist()


def test_rows_that_were_not_fitted_get_the_nearest_centre_chunk_by_chunk(monkeypatch):
    features, truth = make_blobs(samples=FITTED_ROWS + 3000, clusters=3)
    whole = assign(features, 6)
    monkeypatch.setattr("mixcd.ideas.partition_strategy.by_features._CHUNK", 1000)
    assert assign(features, 6).bin_ids.tolist() == whole.bin_ids.tolist()
    assert all(len(set(truth[whole.bin_ids == bin_id])) == 1 for bin_id in range(whole.bin_count))


def test_memory_mapped_features_give_the_same_bins(tmp_path):
    features, _ = make_blobs()
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert assign(mapped).bin_ids.tolist() == assign(features).bin_ids.tolist()


@pytest.mark.parametrize(
    "product", [ByFeatures(6) * ByColumn("label"), ByColumn("label") * ByFeatures(6)], ids=["first", "second"]
)
def test_a_product_crosses_the_clusters(product):
    features, _ = make_blobs()
    label = np.arange(600) % 2
    partition = product.assign(PriorTable(np.zeros(600), {"label": label}, features))
    assert isinstance(product, Combined)
    assert product.column_names == ("label",)
    clusters = assign(features, 6).bin_ids
    pairs = set(zip(clusters.tolist(), label.tolist(), strict=True))
    assert len(set(zip(partition.bin_ids.tolist(), clusters.tolist(), label.tolist(), strict=True))) == len(pairs)
    assert partition.bin_count == len(pairs)


def test_only_what_reads_features_says_so():
    assert ByFeatures().reads_features
    assert (ByFeatures() * ByColumn("label")).reads_features
    assert (ByColumn("label") * ByPriorLoss() * ByFeatures()).reads_features
    assert Combined((ByPriorLoss(), ByColumn("label") * ByFeatures())).reads_features
    assert not (ByPriorLoss() * ByColumn("label")).reads_features


@pytest.mark.parametrize("bins", [0, -3])
def test_no_bins_are_refused(bins):
    with pytest.raises(SettingError) as failure:
        ByFeatures(bins)
    assert str(failure.value) == f"`bins` is {bins}, but at least 1 bin is needed. Pass a number such as 10."


def test_a_table_without_features_is_refused_with_what_to_do():
    with pytest.raises(DataError) as failure:
        ByFeatures().assign(PriorTable(np.zeros(3)))
    assert str(failure.value) == (
        "`ByFeatures` needs the base model's features, but none are cached. `attach` caches them for a "
        "partition that reads them. Choose a new folder for the cache, to predict again."
    )
