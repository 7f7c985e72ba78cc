from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.drift.report import write_report
from include.errors import InconclusiveError
from include.registry.models import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from include.lake.storage import Storage
    from include.spec import ModelSpec

MONTH = "2013-06"


def version(first: str, last: str) -> ModelVersion:
    tags = {"window_start": first, "window_end": last}
    return ModelVersion(name="flight_delays", version="1", source="", run_id="", tags=tags)


def test_a_month_is_reported_against_the_training_window(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    for partition in ("2013-02", "2013-03", MONTH):
        publish(partition=partition, num_flights=300)
    served(partition=MONTH)
    niceness = os.nice(0)
    found = write_report(spec=spec, storage=storage, partition=MONTH, version=version("2013-02", "2013-03"))
    report = Path(storage.report(spec.name, MONTH)) / "drift.html"
    assert found["uri"] == str(report)
    assert 560 < found["num_reference_rows"] < 600
    assert 0 < found["drifted_frac"] <= 1
    assert found["left_out"] == list(spec.features.store_fields)
    html = report.read_text()
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert "dep_minute_of_day" in html
    assert [path.name for path in report.parent.iterdir()] == ["drift.html"]
    assert os.nice(0) == niceness


def test_nothing_served_is_inconclusive(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=50)
    served(partition=MONTH, role="shadow")
    with pytest.raises(InconclusiveError, match="got 0 and"):
        write_report(spec=spec, storage=storage, partition=MONTH, version=version(MONTH, MONTH))
    assert not Path(storage.report(spec.name, MONTH)).exists()


def test_a_version_of_unknown_window_is_inconclusive(
    spec: ModelSpec, storage: Storage, publish: Callable[..., None], served: Callable[..., pa.Table]
) -> None:
    publish(partition=MONTH, num_flights=50)
    served(partition=MONTH)
    unknown = ModelVersion(name=spec.name, version="3", source="", run_id="")
    with pytest.raises(InconclusiveError, match="version 3 of 'flight_delays' must say by tags"):
        write_report(spec=spec, storage=storage, partition=MONTH, version=unknown)
