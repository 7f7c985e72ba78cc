from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from include.errors import PartitionError
from include.registry import rest
from include.registry.models import CHALLENGER, get_alias, list_versions
from include.registry.package import Package, read_package, write_package
from include.registry.register import register, require_newer, sign_unsigned
from include.registry.signing import Signer, Trust
from include.runtime.secrets import SIGNING_KEY, TRUSTED_KEYS, load_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage

METRICS = {
    "validation": {"num_rows": 100, "loss": 0.5, "auc": None, "ece": 0.01},
    "trees": {"loss": 0.49},
    "baseline": {"loss": 0.6},
    "champion": None,
    "compression": {"serves": "fp32", "fp32": {"loss": 0.5, "latency_us": {"1": 12.0}}},
    "resources": {"num_starts": 2, "gpu_s": 3600.0, "cost": 2.5},
    "training": {
        "epochs": [{"train_loss": 0.6, "validation_loss": 0.5}],
        "seconds": {"fit": 2.0},
        "finished_at_ms": 1_700_000_000_000,
    },
}
NUM_CALLS = 10
"""Requests of one registration; a test below holds it to that."""


class KilledError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.fixture
def package(tmp_path: Path) -> Package:
    lock = {
        "commit": "abc",
        "seed": 1,
        "training": {"max_epochs": 2, "hidden": [8], "pod": None},
        "snapshot": {"uri": "/s", "sha256": "0" * 64, "num_rows": 9, "partitions": ["2013-01", "2013-03"]}
        | {"versions": {"rows": 3}},
    }
    contents = {
        "metrics.json": json.dumps(METRICS).encode(),
        "lock.json": json.dumps(lock).encode(),
        "model.onnx": b"g",
    }
    model = f"model_{uuid4().hex[:8]}"
    return write_package(str(tmp_path / "package"), model=model, job_key="2013-03-abc", contents=contents)


@pytest.fixture
def register_it(mlflow_url: str, package: Package, storage: Storage) -> Callable[[], Any]:
    links = {"dag_id": "train_m", "dag_run_id": "run-1"}
    return lambda: register(mlflow_url, package=package, links=links, storage=storage)


