"""Whichever way a month ends, `closed` is emitted once, and a run in which something failed is red: in real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
CHALLENGER, CHAMPION, CLOSED = (f"flight_delays.{name}" for name in ("challenger", "champion", "closed"))

STAGES = ("shadow_settled", "shift_10", "settled_10", "shift_50", "settled_50")

# How tasks end (those that are not named pass), then the run's state and its events.
TRAIN: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "a version passes its gates": ({}, "success", [CHALLENGER]),
    "a gate stops it": ({"compress": "skip"}, "success", [CLOSED]),
    "it is the champion already": ({"register": "skip"}, "success", [CLOSED]),
    "training fails": ({"train": "fail"}, "failed", []),
    "registering fails": ({"register": "fail"}, "failed", []),
}
DEPLOY: dict[str, tuple[dict[str, str], str, list[str]]] = {
    "a challenger passes": ({}, "success", [CHAMPION, CLOSED]),
    "a first version": (dict.fromkeys(STAGES, "skip"), "success", [CHAMPION, CLOSED]),
    "a newer one took over while it was queued": ({"choose": "skip"}, "success", [CLOSED]),
    "a newer one took over since it was chosen": ({"deploy": "skip"}, "success", [CLOSED]),
    "nothing can be chosen": ({"choose": "fail"}, "failed", [CLOSED]),
    "deploy fails": ({"deploy": "fail"}, "failed", [CLOSED]),
    "the shadow fails": ({"shadow_settled": "fail"}, "failed", [CLOSED]),
    "a share cannot be set": ({"shift_10": "fail"}, "failed", [CLOSED]),
    "the canary fails": ({"settled_50": "fail"}, "failed", [CLOSED]),
    "it is taken out before the promotion": ({"promote": "fail"}, "failed", [CLOSED]),
    "nothing answers": ({"settled_10": "fail", "roll_back": "fail"}, "failed", []),
}


@pytest.fixture(scope="module")
def run_paths(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that runs a stage's Dag once for each path."""
    bundle = {
        "name": "repository",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(ROOT)},
    }

    def run(stage: str, paths: dict[str, tuple[dict[str, str], str, list[str]]]) -> list[dict[str, Any]]:
        settings = {
            "AIRFLOW_HOME": str(tmp_path_factory.mktemp(stage)),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
        }
        ends = json.dumps([ends for ends, _, _ in paths.values()])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.dags.closing_paths", stage, ends],
            cwd=ROOT,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("stage", "paths"), [("train", TRAIN), ("deploy", DEPLOY)])
def test_a_month_is_closed_once_on_each_path(run_paths: Callable[..., Any], stage: str, paths: Any) -> None:
    found = dict(zip(paths, run_paths(stage, paths), strict=True))
    ended = {name: (each["run"], sorted(each["events"])) for name, each in found.items()}
    assert ended == {name: (run, events) for name, (_, run, events) in paths.items()}
