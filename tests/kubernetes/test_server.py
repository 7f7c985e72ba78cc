"""The scripted Kubernetes, seen by the real client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kubernetes import client, config, watch
from urllib3.exceptions import ProtocolError

from tests.kubernetes.clock import SteppedClock
from tests.kubernetes.containers import sleep_and_exit
from tests.kubernetes.faults import Fault
from tests.kubernetes.server import ScriptedKubernetes

if TYPE_CHECKING:
    from collections.abc import Iterator

GPU = {"limits": {"nvidia.com/gpu": "1"}}


@pytest.fixture
def kubernetes() -> Iterator[ScriptedKubernetes]:
    with ScriptedKubernetes(clock=SteppedClock(1_700_000_000.0)) as running:
        config.load_kube_config_from_dict(running.config)
        yield running


@pytest.fixture
def core(kubernetes: ScriptedKubernetes) -> client.CoreV1Api:
    return client.CoreV1Api()


def manifest(name: str = "train", **spec: Any) -> dict[str, Any]:
    container = {"name": "base", "image": "trainer:1", "args": ["--job", "j"], **spec.pop("container", {})}
    return {"metadata": {"name": name, "labels": {"job": name}}, "spec": {"containers": [container], **spec}}


def wait(kubernetes: ScriptedKubernetes, seconds: float) -> None:
    kubernetes.cluster.clock.at += seconds  # type: ignore[attr-defined]


def phase(core: client.CoreV1Api, name: str = "train") -> str:
    return str(core.read_namespaced_pod(name, "ml").status.phase)


def log(core: client.CoreV1Api, **how: Any) -> list[str]:
    answer = core.read_namespaced_pod_log("train", "ml", _preload_content=False, **how)
    return b"".join(answer.stream()).decode().splitlines()


def test_a_pod_is_scheduled_pulled_run_and_ends(kubernetes: ScriptedKubernetes, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("ml", manifest())
    assert phase(core) == "Pending"
    wait(kubernetes, 2)
    assert phase(core) == "Running"
    wait(kubernetes, 5)
    pod = core.read_namespaced_pod("train", "ml")
    assert pod.status.phase == "Succeeded"
    assert pod.status.container_statuses[0].state.terminated.exit_code == 0
    assert log(core) == ["train: --job j", "exit 0"]
    events = core.list_namespaced_event("ml", field_selector="involvedObject.name=train").items
    assert [event.reason for event in events] == ["Scheduled", "Started"]


def test_a_gpu_needs_its_toleration(kubernetes: ScriptedKubernetes, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("ml", manifest("without", container={"resources": GPU}))
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    core.create_namespaced_pod("ml", manifest("with", container={"resources": GPU}, tolerations=tolerations))
    wait(kubernetes, 2)
    assert phase(core, "with") == "Running"
    (condition,) = core.read_namespaced_pod("without", "ml").status.conditions
    assert condition.reason == "Unschedulable"
    assert "untolerated taint {nvidia.com/gpu: present}" in condition.message


def test_a_deleted_pod_has_its_grace_and_a_forced_one_none(
    kubernetes: ScriptedKubernetes, core: client.CoreV1Api
) -> None:
    asked: list[str] = []
    core.create_namespaced_pod("ml", manifest(terminationGracePeriodSeconds=60))
    wait(kubernetes, 2)
    core.delete_namespaced_pod("train", "ml")
    assert core.read_namespaced_pod("train", "ml").metadata.deletion_timestamp is not None
    wait(kubernetes, 1)
    with pytest.raises(client.ApiException) as gone:
        core.read_namespaced_pod("train", "ml")
    asked.append(str(gone.value.status))
    assert asked == ["404"]


def test_an_evicted_pod_says_so_and_an_oom_killed_one_too(
    kubernetes: ScriptedKubernetes, core: client.CoreV1Api
) -> None:
    kubernetes.cluster.kubelets.program = sleep_and_exit(100)
    for name in ("full", "greedy"):
        core.create_namespaced_pod("ml", manifest(name))
    wait(kubernetes, 2)
    kubernetes.cluster.press("full")
    kubernetes.cluster.out_of_memory("greedy")
    full, greedy = (core.read_namespaced_pod(name, "ml").status for name in ("full", "greedy"))
    assert (full.phase, full.reason) == ("Failed", "Evicted")
    assert "DisruptionTarget" in [condition.type for condition in full.conditions]
    assert greedy.container_statuses[0].state.terminated.reason == "OOMKilled"
    assert greedy.container_statuses[0].state.terminated.exit_code == 137


def test_pods_of_a_lost_node_are_deleted_late_and_go_with_the_node(
    kubernetes: ScriptedKubernetes, core: client.CoreV1Api
) -> None:
    kubernetes.cluster.kubelets.program = sleep_and_exit(1000)
    core.create_namespaced_pod("ml", manifest())
    wait(kubernetes, 2)
    node = core.read_namespaced_pod("train", "ml").spec.node_name
    kubernetes.cluster.nodes.lose(node)
    wait(kubernetes, 299)
    assert core.read_namespaced_pod("train", "ml").metadata.deletion_timestamp is None
    wait(kubernetes, 2)
    pod = core.read_namespaced_pod("train", "ml")
    assert (pod.status.phase, pod.metadata.deletion_timestamp is None) == ("Running", False)
    kubernetes.cluster.nodes.remove(node)
    assert core.list_namespaced_pod("ml").items == []


@pytest.mark.parametrize("code", [401, 403, 404, 409, 410, 429, 500, 503])
def test_a_scripted_error_reaches_the_client(kubernetes: ScriptedKubernetes, core: client.CoreV1Api, code: int) -> None:
    after_s = 0 if code in (429, 503) else None
    kubernetes.cluster.faults.append(Fault(code=code, path="/pods", retry_after_s=after_s, times=1))
    retried = code in (429, 503)  # urllib3 honours Retry-After by itself
    if retried:
        assert core.list_namespaced_pod("ml").items == []
    else:
        with pytest.raises(client.ApiException) as error:
            core.list_namespaced_pod("ml")
        assert error.value.status == code
    assert len(kubernetes.cluster.calls) == 1 + retried


def test_a_watch_sees_changes_and_an_old_version_is_gone(
    kubernetes: ScriptedKubernetes, core: client.CoreV1Api
) -> None:
    core.create_namespaced_pod("ml", manifest())
    listed = core.list_namespaced_pod("ml").metadata.resource_version
    wait(kubernetes, 8)
    core.read_namespaced_pod("train", "ml")
    stream = watch.Watch()
    seen = []
    for event in stream.stream(core.list_namespaced_pod, "ml", resource_version=listed):
        seen.append(event["object"].status.phase)
        if seen[-1] == "Succeeded":
            stream.stop()
    assert sorted(set(seen)) == ["Pending", "Running", "Succeeded"]
    kubernetes.cluster.store.oldest = kubernetes.cluster.store.version
    with pytest.raises(client.ApiException) as gone:
        next(watch.Watch().stream(core.list_namespaced_pod, "ml", resource_version=listed))
    assert gone.value.status == 410


def test_a_followed_log_lets_time_pass_and_can_be_cut(kubernetes: ScriptedKubernetes, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("ml", manifest())
    wait(kubernetes, 2)
    assert log(core, follow=True) == ["train: --job j", "exit 0"]
    kubernetes.cluster.faults.append(Fault(kind="cut", path="/log$", num_bytes=5))
    with pytest.raises(ProtocolError):
        log(core)


def test_an_indexed_job_runs_its_pods(kubernetes: ScriptedKubernetes, core: client.CoreV1Api) -> None:
    batch = client.BatchV1Api()
    template = {"spec": manifest()["spec"]}
    spec = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "template": template}
    batch.create_namespaced_job("ml", {"metadata": {"name": "ranks"}, "spec": spec})
    wait(kubernetes, 3)
    pods = core.list_namespaced_pod("ml", label_selector="job-name=ranks").items
    assert [pod.spec.hostname for pod in pods] == ["ranks-0", "ranks-1"]
    wait(kubernetes, 10)
    status = batch.read_namespaced_job("ranks", "ml").status
    assert (status.succeeded, status.conditions[0].type) == (2, "Complete")
    batch.delete_namespaced_job("ranks", "ml", propagation_policy="Background")
    assert core.list_namespaced_pod("ml").items == []


def test_a_job_that_is_deleted_in_the_foreground_stays_until_its_pods_are_gone(
    kubernetes: ScriptedKubernetes, core: client.CoreV1Api
) -> None:
    kubernetes.cluster.kubelets.program = sleep_and_exit(1000, stop_s=20)
    batch = client.BatchV1Api()
    spec = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "template": {"spec": manifest()["spec"]}}
    batch.create_namespaced_job("ml", {"metadata": {"name": "ranks"}, "spec": spec})
    wait(kubernetes, 3)
    batch.delete_namespaced_job("ranks", "ml", propagation_policy="Foreground")
    wait(kubernetes, 15)
    job = batch.read_namespaced_job("ranks", "ml")
    assert (job.metadata.finalizers, len(core.list_namespaced_pod("ml").items)) == (["foregroundDeletion"], 2)
    wait(kubernetes, 10)
    assert batch.list_namespaced_job("ml").items == core.list_namespaced_pod("ml").items == []


def test_a_deletion_in_the_background_waits_for_nothing(kubernetes: ScriptedKubernetes, core: client.CoreV1Api) -> None:
    kubernetes.cluster.kubelets.program = sleep_and_exit(1000, stop_s=20)
    batch = client.BatchV1Api()
    spec = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "template": {"spec": manifest()["spec"]}}
    batch.create_namespaced_job("ml", {"metadata": {"name": "ranks"}, "spec": spec})
    wait(kubernetes, 3)
    batch.delete_namespaced_job("ranks", "ml", propagation_policy="Foreground")
    batch.delete_namespaced_job("ranks", "ml", propagation_policy="Background")
    assert batch.list_namespaced_job("ml").items == []
    assert [pod.metadata.deletion_timestamp is None for pod in core.list_namespaced_pod("ml").items] == [False, False]


def test_a_custom_object_has_the_life_that_its_controller_gives_it(kubernetes: ScriptedKubernetes) -> None:
    def train(_job: dict[str, Any]) -> Iterator[float | dict[str, Any]]:
        yield 10.0
        yield {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}

    kubernetes.cluster.controllers["trainjobs"] = train  # type: ignore[assignment]
    where = ("trainer.kubeflow.org", "v1alpha1", "ml", "trainjobs")
    custom = client.CustomObjectsApi()
    custom.create_namespaced_custom_object(*where, {"metadata": {"name": "one"}, "spec": {}})
    assert "status" not in custom.get_namespaced_custom_object(*where, "one")
    wait(kubernetes, 11)
    assert custom.get_namespaced_custom_object(*where, "one")["status"]["conditions"][0]["type"] == "Complete"
    custom.delete_namespaced_custom_object(*where, "one")
    assert custom.list_namespaced_custom_object(*where)["items"] == []
