"""The whole loop on real flights, with a real Airflow: what `make demo` does."""

import json
from pathlib import Path

import pytest

from include.demo.__main__ import main
from include.runtime import processes


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_demo_trains_deploys_retrains_and_stops_what_it_started(
    short_tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, bench = short_tmp_path / "demo", short_tmp_path / "loop.json"

    assert main(["--home", str(home), "--bench", str(bench)]) == 0, capsys.readouterr().out

    measured = json.loads(bench.read_text())
    assert [month["verdict"] for month in measured["months"]] == [
        *("keep", "keep", "bootstrap", "keep", "keep", "retrain", "keep")
    ]
    assert all(month["is_parity_checked"] for month in measured["months"])
    stale, _, retrained, _ = measured["same_month"]
    assert (stale["name"], retrained["name"]) == ("v1", "v2")
    assert retrained["loss"] < stale["loss"]
    assert set(measured["months"][-1]["num_requests"]) == {"1", "2"}
    assert list(home.glob("data/reports/flight_delays/2013-06/drift.html"))
    assert processes.find(home / "pids") == []
    printed = capsys.readouterr().out
    for decision in ("bootstrap", "shadow", "canary_step", "promote"):
        assert decision in printed
