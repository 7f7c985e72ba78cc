from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from include.errors import BadInputError, NotFoundError, PartitionError, SchemaError, ServiceError
from include.lake import tables
from include.lake.tables import (
    Commit,
    content_hash,
    current_version,
    partition_commit,
    published_partitions,
    read_table,
    table_exists,
    write_partition,
)

if TYPE_CHECKING:
    from pathlib import Path


def rows(*values: int, name: str | None = "x") -> pa.Table:
    return pa.table(
        {
            "a": pa.array(values, pa.int64()),
            "name": pa.array([name] * len(values), pa.string()),
            "at": pa.array([datetime(2013, 1, 1, tzinfo=UTC)] * len(values), pa.timestamp("us", "UTC")),
            "share": pa.array([0.5] * len(values), pa.float64()),
            "flag": pa.array([True] * len(values), pa.bool_()),
        }
    )


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "table")


def put(uri: str, table: pa.Table, partition: str = "2013-01", **metadata: str) -> Commit:
    return write_partition(uri=uri, table=table, partition=partition, storage_options={}, metadata=metadata)


def get(uri: str, **kwargs: Any) -> pa.Table:
    return read_table(uri=uri, storage_options={}, **kwargs)


def test_a_partition_is_replaced_and_the_others_stay(uri: str) -> None:
    first = put(uri, rows(1, 2), source="upstream")
    put(uri, rows(7), "2013-02")
    second = put(uri, rows(3))
    assert (first.version, first.num_rows, first.is_new) == (0, 2, True)
    assert first.metadata["source"] == "upstream"
    assert second.version == 2
    assert sorted(get(uri)["a"].to_pylist()) == [3, 7]
    assert get(uri, version=0)["a"].to_pylist() == [1, 2]
    assert get(uri, partitions=["2013-02"])["a"].to_pylist() == [7]
    assert current_version(uri=uri, storage_options={}) == 2


def test_equal_content_makes_no_commit_whatever_its_order(uri: str) -> None:
    first = put(uri, rows(1, 2, 3))
    put(uri, rows(7), "2013-02")
    again = put(uri, rows(3, 1, 2))
    assert (again.is_new, again.version, again.checksum) == (False, first.version, first.checksum)
    assert current_version(uri=uri, storage_options={}) == 1


def test_content_that_returns_after_a_change_is_a_commit_again(uri: str) -> None:
    first = put(uri, rows(1))
    put(uri, rows(2))
    back = put(uri, rows(1))
    assert (back.is_new, back.version, back.checksum) == (True, 2, first.checksum)


def test_the_checksum_is_the_hash_of_what_is_read_back(uri: str) -> None:
    commit = put(uri, rows(1, 2, 3, name=None))
    assert content_hash(get(uri, partitions=["2013-01"])) == commit.checksum


def test_no_rows_empty_the_partition(uri: str) -> None:
    put(uri, rows(1))
    empty = put(uri, rows())
    assert (empty.is_new, empty.num_rows) == (True, 0)
    assert get(uri).num_rows == 0
    assert put(uri, rows()).is_new is False


def test_an_empty_partition_may_come_first(uri: str) -> None:
    assert put(uri, rows()).num_rows == 0
    assert put(uri, rows(1)).num_rows == 1


def test_rows_of_another_partition_are_refused(uri: str) -> None:
    table = rows(1).append_column("partition", pa.array(["2013-02"]))
    with pytest.raises(BadInputError, match=r"got rows of \['2013-02'\]. Nothing was written"):
        put(uri, table, "2013-01")
    assert not table_exists(uri=uri, storage_options={})


@pytest.mark.parametrize("key", ["2013-13", "x' or '1'='1", ""])
def test_a_key_that_is_none_is_refused(uri: str, key: str) -> None:
    with pytest.raises(PartitionError):
        put(uri, rows(1), key)


def test_new_columns_are_added(uri: str) -> None:
    put(uri, rows(1))
    put(uri, rows(2).append_column("more", pa.array([1.5])), "2013-02")
    assert sorted(get(uri)["more"].to_pylist(), key=str) == [1.5, None]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows(2).drop_columns(["flag"]), r"got none of \['flag'\]"),
        (rows(2).set_column(0, "a", pa.array(["2"])), "a: string instead of int64"),
    ],
)
def test_missing_columns_and_other_types_are_refused(uri: str, table: pa.Table, said: str) -> None:
    put(uri, rows(1))
    with pytest.raises(SchemaError, match=said):
        put(uri, table)
    assert current_version(uri=uri, storage_options={}) == 0


def test_reading_what_is_not_there_says_so(uri: str) -> None:
    with pytest.raises(NotFoundError, match="must exist; got nothing there"):
        get(uri)
    assert partition_commit(uri=uri, partition="2013-01", storage_options={}) is None
    put(uri, rows(1))
    with pytest.raises(NotFoundError, match="must be 0 to 0; got 7"):
        get(uri, version=7)
    assert partition_commit(uri=uri, partition="2013-02", storage_options={}) is None


def test_content_is_unknown_after_a_change_by_hand_so_it_is_written_again(uri: str) -> None:
    put(uri, rows(1))
    DeltaTable(uri).delete("partition = '2013-01'")
    assert put(uri, rows(1)).is_new is True
    assert get(uri)["a"].to_pylist() == [1]


