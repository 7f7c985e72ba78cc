"""Objects of any kind: applied, waited for and deleted on a scripted cluster, by Airflow's own task runner."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk import DAG
from kubernetes_asyncio.config import ConfigException

from operators.custom_resource import CustomResourceOperator
from sensors.custom_resource_condition import CustomResourceConditionSensor
from tests.kubernetes.fates import Fate
from tests.kubernetes.faults import Fault
from tests.kubernetes.store import Key
from tests.kubernetes.world import World

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from airflow.sdk import BaseOperator

    from tests.kubernetes.cluster import Controller
    from tests.kubernetes.store import Object

# A process that is killed in the midst of a call leaves its connection to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*Connection.__del__:pytest.PytestUnraisableExceptionWarning")

SERVICE = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "flights", "namespace": "ml"},
    "spec": {"predictor": {"model": {"storageUri": "s3://models/{{ run_id }}"}}},
}
KEY = Key("serving.kserve.io/v1beta1", "inferenceservices", "ml", "flights")
PATH = "/apis/serving.kserve.io/v1beta1/namespaces/ml/inferenceservices/flights"


def settles(*steps: float | Object) -> Controller:
    """Return a controller that does these steps: seconds to wait, and patches."""

    def controller(_found: Object) -> Generator[float | Object, None, None]:
        yield from steps

    return controller


def condition(kind: str, status: str = "True", message: str = "") -> Object:
    return {"status": {"conditions": [{"type": kind, "status": status, "reason": "Told", "message": message}]}}


def operator(**others: Any) -> CustomResourceOperator:
    return task(CustomResourceOperator, manifest=SERVICE, wait_s=600, **others)


def task(kind: type[BaseOperator], **others: Any) -> Any:
    dag = DAG("dag_of_the_test", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))
    settings: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(seconds=30)}
    return kind(task_id="apply", dag=dag, **settings, **others)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(folder=tmp_path, make_operator=lambda _job: operator()) as found:
        found.cluster.controllers["inferenceservices"] = settles(
            20.0, condition("Ready", "False", "pulling"), 40.0, condition("Ready")
        )
        yield found


def kept(world: World) -> Object | None:
    return world.cluster.store.objects.get(KEY)


def returned(world: World) -> Any:
    (value,) = [value for key, value in world.airflow.supervisor.xcoms.items() if key[3] == "return_value"]
    return value


def test_it_applies_waits_and_returns_the_conditions(world: World) -> None:
    assert world.run() == "success"
    found = kept(world)
    assert found is not None
    assert found["spec"]["predictor"]["model"]["storageUri"] == "s3://models/manual__2013-04-01"
    assert returned(world) == {"path": PATH, "uid": found["metadata"]["uid"], "conditions": {"Ready": "True"}}
    assert "info: flights: Ready: Told: pulling" in world.events
    assert 60 <= world.airflow.ended_at_s <= 80


def test_applied_twice_is_applied_once(world: World) -> None:
    assert world.run() == "success"
    before = kept(world)
    assert before is not None
    world.airflow.state = "queued"
    assert world.run() == "success"
    after = kept(world)
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_dead_worker_a_dead_triggerer_and_a_silent_api_change_nothing(world: World) -> None:
    world.airflow.fates += [Fate(stage="first", at_boundary=10), Fate(stage="watch", at_boundary=8)]
    world.cluster.faults += [Fault(code=503, skip=3, times=3), Fault(kind="reset", skip=8, times=2)]
    assert world.run() == "success"
    assert all(fate.happened for fate in world.airflow.fates)


def test_a_right_that_is_gone_for_a_while_changes_nothing(world: World) -> None:
    world.cluster.faults.append(Fault(verb="GET", path="/inferenceservices/", code=403, times=2))
    assert world.run() == "success"
    assert world.airflow.num_tries == 1


def test_a_right_that_stays_gone_is_told(world: World) -> None:
    world.make_operator = lambda _job: operator(delete="always")
    world.cluster.faults.append(Fault(verb="GET", path="/inferenceservices/", code=403, says="no", times=None))
    assert world.run() == "failed"
    assert f"got timed_out: GET {PATH} must be allowed; got 403 no." in world.airflow.errors[-1]
    assert kept(world) is None


def test_a_plugin_that_gives_no_token_for_a_while_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = AsyncKubernetesHook.get_conn

    def get_conn(hook: AsyncKubernetesHook) -> Any:
        if world.simulation.elapsed_s < 30:
            raise ConfigException("exec: process returned 255")
        return before(hook)

    monkeypatch.setattr(AsyncKubernetesHook, "get_conn", get_conn)
    assert world.run() == "success"
    assert world.airflow.num_tries == 1


def test_what_its_controller_calls_failed_is_told(world: World) -> None:
    world.cluster.controllers["inferenceservices"] = settles(10.0, condition("Failed", message="no such model"))
    assert world.run() == "failed"
    assert (
        f"{PATH} must come to Ready within 600 s; got failed: Failed: Told: no such model. It is still there."
        in (world.airflow.errors[-1])
    )
    assert kept(world) is not None


@pytest.mark.parametrize(("delete", "stays"), [("never", True), ("killed", False), ("always", False)])
def test_a_time_that_is_over_deletes_as_asked(world: World, delete: Any, stays: bool) -> None:
    world.cluster.controllers["inferenceservices"] = settles(10.0, condition("Ready", "False"))
    world.make_operator = lambda _job: operator(delete=delete)
    assert world.run() == "failed"
    assert "got timed_out: Ready: Told" in world.airflow.errors[-1]
    assert (kept(world) is not None) is stays


@pytest.mark.parametrize(("delete", "stays"), [("never", True), ("killed", False)])
@pytest.mark.parametrize("stage", ["first", "watch"])
def test_killed_by_a_person_it_deletes_as_asked(world: World, stage: Any, delete: Any, stays: bool) -> None:
    world.make_operator = lambda _job: operator(delete=delete)
    world.airflow.fates.append(Fate(stage=stage, at_boundary=8 if stage == "watch" else 12, by="fail"))
    assert world.run() == "failed"
    assert world.airflow.fates[0].happened
    assert (kept(world) is not None) is stays


def test_always_deletes_what_has_come_to_its_end(world: World) -> None:
    world.make_operator = lambda _job: operator(delete="always")
    assert world.run() == "success"
    assert kept(world) is None


def test_one_of_kubernetes_own_kinds_will_do(world: World) -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "index", "namespace": "ml"},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "a:1"}], "restartPolicy": "Never"}}},
    }
    from tests.kubernetes.containers import sleep_and_exit

    world.kubelets.program = sleep_and_exit()
    world.make_operator = lambda _job: task(CustomResourceOperator, manifest=job, until=["Complete"], wait_s=60)
    assert world.run() == "success"


def test_without_a_rule_it_does_not_wait(world: World) -> None:
    world.make_operator = lambda _job: operator(until=())
    assert world.run() == "success"
    assert world.airflow.ended_at_s < 5


@pytest.mark.parametrize("manifest", [{}, SERVICE | {"metadata": {"name": "a"}}])
def test_a_manifest_without_a_name_is_refused(world: World, manifest: Object) -> None:
    world.make_operator = lambda _job: task(CustomResourceOperator, manifest=manifest)
    assert world.run() == "failed"
    assert "a manifest must have apiVersion, kind, metadata.namespace and metadata.name" in world.airflow.errors[-1]


def sensor(**others: Any) -> CustomResourceConditionSensor:
    return task(
        CustomResourceConditionSensor,
        name="flights",
        namespace="ml",
        api_version="serving.kserve.io/v1beta1",
        plural="inferenceservices",
        poke_interval=10,
        timeout=300,
        **others,
    )


def test_the_sensor_waits_for_what_somebody_else_makes(world: World) -> None:
    world.make_operator = lambda _job: sensor()

    def make() -> None:
        world.cluster.create(KEY, dict(SERVICE))

    world.cluster.store.agenda.after(100, make)
    assert world.run() == "success"
    assert returned(world) == {"path": PATH, "conditions": {"Ready": "True"}}
    assert 160 <= world.airflow.ended_at_s <= 180


def test_the_sensor_leaves_the_object_alone(world: World) -> None:
    world.make_operator = lambda _job: sensor(failed_if=["Ready=False"])
    world.cluster.create(KEY, dict(SERVICE))
    world.airflow.fates.append(Fate(stage="watch", at_boundary=8, by="fail"))
    assert world.run() == "failed"
    assert kept(world) is not None


def test_the_sensor_says_what_it_waited_for_in_vain(world: World) -> None:
    world.make_operator = lambda _job: sensor()
    assert world.run() == "failed"
    assert f"{PATH} must come to Ready within 300 s; got timed_out: it is not there." in world.airflow.errors[-1]
