import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

import mixcd
from mixcd.edge.compare.label_sets import name_label_set, name_label_sets
from mixcd.run.outcome.column_bins import bin_column
from mixcd.words.errors import DataError
from tiny_tasks import FAMILIES
from tiny_tasks import collate as collate_task
from workspace import make_tokenizer

WIDTHS = st.integers(1, 20)


@given(WIDTHS.flatmap(lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1)))
@settings(deadline=None)
def test_each_sample_has_the_name_of_its_set(flags):
    column = pa.chunked_array([pa.array(np.array(flags, dtype=float).tolist())])
    assert name_label_sets(column, []).to_pylist() == [name_label_set(row, []) for row in flags]


def test_thousands_of_sets_leave_fifty_and_other():
    flags = (np.arange(2**12)[:, None] >> np.arange(12)) & 1
    flags = np.concatenate([flags, np.repeat(flags[:60], 5, axis=0)])
    bins = bin_column("label", name_label_sets(pa.chunked_array([flags.astype(float).tolist()]), []))
    assert bins.bin_count == 51
    assert bins.bin_names[-1] == "label: 4,046 other values"


@pytest.fixture
def models():
    family = FAMILIES["multi-label"]
    torch.manual_seed(0)
    made = [family.make_model() for _ in range(2)]
    for model in made:
        model.config.id2label = {0: "joy", 1: "awe"}
    return made


@pytest.fixture
def rows():
    return FAMILIES["multi-label"].make_rows(200, 1, "prior")


def sets_of(comparison):
    return [one for one in comparison.partitions if one.name == "labels"]


def test_damage_is_told_apart_by_sets_of_labels(models, rows):
    comparison = mixcd.compare(*models, rows, collate_fn=collate_task)
    (sets,) = sets_of(comparison)
    names = {(0, 0): "none", (1, 0): "joy", (0, 1): "awe", (1, 1): "joy + awe"}
    held = [tuple(int(one) for one in row["labels"]) for row in rows]
    assert {one.name: one.change.sample_count for one in sets.bins} == {
        f"labels={name}": held.count(one) for one, name in names.items() if one in held
    }
    assert sum(one.change.damaged_count for one in sets.bins) == comparison.change.damaged_count > 0
    assert all(one.label == names[held[one.sample_id]] for one in comparison.most_damaged)
    assert all(one.prediction is None for one in comparison.most_damaged)


def test_sets_of_labels_are_left_out_or_named_like_any_column(models, rows):
    rows = rows.add_column("kind", ["a", "b"] * 100)
    assert not sets_of(mixcd.compare(*models, rows, tokenizer=make_tokenizer(), columns=["kind"]))
    assert sets_of(mixcd.compare(*models, rows, tokenizer=make_tokenizer(), columns=["labels"]))


def test_labels_of_several_lengths_are_refused(models, rows):
    uneven = [row if number != 7 else {**row, "labels": [1.0]} for number, row in enumerate(rows.to_list())]
    with pytest.raises(DataError, match="`data` has 2 labels on sample 0, but another number in `labels` on sample 7."):
        mixcd.compare(*models, Dataset.from_list(uneven), collate_fn=collate_task)
