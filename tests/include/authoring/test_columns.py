"""What is inferred of a column, and how texts that mean nothing are told from texts."""

import pyarrow as pa
import pytest

from include.authoring.columns import Column, feature_name, infer_columns, null_texts_of
from include.errors import BadInputError


def infer(*texts: str, null_texts: tuple[str, ...] = (), **more: list[str]) -> Column:
    rows = pa.table({"x": list(texts), **more})
    return infer_columns(rows, types={}, null_texts=null_texts, time_formats={})[0]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-2", "+3", ""], "int64"),
        (["1", "2.5"], "float64"),
        (["1e3", ".5"], "float64"),
        (["9" * 19, "1"], "float64"),
        (["007", "123"], "string"),
        (["true", "False"], "bool"),
        (["0", "1"], "int64"),
        (["yes", "no"], "string"),
        (["2024-01-01T10:00:00Z", "2024-01-01 10:00+01:00"], "timestamp"),
        (["1,5", "2,5"], "string"),
        (["", ""], "string"),
    ],
)
def test_the_type_is_the_narrowest_that_fits_every_value(texts: list[str], kind: str) -> None:
    assert infer(*texts).type == kind


@pytest.mark.parametrize(
    ("texts", "time_format", "is_ambiguous"),
    [
        (["2024-01-31", "2024-12-01"], "%Y-%m-%d", False),
        (["2024-01-31 10:00", "2024-12-01 23:59"], "%Y-%m-%d %H:%M", False),
        (["2024-01-31T10:00:00.5"], "%Y-%m-%dT%H:%M:%S.%f", False),
        (["01/02/2024", "03/04/2024"], "%m/%d/%Y", True),
        (["01/02/2024", "31/04/2024"], "%d/%m/%Y", False),
        (["01/31/2024 9:30"], "%m/%d/%Y %H:%M", False),
        (["31.12.2024"], "%d.%m.%Y", False),
    ],
)
def test_times_without_a_zone_are_texts_with_a_format(texts: list[str], time_format: str, is_ambiguous: bool) -> None:
    column = infer(*texts)
    assert (column.type, column.time_format, column.is_ambiguous) == ("string", time_format, is_ambiguous)


def test_texts_for_nothing_are_those_that_numbers_prove_and_hold_for_the_whole_file() -> None:
    rows = pa.table({"age": ["1", "NA", "3"], "country": ["NA", "DE", "DE"], "note": ["a", "None", "b"]})
    age, country, note = infer_columns(rows, types={}, null_texts=(), time_formats={})
    assert (age.type, age.null_texts, age.num_null) == ("int64", ("NA",), 1)
    assert (country.num_null, country.num_distinct, note.num_null) == (1, 1, 0)
    assert null_texts_of([age, country, note]) == ("", "NA")


def test_a_person_may_name_types_formats_and_texts_for_nothing() -> None:
    rows = pa.table({"zip": ["123", "456"], "day": ["1-Feb-24", "2-Feb-24"], "n": ["5", "unknown"]})
    columns = infer_columns(rows, types={"zip": "string"}, null_texts=("unknown",), time_formats={"day": "%d-%b-%y"})
    assert [(c.type, c.time_format) for c in columns] == [("string", None), ("string", "%d-%b-%y"), ("int64", None)]
    with pytest.raises(BadInputError, match="must be of columns of the sample, zip, day, n; got 'zap'"):
        infer_columns(rows, types={"zap": "string"}, null_texts=(), time_formats={})


def test_numbers_with_some_texts_are_called_mixed() -> None:
    column = infer("1", "2", "3", "many", "4")
    assert (column.type, column.mixed) == ("string", "4 numbers and 1 texts such as 'many'")
    assert not infer("a", "b", "c", "1").mixed


def test_names_of_features_are_free_and_allowed() -> None:
    assert feature_name("Süd Ost (m²)") == "s_d_ost_m"
    assert feature_name("plan", taken=frozenset({"plan", "plan_input"})) == "plan_input_2"
    assert feature_name("event_at") == "event_at_input"
