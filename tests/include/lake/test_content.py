"""Rows with lists, as the probabilities of several classes are."""

import pyarrow as pa

from include.lake.content import content_hash
from include.lake.tables import read_table, write_partition
from include.tasks.outputs import output_type

KIND = output_type(num_classes=3)


def rows(*lists: list[float] | None) -> pa.Table:
    return pa.table({"id": [str(n) for n in range(len(lists))], "probabilities": pa.array(lists, KIND)})


def test_lists_are_equal_in_any_order_of_rows_and_differ_by_each_value() -> None:
    table = rows([0.5, 0.25, 0.25], [0.0, 0.5, 0.5])
    assert content_hash(table.take([1, 0])) == content_hash(table)
    others = (rows([0.5, 0.25, 0.25], last) for last in ([0.0, 0.5, 0.25], [0.0, 0.5], None, []))
    assert len({content_hash(table), *map(content_hash, others)}) == 5


def test_a_table_of_lists_is_written_once(tmp_path: object) -> None:
    uri = f"{tmp_path}/table"
    table = rows([0.5, 0.25, 0.25])
    for is_new in (True, False):
        commit = write_partition(uri=uri, table=table, partition="2013-01", storage_options={})
        assert commit.is_new is is_new
    assert read_table(uri=uri, storage_options={})["probabilities"].to_pylist() == [[0.5, 0.25, 0.25]]
