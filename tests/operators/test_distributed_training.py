"""Training in several pods on a scripted cluster: by an indexed Job, and by a TrainJob."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG

from include.training.commit import VARIABLE
from include.training.result import write_result
from operators.distributed_training import DistributedTrainingOperator
from tests.kubernetes.containers import sleep_and_exit
from tests.kubernetes.fates import Fate
from tests.kubernetes.trainer import _result
from tests.kubernetes.world import COMMIT, MODEL, World, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from tests.kubernetes.store import Object


# A process that is killed in the midst of a call leaves its connection to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*Connection.__del__:pytest.PytestUnraisableExceptionWarning")


def operator(snapshot: dict[str, object], **others: Any) -> DistributedTrainingOperator:
    dag = DAG("train_flight_delays", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))
    settings: dict[str, Any] = {"profile": "gpu_2x4", "poll_interval": 10, "retries": 2}
    return DistributedTrainingOperator(
        task_id="train",
        dag=dag,
        model=MODEL,
        snapshot=snapshot,
        retry_delay=timedelta(seconds=30),
        **{**settings, **others},
    )


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv(VARIABLE, COMMIT)
    with World(folder=tmp_path, make_operator=lambda job: operator(snapshot_of(job))) as found:
        yield found


def objects(world: World, kind: str) -> list[Object]:
    return [found for key, found in world.cluster.store.objects.items() if key.kind == kind]


def log(world: World) -> str:
    return "\n".join(world.events)


def test_two_pods_train_one_job_and_find_each_other(world: World) -> None:
    assert world.run() == "success"
    assert world.airflow.num_tries == 1
    (job,), (service,) = objects(world, "jobs"), objects(world, "services")
    (run,) = world.trainer.runs
    assert len(run.pods) == 2
    assert service["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    pods = world.cluster.pods
    assert {pod["spec"]["subdomain"] for pod in pods} == {service["metadata"]["name"]}
    for pod in pods:
        said = [event for event in world.events if event.startswith(f"info: [{pod['metadata']['name']}] ")]
        assert "ends with 0" in said[-1]


def test_one_pod_that_is_lost_ends_all_and_all_start_again(world: World) -> None:
    first = world.trainer.began

    def began(run: Any) -> None:
        first(run)
        if len(world.trainer.runs) == 1:
            world.cluster.store.agenda.after(150, lambda: world.cluster.press(run.pod))

    world.trainer.began = began
    assert world.run() == "success"
    assert world.airflow.num_tries == 1
    assert "got preempted: the cluster took its node away" in log(world)
    assert "uses up no retry (1 of 5 interruptions)" in log(world)
    assert len(objects(world, "jobs")) == 1
    assert [run.from_s >= 150 - world.trainer.checkpoint_s for run in world.trainer.runs] == [False, True]


def test_bad_data_is_not_tried_again(world: World) -> None:
    world.trainer.flaw = "bad_data"
    assert world.run() == "failed"
    assert world.airflow.num_tries == 1
    assert "got bad_data: its data cannot be used" in world.airflow.errors[0]
    assert world.cluster.live_pods == []


def test_pods_that_no_nodes_take_say_why(world: World) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), poll_interval=60)
    world.cluster.nodes.remove("gpu-0")
    world.cluster.nodes.remove("gpu-1")
    assert world.run() == "failed"
    assert "it waits to run: Unschedulable" in log(world)
    assert "got unschedulable: no node takes it" in world.airflow.errors[0]
    assert objects(world, "jobs") == []
    assert world.cluster.live_pods == []


def test_a_gang_that_is_half_there_says_why_and_is_given_up(world: World) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), poll_interval=60)
    world.cluster.nodes.remove("gpu-0")
    world.kubelets.nodes["gpu-1"].room = {**world.kubelets.nodes["gpu-1"].room, "nvidia.com/gpu": "4"}
    assert world.run() == "failed"
    assert "1 of 2 pods run, and it waits to run: Unschedulable" in log(world)
    assert "not running after 36" in world.airflow.errors[0]
    assert (world.airflow.num_tries, world.cluster.live_pods) == (1, [])


def test_a_person_who_fails_the_task_ends_all_pods(world: World) -> None:
    world.airflow.fates.append(Fate(stage="watch", at_boundary=60, by="fail"))
    assert world.run() == "failed"
    assert (world.cluster.live_pods, objects(world, "jobs"), objects(world, "services")) == ([], [], [])
    assert "got cancelled: it was stopped on request. It has 60 s to save a checkpoint." in log(world)


def test_a_dead_worker_leaves_the_job_to_the_next_try(world: World) -> None:
    world.airflow.fates.append(Fate(stage="first", at_boundary=30))
    assert world.run() == "success"
    assert world.airflow.fates[0].happened
    assert len(objects(world, "jobs")) == 1


@pytest.mark.parametrize("kind", ["job", "trainjob"])
def test_the_logs_of_pods_are_passed_on_after_a_worker_was_killed(world: World, kind: Any) -> None:
    world.trainer.work_s = 120
    world.make_operator = lambda job: operator(snapshot_of(job), kind=kind)
    world.airflow.fates.append(Fate(stage="first", at_boundary=30))
    assert world.run() == "success"
    assert world.airflow.fates[0].happened
    seen = [sum(event.endswith(line) for event in world.events) for line in world.lines]
    assert seen == [1] * len(seen)
    assert next(event for event in world.events if "rank 1 ends with" in event).startswith("info: [train-flight-")


@pytest.mark.parametrize("kind", ["job", "trainjob"])
def test_all_have_ended_when_their_trainers_have_whatever_goes_on_beside_them(world: World, kind: Any) -> None:
    def inject(pod: Object) -> None:
        pod["spec"]["containers"].append({"name": "istio-proxy", "image": "proxy:1"})

    world.cluster.quota = inject
    world.kubelets.program = lambda pod, container: (
        sleep_and_exit(1e6) if container["name"] == "istio-proxy" else world.trainer
    )(pod, container)
    world.make_operator = lambda job: operator(snapshot_of(job), kind=kind)
    assert world.run() == "success"
    assert world.airflow.ended_at_s < 700
    assert (world.airflow.num_tries, world.num_left, len(world.trainer.runs)) == (1, 0, 1)


def settle_train_job(world: World, *, result: bool, condition: str, reason: str = "Told") -> None:
    """Let Kubeflow Trainer's controller end each TrainJob after a minute."""

    def controller(_found: Object) -> Generator[float | Object, None, None]:
        yield {"status": {"conditions": [{"type": "Suspended", "status": "False", "reason": "Resumed"}]}}
        yield 60.0
        if result:
            write_result(world.job, _result(world.job), contents={}, storage=world.storage)
        told = {"type": condition, "status": "True", "reason": reason, "message": "jobs are done"}
        yield {"status": {"conditions": [told]}}

    world.cluster.controllers["trainjobs"] = controller


@pytest.mark.parametrize(
    ("result", "condition", "reason", "error"),
    [
        (True, "Complete", "JobsCompleted", ""),
        (True, "Failed", "JobsFailed", ""),
        (False, "Complete", "JobsCompleted", "got unknown: it ended without a whole result"),
        (False, "Failed", "DeadlineExceeded", "got deadline: it took longer than its deadline"),
        (False, "Failed", "TrainingRuntimeNotSupported", "(Failed: TrainingRuntimeNotSupported: jobs are done)"),
    ],
)
def test_a_train_job_is_decided_by_its_result_too(
    world: World, result: bool, condition: str, reason: str, error: str
) -> None:
    settle_train_job(world, result=result, condition=condition, reason=reason)
    world.make_operator = lambda job: operator(snapshot_of(job), kind="trainjob", retries=0)
    assert world.run() == ("failed" if error else "success")
    if error:
        assert error in world.airflow.errors[0]
    (found,) = objects(world, "trainjobs")
    assert found["spec"]["trainer"]["numNodes"] == 2
