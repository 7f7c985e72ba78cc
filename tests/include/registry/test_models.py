from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from include.errors import NotFoundError, ServiceError, SetupError
from include.registry import models, runs

if TYPE_CHECKING:
    from pathlib import Path

TAGS = {"job_key": "job-1", "window_end": "2013-03"}


@pytest.fixture
def model(mlflow_url: str, request: pytest.FixtureRequest) -> str:
    return f"m_{abs(hash(request.node.nodeid))}"


def new_run(mlflow_url: str, model: str, job_key: str = "job-1") -> runs.Run:
    return runs.ensure_run(mlflow_url, experiment=model, name="r", start_ms=1, tags={"job_key": job_key})


def register(mlflow_url: str, model: str, job_key: str = "job-1") -> models.ModelVersion:
    run = new_run(mlflow_url, model, job_key)
    return models.register_version(
        mlflow_url,
        model=model,
        source=f"{run.artifact_uri}/package",
        run_id=run.run_id,
        tags={**TAGS, "job_key": job_key},
    )


def test_a_version_is_found_by_number_alias_and_job(mlflow_url: str, model: str) -> None:
    version = register(mlflow_url, model)
    assert version.version == "1"
    assert version.tags == TAGS
    assert version.source.startswith("/")
    assert models.get_version(mlflow_url, model=model, version="1") == version
    assert models.find_version(mlflow_url, model=model, job_key="job-1") == version
    assert models.get_alias(mlflow_url, model=model, alias="champion") is None
    models.set_alias(mlflow_url, model=model, alias="champion", version="1")
    found = models.get_alias(mlflow_url, model=model, alias="champion")
    assert found is not None
    assert found.version == "1"
    models.delete_alias(mlflow_url, model=model, alias="champion")
    models.delete_alias(mlflow_url, model=model, alias="champion")
    assert models.get_alias(mlflow_url, model=model, alias="champion") is None


def test_one_job_makes_one_run_and_one_version(mlflow_url: str, model: str) -> None:
    assert register(mlflow_url, model) == register(mlflow_url, model)
    assert register(mlflow_url, model, "job-2").version == "2"
    assert new_run(mlflow_url, model) == new_run(mlflow_url, model)
    assert [v.version for v in models.list_versions(mlflow_url, model=model)] == ["1", "2"]


def test_metrics_logged_twice_are_there_once(mlflow_url: str, model: str) -> None:
    from include.registry.rest import get

    run = new_run(mlflow_url, model)
    points = [runs.Point(key="log_loss", value=0.5), runs.Point(key="loss", value=0.7, step=3)]
    points.append(runs.Point(key="auc", value=float("nan")))
    for _ in range(2):
        runs.log(mlflow_url, run=run, params={"hidden": [64, 32]}, metrics=points, timestamp_ms=5)
    runs.finish(mlflow_url, run=run, end_ms=9)
    found = get(mlflow_url, "runs/get", {"run_id": run.run_id})["run"]
    assert {metric["key"] for metric in found["data"]["metrics"]} == {"log_loss", "loss"}
    assert found["info"]["status"] == "FINISHED"
    history = get(mlflow_url, "metrics/get-history", {"run_id": run.run_id, "metric_key": "loss"})
    assert len(history["metrics"]) == 1


def test_what_is_not_there_is_not_found(mlflow_url: str, model: str) -> None:
    assert models.get_alias(mlflow_url, model=model, alias="champion") is None
    assert models.list_versions(mlflow_url, model=model) == []
    models.delete_alias(mlflow_url, model=model, alias="champion")
    with pytest.raises(NotFoundError, match=rf"model '{model}' must have version 1 in MLflow .*; got none\."):
        models.get_version(mlflow_url, model=model, version="1")
    register(mlflow_url, model)
    with pytest.raises(NotFoundError, match=r"not found\. Nothing was changed"):
        models.set_alias(mlflow_url, model=model, alias="champion", version="7")


def test_a_package_outside_the_run_is_refused_by_mlflow(mlflow_url: str, model: str, tmp_path: Path) -> None:
    run = new_run(mlflow_url, model)
    with pytest.raises(ServiceError, match="Invalid model version source"):
        models.register_version(mlflow_url, model=model, source=str(tmp_path), run_id=run.run_id, tags=TAGS)


def test_a_server_that_is_down_is_a_service_error(free_port: int) -> None:
    with pytest.raises(ServiceError, match=r"A retry asks again\."):
        models.get_alias(f"http://127.0.0.1:{free_port}", model="m", alias="champion")


def test_an_address_that_is_none_is_a_setup_error() -> None:
    with pytest.raises(SetupError, match="http://host:port"):
        models.get_alias("sqlite:///x", model="m", alias="champion")


def test_the_registry_needs_no_heavy_library() -> None:
    code = (
        "import sys, include.registry.models, include.registry.runs; "
        "print([m for m in ('mlflow', 'requests', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
