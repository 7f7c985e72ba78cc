from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from include.serving import app, ending
from include.serving.journal import Journal
from include.serving.log_files import SegmentFiles
from include.serving.metrics import ServerMetrics
from include.serving.prediction_log import PredictionLog
from include.serving.router import Router, Routes
from tests.running import ROOT
from tests.served_work import work

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "pages" / "model-server.md").read_text()


@pytest.fixture
def metrics(tmp_path: Path) -> ServerMetrics:
    """Return metrics that have counted one of everything."""
    router = Router(path=tmp_path / "router.json")
    router.set_routes("m", Routes(champion="1", canary="2", canary_share_pct=0.1, shadow="3"))
    log = PredictionLog(
        journal=Journal(folder=tmp_path / "journal"), turner=SegmentFiles(folder_of=lambda model: str(tmp_path / model))
    )
    found = ServerMetrics(router=router, log=log)
    found.scored(work(1))
    found.answered(model="m", status=200, seconds=0.1)
    found.feature_defaulted("m", "f", 1)
    found.shadow_dropped.inc()
    return found


def described() -> dict[str, tuple[str, set[str]]]:
    """Return metric -> (type, labels) of the page's table."""
    rows = re.findall(r"^\| `(tradewind_\w+)` \| (\w+) \| ([\w, ]*)\|", PAGE, flags=re.MULTILINE)
    return {name: (kind, set(filter(None, re.split(r"[, ]+", labels)))) for name, kind, labels in rows}


def test_the_page_names_every_metric_its_type_and_its_labels(metrics: ServerMetrics) -> None:
    told: dict[str, tuple[str, set[str]]] = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        told[name] = (family.type, labels)
    assert described() == told


def test_what_prometheus_reads_has_the_names_of_the_page(metrics: ServerMetrics) -> None:
    named = re.findall(r"^# TYPE (\w+) (\w+)$", metrics.text().decode(), flags=re.MULTILINE)
    assert {name: kind for name, kind in named if not name.endswith("_created")} == {
        name: kind for name, (kind, _) in described().items()
    }


def test_the_page_names_every_status_of_an_error() -> None:
    rows = re.findall(r"^\| (\d{3}(?:, \d{3})*) \|", PAGE, flags=re.MULTILINE)
    documented = {int(status) for row in rows for status in row.split(", ")}
    assert {*app.STATUS_OF.values(), 401, 403, 405, 413} == documented


def test_the_page_says_how_long_an_end_takes() -> None:
    text = " ".join(PAGE.split())
    assert f"have {ending.DRAIN_S:g} s to be answered" in text
    assert f"other calls get {ending.HANG_UP_S:g} s to be answered and {ending.HANG_UP_S:g} s to end" in text
    assert f"the spans {ending.CLOSE_S:g} s." in text
    assert f"**any server within {ending.END_S:g} s**" in text
