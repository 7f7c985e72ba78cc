from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.errors import BadInputError
from include.lake.landing import is_landed, land_files, read_landed

if TYPE_CHECKING:
    from include.lake.storage import Storage

PLACE = {"model": "flight_delays", "partition": "2013-01", "marker": "_SUCCESS"}


def folder(storage: Storage) -> Path:
    return Path(storage.landing("flight_delays", "2013-01"))


def test_what_is_landed_is_read_back(storage: Storage) -> None:
    assert not is_landed(storage=storage, **PLACE)
    land_files(storage=storage, files={"a.csv": b"1\n", "b.csv": b"2\n"}, **PLACE)
    assert is_landed(storage=storage, **PLACE)
    assert read_landed(storage=storage, names=("b.csv", "a.csv"), **PLACE) == {"b.csv": b"2\n", "a.csv": b"1\n"}
    assert sorted(path.name for path in folder(storage).iterdir()) == ["_SUCCESS", "a.csv", "b.csv"]


def test_without_a_marker_nothing_is_read(storage: Storage) -> None:
    land_files(storage=storage, files={"a.csv": b"1\n"}, **PLACE)
    (folder(storage) / "_SUCCESS").unlink()
    with pytest.raises(BadInputError, match="needs its marker '_SUCCESS', which is written last; got none"):
        read_landed(storage=storage, names=("a.csv",), **PLACE)


def test_a_missing_file_is_named(storage: Storage) -> None:
    land_files(storage=storage, files={"a.csv": b"1\n"}, **PLACE)
    with pytest.raises(BadInputError, match=r"needs the files a.csv, b.csv; got none named 'b.csv'"):
        read_landed(storage=storage, names=("a.csv", "b.csv"), **PLACE)


def test_a_file_that_does_not_match_its_marker_is_refused(storage: Storage) -> None:
    land_files(storage=storage, files={"a.csv": b"1\n2\n"}, **PLACE)
    (folder(storage) / "a.csv").write_bytes(b"1\n")
    with pytest.raises(BadInputError, match=r"must have the SHA-256 that its marker lists.*\(2 bytes\)"):
        read_landed(storage=storage, names=("a.csv",), **PLACE)


def test_an_empty_marker_promises_nothing(storage: Storage) -> None:
    land_files(storage=storage, files={"a.csv": b"1\n"}, **PLACE)
    (folder(storage) / "a.csv").write_bytes(b"3\n")
    (folder(storage) / "_SUCCESS").write_bytes(b"")
    assert read_landed(storage=storage, names=("a.csv",), **PLACE) == {"a.csv": b"3\n"}
