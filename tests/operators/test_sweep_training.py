"""The janitor of trainings, on a scripted cluster beside a fake Airflow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from include.spec import MODELS_DIR
from include.testing.supervisor import FakeSupervisor
from include.testing.tasks import run_task
from include.training.manifests import RemoteTraining, indexed_job, pod, service, train_job
from include.training.profiles import FILE, VARIABLE, read_profiles
from include.training.remote_names import TaskKey, remote_annotations, remote_labels, remote_name
from operators.sweep_training import SweepTrainingOperator
from tests.fake_airflow import PASSWORD, fake_airflow
from tests.kubernetes.faults import Fault
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

    def add(
        self, key: TaskKey, *makers: Any, phase: str = "Running", lake: str = "", namespace: str = "default"
    ) -> str:
        """Put work of a task on the cluster; return its name."""
        training = RemoteTraining(
            name=remote_name(MODEL, key, lake=lake or self.lake),
            labels=remote_labels(MODEL, key, job_key="2013-03-a", lake=lake or self.lake),
            profile=read_profiles().profiles["gpu_2x4"],
            job_uri="s3://lake/job.json",
            deadline_s=60,
            annotations=remote_annotations(key),
        )
        for make in makers or (pod,):
            manifest = make(training)
            version, plural = PLACES[manifest["kind"]]
            at = Key(version, plural, namespace, training.name)
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


def write_model(folder: Path, name: str, *, namespace: str) -> None:
    text = (MODELS_DIR / MODEL / "model.yaml").read_text().replace(f"name: {MODEL}", f"name: {name}", 1)
    (folder / name).mkdir(parents=True)
    (folder / name / "model.yaml").write_text(
        text.replace("\ntraining:\n", f"\ntraining:\n  pod: {{namespace: {namespace}}}\n")
    )


def test_it_looks_where_models_and_profiles_put_work(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, profiles = tmp_path / "models", tmp_path / "profiles.yaml"
    write_model(models, "one_elsewhere", namespace="team-a")
    write_model(models, "one_nowhere", namespace="Not_a_ns")
    monkeypatch.setattr("operators.sweep_training.MODELS_DIR", models)
    profiles.write_text(FILE.read_text().replace("  gpu:\n", "  gpu:\n    namespace: ml\n"))
    monkeypatch.setenv(VARIABLE, str(profiles))
    places = ("default", "ml", "team-a")
    names = {bench.add(bench.task(f"run-{place}", None), namespace=place) for place in places}
    others = bench.add(bench.task("run-other", None), namespace="team-b")
    result = bench.sweep()
    assert {path.rpartition("/")[2] for path in result.returned()["orphan"]} == names
    assert bench.names() == {others}
    assert "where model 'one_nowhere' trains is not known: " in result.log
    assert len(bench.sweep(namespaces=["team-b"]).returned()["orphan"]) == 1


def test_a_missing_right_is_told_and_all_else_is_swept(bench: Bench) -> None:
    places = ("a", "b", "c")
    kept = [bench.add(bench.task(f"run-{place}-job", None), indexed_job, namespace=place) for place in places[:2]]
    for place in places:
        bench.add(bench.task(f"run-{place}", None), namespace=place)
    bench.add(bench.task("run-c-job", None), indexed_job, namespace="c")
    bench.cluster.faults.append(Fault(verb="GET", path="/namespaces/[ab]/jobs", code=403, times=None))
    result = bench.sweep(namespaces=places)
    assert result.state == "failed"
    assert "GET /apis/batch/v1/namespaces/a/jobs must be allowed; got 403" in result.log
    assert "Give the connection's account the Role of docs/pages/training.md in that namespace." in result.log
    refusals = "GET /apis/batch/v1/namespaces/a/jobs, GET /apis/batch/v1/namespaces/b/jobs"
    assert f"got 2 refusals: {refusals}. All else was swept: {{'orphan': [" in result.log
    assert (bench.names(), bench.names("jobs")) == (set(), set(kept))


def test_what_may_be_seen_and_not_deleted_is_told(bench: Bench) -> None:
    names = {bench.add(bench.task(f"run-{number}", None)) for number in range(2)}
    bench.cluster.faults.append(Fault(verb="DELETE", code=403))
    result = bench.sweep()
    assert result.state == "failed"
    (kept,) = bench.names()
    assert kept in names
    assert f"got 1 refusals: DELETE /api/v1/namespaces/default/pods/{kept}." in result.log


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
