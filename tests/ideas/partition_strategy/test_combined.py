import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcd.ideas.partition_strategy import ByColumn, ByPriorLoss, Combined, parse_partition
from mixcd.words.errors import DataError, SettingError
from mixcd.words.vocabulary import PriorTable

ROW = st.tuples(st.floats(0, 9, allow_nan=False), st.integers(0, 3), st.sampled_from(["en", "fr", "de"]))
ROWS = st.lists(ROW, min_size=1, max_size=50)
FEW = settings(deadline=None, max_examples=60)
LABEL, LANGUAGE, LOSS = ByColumn("label"), ByColumn("language"), ByPriorLoss(3)


def tabulate(rows):
    losses, labels, languages = zip(*rows, strict=True)
    return PriorTable(np.array(losses), {"label": np.array(labels), "language": np.array(languages)})


TABLE = tabulate([(0.1, 1, "en"), (3.0, 1, "fr"), (0.2, 0, "en"), (4.0, 1, "en")])


def test_cells_are_ordered_by_the_first_parts_bins_then_the_seconds():
    partition = Combined((LABEL, LANGUAGE)).assign(TABLE)
    assert partition.bin_ids.tolist() == [1, 2, 0, 1]
    assert partition.bin_names == ("label=0 × language=en", "label=1 × language=en", "label=1 × language=fr")


@pytest.mark.parametrize("first", [LABEL, LOSS, Combined((LABEL,))])
@pytest.mark.parametrize("second", [LANGUAGE, ByPriorLoss(2)])
def test_a_product_is_the_combination(first, second):
    product = first * second
    assert isinstance(product, Combined)
    expected = Combined((first, second)).assign(TABLE)
    assert product.assign(TABLE).bin_ids.tolist() == expected.bin_ids.tolist()
    assert product.assign(TABLE).bin_names == expected.bin_names


def test_a_product_of_three_has_three_parts_and_crosses_them_all():
    product = LABEL * LANGUAGE * ByPriorLoss(2)
    assert product.parts == (LABEL, LANGUAGE, ByPriorLoss(2))
    partition = product.assign(TABLE)
    assert partition.bin_ids.tolist() == [1, 3, 0, 2]
    assert partition.bin_names[0] == "label=0 × language=en × loss 0.1 to 0.2"
    assert partition.bin_count == 4


@given(ROWS)
@FEW
def test_every_cell_holds_samples_and_the_sizes_add_up(rows):
    partition = (LOSS * LABEL * LANGUAGE).assign(tabulate(rows))
    assert partition.bin_sizes.min() >= 1
    assert partition.bin_sizes.sum() == len(rows)
    assert partition.bin_sizes.size == partition.bin_count == len(set(partition.bin_names))


@given(ROWS)
@FEW
def test_two_samples_share_a_cell_exactly_when_they_share_every_parts_bin(rows):
    table = tabulate(rows)
    parts = (LOSS, LABEL, LANGUAGE)
    cells = list(zip(*(part.assign(table).bin_ids.tolist() for part in parts), strict=True))
    order = {cell: bin_id for bin_id, cell in enumerate(sorted(set(cells)))}
    assert Combined(parts).assign(table).bin_ids.tolist() == [order[cell] for cell in cells]


@given(ROWS)
@FEW
def test_a_partner_with_one_bin_changes_no_bin(rows):
    table = tabulate(rows)
    alone = LABEL.assign(table).bin_ids.tolist()
    assert (LABEL * ByPriorLoss(1)).assign(table).bin_ids.tolist() == alone
    assert (ByPriorLoss(1) * LABEL).assign(table).bin_ids.tolist() == alone
    assert Combined((LABEL,)).assign(table).bin_ids.tolist() == alone


@given(ROWS)
@FEW
def test_grouping_of_the_parts_does_not_matter(rows):
    table = tabulate(rows)
    left, right = ((LOSS * LABEL) * LANGUAGE).assign(table), Combined((LOSS, LABEL * LANGUAGE)).assign(table)
    assert left.bin_ids.tolist() == right.bin_ids.tolist()
    assert left.bin_names == right.bin_names


def test_each_column_that_a_part_reads_is_named_once():
    assert (LOSS * LANGUAGE * LABEL * LANGUAGE).column_names == ("language", "label")


def test_no_parts_are_refused():
    with pytest.raises(SettingError) as failure:
        Combined(())
    assert str(failure.value) == (
        "`Combined` was given no partitions. It crosses at least one. Pass strategies, as in "
        '`ByPriorLoss(10) * ByColumn("label")`.'
    )
    assert isinstance(failure.value, ValueError)


def test_what_a_part_raises_comes_through():
    with pytest.raises(DataError, match="`ByColumn` asks for column `topic`"):
        (LOSS * ByColumn("topic")).assign(TABLE)


def test_a_partition_is_told_by_text_or_is_one_already():
    assert parse_partition("loss:5") == ByPriorLoss(5)
    assert parse_partition(("loss", "column:label")) == ByPriorLoss() * ByColumn("label")
    combined = ByPriorLoss(3) * ByColumn("label")
    assert parse_partition(combined) is combined


@pytest.mark.parametrize("wanted", [ByPriorLoss, 10, None, [], {"loss": 10}])
def test_what_is_no_partition_is_refused(wanted):
    with pytest.raises(SettingError, match="`partition` is .*, which is no partition. Pass .loss:10., "):
        parse_partition(wanted)


def test_a_combined_partition_keeps_its_factors():
    table = PriorTable(np.array([0.1, 0.2, 3.0, 4.0]), {"label": np.array([0, 1, 1, 1])})
    parts = ByPriorLoss(2), ByColumn("label")
    factors = Combined(parts).assign(table).factors
    assert [one.bin_ids.tolist() for one in factors] == [part.assign(table).bin_ids.tolist() for part in parts]
