from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from include.errors import InconclusiveError
from include.validation.expectation_run import DATA_DOCS, run_expectations

if TYPE_CHECKING:
    from pathlib import Path

    from include.validation.expectation_run import TableReport


def run(folder: Path, *expectations: object, values: list[int | None]) -> TableReport:
    table = pa.table({"a": pa.array(values, pa.int64())})
    return run_expectations(tables={"things": table}, suites={"things": expectations}, folder=folder)["things"]


def between(maximum: int, **kwargs: object) -> object:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeBetween(
        **{"column": "a", "min_value": 0, "max_value": maximum, "description": f"a is 0 to {maximum}"} | kwargs
    )


def test_rows_are_bad_by_index_with_every_reason(tmp_path: Path) -> None:
    report = run(
        tmp_path,
        between(5, severity="warning", mostly=0.1),
        between(7, severity="warning", mostly=0.1),
        values=[1, 9, None, 6, 2],
    )
    assert report.bad_rows == {1: ["a is 0 to 5", "a is 0 to 7"], 3: ["a is 0 to 5"]}
    assert report.failures == []
    assert (tmp_path / DATA_DOCS).is_file()


def test_hundreds_of_bad_rows_are_all_named(tmp_path: Path) -> None:
    report = run(tmp_path, between(99, severity="warning", mostly=0.1), values=list(range(1000)))
    assert list(report.bad_rows) == list(range(100, 1000))


@pytest.mark.parametrize(("num_bad", "failures"), [(5, 0), (6, 1)])
def test_too_many_bad_rows_refuse_the_table(tmp_path: Path, num_bad: int, failures: int) -> None:
    values = [1] * (100 - num_bad) + [9] * num_bad
    report = run(tmp_path, between(5, severity="warning", mostly=0.95), values=values)
    assert len(report.bad_rows) == num_bad
    assert len(report.failures) == failures


def test_a_critical_expectation_refuses_the_table_and_names_no_row(tmp_path: Path) -> None:
    report = run(tmp_path, between(5, severity="critical"), values=[1, 9])
    assert report.bad_rows == {}
    assert report.failures == ["things: a is 0 to 5; got 1 of 2 rows that do not"]


def test_what_cannot_be_evaluated_is_neither_good_nor_bad(tmp_path: Path) -> None:
    with pytest.raises(InconclusiveError, match=r"expectation 'a is 0 to 5' of table 'things' must be evaluated; got"):
        run(tmp_path, between(5, severity="critical", column="missing"), values=[1])