def test_compaction_changes_no_content(uri: str) -> None:
    put(uri, rows(1))
    DeltaTable(uri).optimize.compact()
    assert put(uri, rows(1)).is_new is False


def test_commits_are_kept_for_ever(uri: str) -> None:
    put(uri, rows(1))
    assert DeltaTable(uri).metadata().configuration["delta.logRetentionDuration"] == "interval 36500 days"


@pytest.mark.parametrize(
    "other",
    [
        rows(1, 3),
        rows(1, 2, name="y"),
        rows(1, 2, name=None),
        rows(1),
        rows(1, 2).rename_columns(["b", "name", "at", "share", "flag"]),
        rows(1, 2).set_column(0, "a", pa.array([1, 2], pa.int32())),
    ],
)
def test_other_content_has_another_hash(other: pa.Table) -> None:
    assert content_hash(rows(1, 2)) != content_hash(other)


def test_encoding_chunks_and_slices_do_not_change_the_hash() -> None:
    table = rows(1, 2, 3)
    chunks = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    encoded = table.set_column(1, "name", table["name"].dictionary_encode())
    wide = table.set_column(1, "name", table["name"].cast(pa.string_view()))
    assert {content_hash(t) for t in (table, chunks, encoded, wide)} == {content_hash(table)}
    assert content_hash(table.slice(1, 1)) == content_hash(rows(2))


def test_texts_are_not_run_together() -> None:
    one, other = pa.table({"s": ["ab", "c"]}), pa.table({"s": ["a", "bc"]})
    assert content_hash(one) != content_hash(other)
    assert content_hash(pa.table({"s": [""]})) != content_hash(pa.table({"s": pa.array([None], pa.string())}))


def _write_many(uri: str, first: int, partition: str) -> None:
    for value in range(first, first + 4):
        put(uri, rows(value), partition)


@pytest.mark.parametrize("shared", [True, False])
def test_writers_at_the_same_time_all_succeed(uri: str, shared: bool) -> None:
    context = multiprocessing.get_context("spawn")
    keys = ["2013-01"] * 3 if shared else ["2013-01", "2013-02", "2013-03"]
    writers = [context.Process(target=_write_many, args=(uri, 10 * n, key)) for n, key in enumerate(keys)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert current_version(uri=uri, storage_options={}) == 11
    assert get(uri).num_rows == (1 if shared else 3)


@pytest.mark.parametrize(
    "message",
    [
        "Failed to commit transaction: Commit failed: a concurrent transactions added new data.\nHelp: rerun",
        "Failed to commit transaction: Commit failed: a concurrent transaction deleted data this operation read.",
        "Failed to commit transaction: Commit failed: a concurrent transaction deleted the same data your transaction",
        "Failed to commit transaction: Concurrent transaction failed.",
        "Failed to commit transaction: Metadata changed since last commit.",
        "Failed to commit transaction: Protocol changed since last commit: 3",
        "Failed to commit transaction: 15",
        "Delta transaction failed, version 0 already exists.",
        "Tried committing existing table version: 7",
        "A table already exists at: /lake/table",
    ],
)
def test_a_faster_writer_is_recognised(message: str) -> None:
    assert tables._is_conflict(DeltaError(message))


@pytest.mark.parametrize(
    "message",
    [
        "The transaction includes Remove action with data change but Delta table is append-only",
        "Failed to commit transaction: No metadata found, please make sure table is loaded.",
        "Failed to commit transaction: Error evaluating predicate: a column is missing",
        "Transaction failed: dynamo lock client: credentials expired",
        "Log storage error: Generic S3 error: 403 Forbidden, conflict of policies",
        "Invalid protocol, version 0",
    ],
)
def test_another_failed_commit_is_raised_at_once(uri: str, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    tried = fail_commits(monkeypatch, message)
    with pytest.raises(CommitFailedError, match=message[:20]):
        put(uri, rows(1))
    assert tried == [1]


def test_a_writer_that_is_never_the_fastest_says_what_it_was_told(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_FIRST_PAUSE_S", 0.0)
    tried = fail_commits(monkeypatch, "Failed to commit transaction: Metadata changed since last commit.")
    with pytest.raises(ServiceError, match=r"within 8 attempts; .*said last: .* Metadata changed") as caught:
        put(uri, rows(1))
    assert isinstance(caught.value.__cause__, CommitFailedError)
    assert len(tried) == 8


def fail_commits(monkeypatch: pytest.MonkeyPatch, message: str) -> list[int]:
    """Let every commit fail; return a list that gets one entry for each."""
    tried: list[int] = []

    def fail(*_: object, **__: object) -> None:
        tried.append(1)
        raise CommitFailedError(message)

    monkeypatch.setattr(tables, "_overwrite", fail)
    return tried


def test_partitions_that_hold_rows_are_listed(uri: str) -> None:
    assert published_partitions(uri=uri, storage_options={}) == frozenset()
    for key in ("2013-01", "2013-02"):
        write_partition(uri=uri, table=rows(1), partition=key, storage_options={})
    assert published_partitions(uri=uri, storage_options={}) == {"2013-01", "2013-02"}
    write_partition(uri=uri, table=rows().slice(0, 0), partition="2013-01", storage_options={})
    assert published_partitions(uri=uri, storage_options={}) == {"2013-02"}
