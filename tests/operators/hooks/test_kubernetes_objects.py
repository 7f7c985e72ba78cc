"""Calls of a scripted API server whose client gets its token from a plugin, as those of clouds do."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from include.errors import ServiceError
from operators.hooks import kubernetes_calls
from operators.hooks.kubernetes_objects import AsyncKubernetesObjects, KubernetesObjects
from tests.kubernetes.faults import Fault
from tests.kubernetes.server import ScriptedKubernetes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "token-of-the-plugin"
VERSION = "client.authentication.k8s.io/v1"
PODS = "/api/v1/namespaces/ml/pods"


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedKubernetes]:
    """Yield a cluster whose connection has a plugin, which fails the first time and gives a token from then on."""
    token = {"apiVersion": VERSION, "kind": "ExecCredential", "status": {"token": TOKEN}}
    (tmp_path / "given.json").write_text(json.dumps(token))
    script = "cat token.json || { cp given.json token.json; echo 'STS: throttled' >&2; exit 255; }"
    plugin = {"apiVersion": VERSION, "command": "/bin/sh", "args": ["-c", f"cd {tmp_path}; {script}"]}
    monkeypatch.setattr(kubernetes_calls, "_FIRST_PAUSE_S", 0.0)
    with ScriptedKubernetes() as found:
        found.cluster.token = TOKEN
        users = [{"name": "tests", "user": {"exec": plugin | {"interactiveMode": "Never"}}}]
        extra = {"kube_config": json.dumps(found.config | {"users": users})}
        connection = {"conn_type": "kubernetes", "extra": json.dumps(extra)}
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
        yield found


def test_a_worker_whose_plugin_failed_asks_it_again(kubernetes: ScriptedKubernetes) -> None:
    found = KubernetesObjects().get(PODS)
    assert found is not None
    assert found["items"] == []
    assert kubernetes.cluster.calls == [("GET", PODS)] * 2


def test_a_trigger_whose_plugin_failed_looks_again(kubernetes: ScriptedKubernetes) -> None:
    async def look() -> list[object]:
        api = AsyncKubernetesObjects()
        with pytest.raises(ServiceError, match=f"GET {PODS} must be answered within 30 s; got ConfigException: "):
            await api.get(PODS)
        found = await api.get(PODS)
        assert found is not None
        return list(found["items"])

    assert asyncio.run(look()) == []
    assert kubernetes.cluster.calls == [("GET", PODS)]


def test_a_trigger_reads_no_log_without_a_token(kubernetes: ScriptedKubernetes) -> None:
    async def read() -> list[str]:
        return [line async for line in AsyncKubernetesObjects().follow(f"{PODS}/a")]

    with pytest.raises(ServiceError, match=f"GET {PODS}/a/log must be answered within 30 s; got ConfigException: "):
        asyncio.run(read())
    assert kubernetes.cluster.calls == []


@pytest.mark.parametrize("times", [0, 3])
def test_what_is_refused_since_others_use_the_quota_too_is_created_after_all(
    kubernetes: ScriptedKubernetes, times: int
) -> None:
    kubernetes.cluster.token = ""
    says = 'Operation cannot be fulfilled on resourcequotas "gpus": the object has been modified'
    kubernetes.cluster.faults.append(Fault(verb="POST", code=409, says=says, times=times))
    made = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "base", "image": "a:1"}]}}
    api = KubernetesObjects()
    assert api.create(PODS, made) is True
    assert api.create(PODS, made) is False
    assert len(kubernetes.cluster.pods) == 1