def kill_after(num_calls: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the server do that many calls, then be killed before their answer is used; return the calls made."""
    made: list[str] = []
    real = rest._exchange

    def exchange(tracking_uri: str, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        answer = real(tracking_uri, method, path, body)
        made.append(f"{method} {path.partition('?')[0]}")
        if len(made) == num_calls:
            raise KilledError
        return answer

    monkeypatch.setattr(rest, "_exchange", exchange)
    return made


def test_a_version_leads_back_to_where_it_came_from(
    mlflow_url: str, package: Package, register_it: Callable[[], Any]
) -> None:
    version = register_it()
    assert version.tags == {
        "job_key": "2013-03-abc",
        "digest": package.digest,
        "commit": "abc",
        "window_start": "2013-01",
        "window_end": "2013-03",
        "snapshot": "/s",
        "data_versions": '{"rows": 3}',
        "parameters": '{"hidden": [8], "max_epochs": 2, "pod": null, "seed": 1}',
        "dag_id": "train_m",
        "dag_run_id": "run-1",
    }
    assert read_package(version.source).digest == package.digest
    assert version.source != package.uri
    challenger = get_alias(mlflow_url, model=package.model, alias=CHALLENGER)
    assert challenger is not None
    assert challenger.version == version.version
    run = rest.get(mlflow_url, "runs/get", {"run_id": version.run_id})["run"]
    logged = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert logged["held_out/loss"] == 0.5
    assert logged["fp32/latency_us_1_rows"] == 12.0
    assert "held_out/auc" not in logged
    assert (logged["resources/gpu_s"], logged["resources/cost"]) == (3600.0, 2.5)
    assert {param["key"] for param in run["data"]["params"]} >= {"max_epochs", "hidden", "seed"}
    assert {tag["key"] for tag in run["data"]["tags"]} >= {"dag_id", "dag_run_id", "commit"}
    assert run["info"]["status"] == "FINISHED"


def test_a_registration_makes_so_many_calls(monkeypatch: pytest.MonkeyPatch, register_it: Callable[[], Any]) -> None:
    made = kill_after(-1, monkeypatch)
    register_it()
    assert len(made) == NUM_CALLS, made


@pytest.mark.parametrize("num_calls", range(1, NUM_CALLS + 1))
def test_a_registration_killed_at_any_call_makes_one_version(
    mlflow_url: str, package: Package, register_it: Callable[[], Any], num_calls: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill_after(num_calls, patch)
        with pytest.raises(KilledError):
            register_it()
    version = register_it()
    assert register_it() == version
    assert [found.version for found in list_versions(mlflow_url, model=package.model)] == ["1"]
    experiment = rest.get(mlflow_url, "experiments/get-by-name", {"experiment_name": package.model})["experiment"]
    runs = rest.post(mlflow_url, "runs/search", {"experiment_ids": [experiment["experiment_id"]]})["runs"]
    assert [run["info"]["status"] for run in runs] == ["FINISHED"]
    history = rest.get(mlflow_url, "metrics/get-history", {"run_id": version.run_id, "metric_key": "held_out/loss"})
    assert len(history["metrics"]) == 1
    challenger = get_alias(mlflow_url, model=package.model, alias=CHALLENGER)
    assert challenger is not None
    assert challenger.version == "1"


def test_a_registered_version_is_signed(mlflow_url: str, package: Package, storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    load_secrets(tmp_path / "secrets")
    signer = Signer(key_file=tmp_path / "secrets" / SIGNING_KEY)
    version = register(mlflow_url, package=package, links={}, storage=storage, signer=signer)
    trust = Trust(keys_file=tmp_path / "secrets" / TRUSTED_KEYS)
    trust.require(model=package.model, digest=package.digest, signature=version.tags["signature"])


def test_versions_of_a_release_that_signed_nothing_are_signed_if_they_are_what_they_were(
    mlflow_url: str, package: Package, storage: Storage, register_it: Callable[[], Any], tmp_path: Path
) -> None:
    (tmp_path / "secrets").mkdir()
    load_secrets(tmp_path / "secrets")
    signer = Signer(key_file=tmp_path / "secrets" / SIGNING_KEY)
    version = register_it()
    graph = Path(version.source) / "model.onnx"
    graph.write_bytes(b"another graph")

    def sign_all() -> list[str]:
        return list(sign_unsigned(mlflow_url, model=package.model, signer=signer, storage=storage))

    (said,) = sign_all()
    assert f"{package.model} v1 stays unsigned: package {version.source}: model.onnx must match" in said
    graph.write_bytes(package.contents["model.onnx"])
    assert sign_all() == [f"signed {package.model} v1"]
    assert sign_all() == []
    (signed,) = list_versions(mlflow_url, model=package.model)
    trust = Trust(keys_file=tmp_path / "secrets" / TRUSTED_KEYS)
    trust.require(model=package.model, digest=package.digest, signature=signed.tags["signature"])


@pytest.mark.parametrize(("champion_end", "is_refused"), [("2013-02", False), ("2013-03", False), ("2013-04", True)])
def test_a_challenger_must_not_be_older_than_the_champion(
    package: Package, register_it: Callable[[], Any], champion_end: str, *, is_refused: bool
) -> None:
    from dataclasses import replace

    version = register_it()
    champion = replace(version, tags={**version.tags, "window_end": champion_end})
    require_newer(package, champion=None, force=False)
    require_newer(package, champion=champion, force=True)
    if is_refused:
        with pytest.raises(PartitionError, match="whose window ends 2013-04; got 2013-03"):
            require_newer(package, champion=champion, force=False)
    else:
        require_newer(package, champion=champion, force=False)
