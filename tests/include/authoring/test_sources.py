"""What a sample may be, and what is said about one that cannot be used."""

import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.authoring.csv_source import open_csv
from include.authoring.sample import take_sample
from include.authoring.sources import as_text, open_parquet, to_csv
from include.authoring.sql_source import open_sql
from include.errors import BadInputError, NotFoundError, TradewindError

NUM_ROWS = 400


def lines(*, header: str = "id,at,label", row: str = "{n},2024-01-01 10:00,{n}", num_rows: int = NUM_ROWS) -> str:
    return "\n".join([header, *(row.format(n=number) for number in range(num_rows))]) + "\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got an empty file"),
        (b"a,b,c\n\xff\xfe,1,2\n", "must be CSV in UTF-8; got byte 0xff at offset 6"),
        (b"1,2024-01-01,3\n2,2024-01-02,4\n", "must name its columns; got '1' among them, which is a value"),
        (b",at,label\n1,2,3\n", "got an empty name. Nothing was written. Name each column (pandas"),
        (b"at\n2024-01-01\n", "at least a time, a label and an input; got 1 column(s): at"),
        (b"id,At,at\n1,2,3\n", "'At', 'at' more than once"),
        (b"id,at,partition\n1,2,3\n", "must leave the name 'partition' to Tradewind"),
        (lines(num_rows=20).encode(), "at least 300 rows, some to train on and some to validate; got 20"),
        (lines(row="{n},2024-01-01").encode(), "with 3 values in each line; got"),
        (lines(row='{n},"a\nb",{n}').encode(), "got line breaks in column 'at'"),
        (lines().encode() + b"\xff,2,3\n", "must be CSV in UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "sample.csv"
    path.write_bytes(content)
    with pytest.raises(TradewindError) as caught:
        take_sample(open_csv(path))
    assert said in str(caught.value)
    assert "Nothing was written." in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="must be a file; got none there"):
        open_csv(tmp_path / "no.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "sample.csv"
    path.write_text(lines().replace(",", delimiter))
    sample = take_sample(open_csv(path))
    assert (sample.source.delimiter, sample.num_rows, sample.rows.column_names) == (
        delimiter,
        NUM_ROWS,
        ["id", "at", "label"],
    )


def test_a_large_file_is_thinned_out_evenly_and_keeps_its_first_row(tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    path.write_text(lines(num_rows=5000))
    sample = take_sample(open_csv(path), max_rows=500)
    kept = [int(text) for text in sample.rows["id"].to_pylist()]
    assert sample.num_rows == 5000
    assert not sample.is_whole
    assert 400 <= len(kept) <= 1000
    assert kept == [number * sample.num_whole for number in range(len(kept))]


def typed_rows() -> pa.Table:
    at = pa.array([1_704_067_200_000_000 + number for number in range(NUM_ROWS)], pa.timestamp("us", tz="UTC"))
    value = pa.array([None if number == 1 else number / 2 for number in range(NUM_ROWS)])
    return pa.table({"id": pa.array(range(NUM_ROWS)), "at": at, "value": value, "ok": pa.array([True] * NUM_ROWS)})


def test_parquet_becomes_the_text_that_would_be_landed(tmp_path: Path) -> None:
    pq.write_table(typed_rows(), tmp_path / "sample.parquet")
    rows = take_sample(open_parquet(tmp_path / "sample.parquet")).rows
    assert rows.slice(0, 2).to_pylist() == [
        {"id": "0", "at": "2024-01-01 00:00:00.000000Z", "value": "0", "ok": "true"},
        {"id": "1", "at": "2024-01-01 00:00:00.000001Z", "value": "", "ok": "true"},
    ]


def test_no_parquet_and_nested_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"no")
    with pytest.raises(BadInputError, match="must be Parquet"):
        open_parquet(tmp_path / "no.parquet")
    with pytest.raises(BadInputError, match=r"column 'tags' of x must fit into a CSV file; got list"):
        as_text(pa.table({"tags": [["a"], ["b"]]}), origin="x")
    with pytest.raises(BadInputError, match="column 'raw' of x must fit into a CSV file"):
        as_text(pa.table({"raw": [b"a"]}), origin="x")


def test_a_query_is_answered_by_duckdb_sqlite_or_files(tmp_path: Path) -> None:
    query = 'SELECT id, "at", 2 * id AS twice FROM t;'
    with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
        connection.execute('CREATE TABLE t AS SELECT range AS id, now() AS "at" FROM range(400)')
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER, at TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, '2024-01-01')", [(number,) for number in range(NUM_ROWS)])
    (tmp_path / "t.csv").write_text(lines())
    answers = [
        take_sample(open_sql(query, database=str(tmp_path / "a.duckdb"))),
        take_sample(open_sql(query, database=str(tmp_path / "a.sqlite"))),
        take_sample(open_sql(query, database=f"sqlite:///{tmp_path}/a.sqlite")),
        take_sample(open_sql(query.replace("FROM t", f"FROM '{tmp_path}/t.csv'"), database=None)),
    ]
    for sample in answers:
        assert sample.num_rows == NUM_ROWS
        assert sample.rows["twice"].to_pylist()[:3] == ["0", "2", "4"]


def test_a_query_that_fails_says_so_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="must be a query that DuckDB answers; got Catalog Error"):
        open_sql("SELECT * FROM nowhere", database=None)
    with pytest.raises(BadInputError) as caught:
        open_sql("SELECT 1", database="postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_texts_are_written_as_the_lake_reads_them() -> None:
    rows = pa.table({"a b": ["1", ""], "c": ["x", "y"]})
    assert to_csv(rows) == b"a b,c\n1,x\n,y\n"
    assert to_csv(pa.table({"a": ["x, y", 'q"']})) == b'a\n"x, y"\n"q"""\n'
