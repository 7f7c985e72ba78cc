from __future__ import annotations

import gzip
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from include.errors import SchemaError
from include.lake.csv_reader import read_csv
from include.spec import TableSpec

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = TableSpec(
    file="things.csv",
    null_values=("NA",),
    primary_key=("key",),
    columns={"key": "int64", "name": "string", "size": "float64", "at": "timestamp", "flag": "bool"},
)
HEADER = "key,name,size,at,flag\n"
GOOD = "1,one,1.5,2013-01-01T10:00:00Z,true\n"


def read(text: str | bytes, *, file: str = "things.csv") -> pa.Table:
    content = text.encode() if isinstance(text, str) else text
    return read_csv(content, file=file, table=TABLE)


def refused(text: str | bytes, said: str, *, file: str = "things.csv") -> None:
    with pytest.raises(SchemaError, match=re.escape(said)) as caught:
        read(text, file=file)
    assert file in str(caught.value)
    assert "Nothing was ingested." in str(caught.value)


def test_columns_are_typed_and_in_the_specs_order() -> None:
    table = read('at,flag,size,name,key\n2013-01-01T05:00:00-05:00,0,2,"a, b",7\n')
    assert table.to_pylist() == [
        {"key": 7, "name": "a, b", "size": 2.0, "at": datetime(2013, 1, 1, 10, tzinfo=UTC), "flag": False}
    ]
    assert [str(field.type) for field in table.schema] == ["int64", "string", "double", "timestamp[us, tz=UTC]", "bool"]


def test_declared_texts_are_missing_values_in_every_type() -> None:
    assert read(HEADER + "NA,NA,NA,NA,NA\n").to_pylist() == [dict.fromkeys(TABLE.columns)]


def test_windows_line_ends_and_a_byte_order_mark_are_read() -> None:
    assert read("\ufeff" + (HEADER + GOOD).replace("\n", "\r\n")).equals(read(HEADER + GOOD))


def test_gzip_is_read_by_its_name() -> None:
    assert read(gzip.compress((HEADER + GOOD).encode()), file="things.csv.gz").equals(read(HEADER + GOOD))


def test_cut_gzip_is_refused() -> None:
    refused(gzip.compress((HEADER + GOOD).encode())[:-6], "must be whole gzip data", file="things.csv.gz")
    refused(HEADER + GOOD, "must be whole gzip data", file="things.csv.gz")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must start with a header line; got 0 bytes"),
        (HEADER, "must hold at least one row; got its header alone"),
        (HEADER.strip(), "must end with a newline; got a cut line 1"),
        (HEADER + GOOD + "2,two,1.", "must end with a newline; got a cut line 3: '2,two,1.'"),
        (b"PAR1\x00\x15\x04", "must be CSV in UTF-8; got byte 0x00 at offset 4"),
        (HEADER.encode() + b"1,\xff\n", "got byte 0xff at offset 24, which is no text"),
        ("<html>\n<body>gone</body>\n", "got no 'key', no 'name', no 'size', no 'at', no 'flag', undeclared '<html>'"),
        (HEADER + GOOD + "2,two\n", "got 1 lines without 5 values, the first is line 3 with 2: ['2', 'two']"),
        (HEADER + GOOD + "\n" + GOOD, "got 1 lines without 5 values, the first is line 3 with 0"),
        (HEADER + GOOD + "2,two,1,2013-01-01T10:00:00Z,true,9\n", "the first is line 3 with 6"),
    ],
)
def test_what_is_no_whole_csv_is_refused(text: str | bytes, said: str) -> None:
    refused(text, said)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("key,name,size,at", "got no 'flag'."),
        ("key,name,size,at,flags", "got no 'flag' (renamed to 'flags'?), undeclared 'flags'."),
        ("key,name,size,at,flag,more", "got undeclared 'more'."),
        ("key,name,size,at,flag,key", "got 'key' more than once."),
    ],
)
def test_other_columns_are_refused(header: str, said: str) -> None:
    refused(f"{header}\n1,2,3,4,5\n", said)


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("key", "1.0", "int64"),
        ("key", "", "int64"),
        ("key", "99999999999999999999", "int64"),
        ("size", "much", "float64"),
        ("at", "2013-01-01T10:00:00", "timestamp"),
        ("at", "yesterday", "timestamp"),
        ("flag", "maybe", "bool"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_line_and_count(column: str, value: str, kind: str) -> None:
    row = {"key": "1", "name": "one", "size": "1.5", "at": "2013-01-01T10:00:00Z", "flag": "true"}
    bad = ",".join({**row, column: value}.values())
    refused(
        f"{HEADER}{GOOD}{bad}\n{GOOD}{bad}\n",
        f"got column {column!r} ({kind}): 2 other values, the first on line 3: {value!r}.",
    )


def test_every_bad_column_is_named_at_once() -> None:
    refused(HEADER + "x,one,y,2013-01-01T10:00:00Z,true\n", "column 'size' (float64): 1 other values")
    refused(HEADER + "x,one,y,2013-01-01T10:00:00Z,true\n", "column 'key' (int64): 1 other values")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused(value: str) -> None:
    refused(HEADER + GOOD + GOOD.replace("1.5", value), "got column 'size': 1 others, the first on line 3")


def test_a_date_that_cannot_be_is_refused_though_it_looks_like_one() -> None:
    refused(HEADER + GOOD.replace("2013-01-01", "2013-13-41"), "must hold what model.yaml declares")
