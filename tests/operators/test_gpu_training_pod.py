"""The pod that trains on a cluster, rendered and held against the Kubernetes schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from kubernetes.client import ApiClient

from include.errors import TrainingError
from include.spec import GpuPodSpec
from include.training import command
from include.training.commit import VARIABLE
from include.training.job import load_job
from operators.gpu_training_pod import GpuTrainingPodOperator
from tests.snapshots import COMMIT, FAST, small_table, write_snapshot

if TYPE_CHECKING:
    from include.lake.storage import Storage

MODEL = "flight_delays"
KUBERNETES = "1.33"
POD = GpuPodSpec(
    image="registry.example.com/tradewind-trainer:1.0",
    namespace="ml",
    num_gpus=2,
    service_account="trainer",
    env_secret="tradewind-lake",
    schedule_timeout_s=1200,
)


def operator(snapshot: dict[str, Any] | None = None, pod: GpuPodSpec = POD, **others: Any) -> GpuTrainingPodOperator:
    return GpuTrainingPodOperator(
        task_id="train",
        model=MODEL,
        snapshot=snapshot or {},
        overrides=json.dumps(FAST),
        pod=pod,
        dag=DAG("train_flight_delays", schedule=None),
        **others,
    )


def rendered(pod: GpuPodSpec = POD, **others: Any) -> dict[str, Any]:
    """Return the pod as the API server gets it."""
    task = operator(pod=pod, **others)
    task.arguments = ["--job", "s3://lake/jobs/flight_delays/2013-03-abc/job.json"]
    return ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))


@pytest.mark.parametrize("pod", [POD, GpuPodSpec(image="trainer:1", num_gpus=0)], ids=["gpus", "no gpu"])
def test_the_pod_is_valid_kubernetes(pod: GpuPodSpec) -> None:
    kubernetes_validate.validate(rendered(pod), KUBERNETES, strict=True)


def test_the_pod_gets_its_gpus_and_a_node_that_has_them() -> None:
    spec = rendered()["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert spec["serviceAccountName"] == "trainer"


def test_torch_gets_shared_memory() -> None:
    spec = rendered()["spec"]
    (volume,) = spec["volumes"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/dev/shm")


def test_secrets_come_from_the_secret_and_from_nowhere_else() -> None:
    (container,) = rendered()["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "tradewind-lake"}}]
    assert not container.get("env")
    assert not rendered(GpuPodSpec(image="trainer:1"))["spec"]["containers"][0]["envFrom"]


def test_the_command_is_the_one_of_a_laptop() -> None:
    (container,) = rendered()["spec"]["containers"]
    assert container["command"] == ["python", "-m", "include.training"]
    assert container["args"] == ["--job", "s3://lake/jobs/flight_delays/2013-03-abc/job.json"]
    assert container["image"] == POD.image


def test_a_pod_waits_for_its_node_and_is_kept_and_keeps_secrets_out_of_logs() -> None:
    task = operator(active_deadline_seconds=3600)
    assert task.schedule_timeout_seconds == 1200
    assert task.on_finish_action == "keep_pod"
    assert task.log_pod_spec_on_failure is False
    assert task.deferrable
    spec = rendered(active_deadline_seconds=3600)["spec"]
    assert (spec["activeDeadlineSeconds"], spec["terminationGracePeriodSeconds"]) == (3600, 60)
    assert spec["restartPolicy"] == "Never"
    assert rendered()["metadata"]["labels"]["tradewind/model"] == MODEL


def test_what_an_author_passes_wins() -> None:
    assert rendered(namespace="other")["metadata"]["namespace"] == "other"
    assert operator(deferrable=False).deferrable is False


def test_the_job_is_written_before_the_pod_and_read_after_it(
    storage: Storage, connections: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    monkeypatch.setenv(VARIABLE, COMMIT)
    ref = write_snapshot(storage, small_table(400)).model_dump(mode="json")
    task = operator(ref)

    def run_pod(self: KubernetesPodOperator, context: Any) -> None:
        """Do what the pod would: run the command on the job file."""
        assert command.main(self.arguments) == 0

    def defer(self: KubernetesPodOperator, context: Any) -> None:
        raise TaskDeferred(trigger=None, method_name="trigger_reentry")

    monkeypatch.setattr(KubernetesPodOperator, "execute", defer)
    with pytest.raises(TaskDeferred):
        task.execute({})
    job = load_job(task.arguments[1], storage=storage)
    assert job.training.max_epochs == FAST["max_epochs"]
    monkeypatch.setattr(KubernetesPodOperator, "trigger_reentry", lambda *_: None)
    with pytest.raises(TrainingError, match=r"must leave a whole result\.json; got none"):
        operator(ref).trigger_reentry({}, {"status": "success"})
    monkeypatch.setattr(KubernetesPodOperator, "execute", run_pod)
    found = operator(ref, deferrable=False).execute({})
    assert found["job_uri"] == job.uri
    assert operator(ref).trigger_reentry({}, {"status": "success"}) == found
