"""The janitor of trainings, on a scripted cluster beside a fake Airflow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import run_task
from include.training.manifests import RemoteTraining, indexed_job, pod, service, train_job
from include.training.profiles import read_profiles
from include.training.remote_names import TaskKey, remote_annotations, remote_labels, remote_name
from operators.sweep_training import SweepTrainingOperator
from tests.fake_airflow import PASSWORD, fake_airflow
from tests.kubernetes.server import ScriptedKubernetes
from tests.kubernetes.store import Key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.testing.tasks import TaskResult
    from tests.fake_airflow import FakeAirflow

MODEL, DAG_ID = "flight_delays", "train_flight_delays"
PLACES = {"Pod": ("v1", "pods"), "Job": ("batch/v1", "jobs"), "Service": ("v1", "services")}
PLACES["TrainJob"] = ("trainer.kubeflow.org/v1alpha1", "trainjobs")


class Bench:
    """A cluster, an Airflow, and the operator between them."""

    def __init__(self, kubernetes: ScriptedKubernetes, airflow: FakeAirflow, lake: Path) -> None:
        self.cluster, self.airflow, self.lake = kubernetes.cluster, airflow, str(lake)
        port = int(airflow.base_url.rpartition(":")[2])
        api = {"conn_type": "http", "host": "127.0.0.1", "port": port, "login": "reconciler", "password": PASSWORD}
        lake_connection = {"conn_type": "fs", "extra": json.dumps({"path": self.lake})}
        self.supervisor = FakeSupervisor(
            connections={
                "kubernetes_default": kubernetes.connection,
                "airflow_api_default": api,
                "tradewind_lake": lake_connection,
            }
        )

    def task(self, run_id: str, state: str | None) -> TaskKey:
        """Let Airflow know a task instance in a state; None: its run is gone."""
        if state is not None:
            self.airflow.tasks[run_id] = [{"task_id": "train", "state": None if state == "none" else state}]
        return TaskKey(dag_id=DAG_ID, run_id=run_id, task_id="train")

    def add(self, key: TaskKey, *makers: Any, phase: str = "Running", lake: str = "") -> str:
        """Put work of a task on the cluster; return its name."""
        training = RemoteTraining(
            name=remote_name(MODEL, key),
            labels=remote_labels(MODEL, key, job_key="2013-03-a", lake=lake or self.lake),
            profile=read_profiles().profiles["gpu_2x4"],
            job_uri="s3://lake/job.json",
            deadline_s=60,
            annotations=remote_annotations(key),
        )
        for make in makers or (pod,):
            manifest = make(training)
            version, plural = PLACES[manifest["kind"]]
            at = Key(version, plural, "default", training.name)
            with self.cluster.lock:
                self.cluster.create(at, manifest)
                self.cluster.store.objects[at].setdefault("status", {})["phase"] = phase
        return training.name

    def sweep(self, **others: Any) -> TaskResult:
        return run_task(SweepTrainingOperator(task_id="sweep", **others), supervisor=self.supervisor)

    def names(self, *kinds: str) -> set[str]:
        return {key.name for key in self.cluster.store.objects if key.kind in (kinds or ("pods",))}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with ScriptedKubernetes() as kubernetes, fake_airflow(MODEL) as airflow:
        monkeypatch.setattr(kubernetes.cluster.jobs, "_later", lambda _key: None)
        kubernetes.cluster.kubelets.schedule_s = 1e9
        yield Bench(kubernetes, airflow, tmp_path)


STATES = {
    "running": True,
    "deferred": True,
    "queued": True,
    "up_for_retry": True,
    "none": True,
    "success": False,
    "failed": False,
    "removed": False,
    None: False,
}


def test_what_no_task_waits_for_is_deleted(bench: Bench) -> None:
    names = {state: bench.add(bench.task(f"run-{number}", state)) for number, state in enumerate(STATES)}
    looked = bench.sweep(dry_run="True").returned()
    assert bench.names() == set(names.values())
    found = bench.sweep().returned()
    assert found == looked
    assert bench.names() == {names[state] for state, stays in STATES.items() if stays}
    assert {path.rpartition("/")[2] for path in found["orphan"]} == {
        names[state] for state, stays in STATES.items() if not stays
    }
    assert bench.sweep().returned()["orphan"] == []


def test_what_has_ended_stays_for_a_while(bench: Bench) -> None:
    name = bench.add(bench.task("run-1", "failed"), phase="Failed")
    assert bench.sweep().returned() == {"orphan": [], "old": [], "num_kept": 1}
    assert bench.sweep(keep_s=0).returned()["old"] == [f"/api/v1/namespaces/default/pods/{name}"]
    assert bench.names() == set()


def test_jobs_and_train_jobs_go_with_what_belongs_to_them(bench: Bench) -> None:
    bench.add(bench.task("run-1", None), indexed_job)
    bench.add(bench.task("run-2", None), train_job)
    kept = bench.add(bench.task("run-3", "deferred"), indexed_job, service)
    assert len(bench.sweep().returned()["orphan"]) == 2
    assert bench.names("jobs", "trainjobs", "services") == {kept}


def test_what_is_not_ours_is_left_alone(bench: Bench) -> None:
    others = bench.add(bench.task("run-1", None), lake="s3://of-another-deployment")
    with bench.cluster.lock:
        bench.cluster.create(Key("v1", "pods", "default", "web"), {"metadata": {"name": "web"}, "spec": {}})
    assert bench.sweep().returned() == {"orphan": [], "old": [], "num_kept": 0}
    assert bench.names() == {others, "web"}


def test_an_airflow_that_does_not_answer_deletes_nothing(bench: Bench) -> None:
    name = bench.add(bench.task("run-1", None))
    bench.supervisor.connections["airflow_api_default"]["password"] = "wrong"
    assert bench.sweep().state in ("failed", "up_for_retry")
    assert bench.names() == {name}


def test_without_a_cluster_it_is_skipped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    del bench.supervisor.connections["kubernetes_default"]
    result = bench.sweep()
    assert result.state == "skipped"
    assert "there is no cluster to sweep: connection 'kubernetes_default' must open a cluster" in result.log
