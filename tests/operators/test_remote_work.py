"""Whose work on a cluster is whose: over names, releases, deployments, and pods that outlive what owns them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG

from include.training.commit import VARIABLE
from include.training.manifests import RemoteTraining, indexed_job, pod, train_job
from include.training.profiles import VARIABLE as PROFILES_VARIABLE
from include.training.profiles import read_profiles
from include.training.remote_names import TaskKey, remote_annotations, remote_labels, remote_name
from operators.distributed_training import DistributedTrainingOperator
from operators.gpu_training_pod import GpuTrainingPodOperator
from tests.kubernetes.fates import Fate
from tests.kubernetes.faults import Fault
from tests.kubernetes.store import Key
from tests.kubernetes.world import COMMIT, MODEL, World, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.training.job import Job
    from tests.kubernetes.store import Change, Object
    from tests.kubernetes.trainer import Run


# A process that is killed in the midst of a call leaves its connection to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*Connection.__del__:pytest.PytestUnraisableExceptionWarning")

SETTINGS: dict[str, Any] = {"poll_interval": 10, "retries": 2, "retry_delay": timedelta(seconds=30)}
PLACES = {
    "kubernetes": ("v1", "pods"),
    "job": ("batch/v1", "jobs"),
    "trainjob": ("trainer.kubeflow.org/v1alpha1", "trainjobs"),
}
of_several_pods = pytest.mark.parametrize("kind", ["job", "trainjob"])


def operator(kind: str) -> Callable[[Job], Any]:
    def make(job: Job) -> Any:
        dag = DAG("train_flight_delays", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))
        common: dict[str, Any] = {"task_id": "train", "dag": dag, "model": MODEL, **SETTINGS}
        if kind == "kubernetes":
            return GpuTrainingPodOperator(snapshot=snapshot_of(job), profile="gpu", **common)
        several: Any = kind
        return DistributedTrainingOperator(snapshot=snapshot_of(job), profile="gpu_2x4", kind=several, **common)

    return make


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Yield a cluster with room for two trainings at once, whose trainers use up nearly all of their grace."""
    monkeypatch.setenv(VARIABLE, COMMIT)
    with World(folder=tmp_path, make_operator=operator("job")) as found:
        found.trainer.save_s = 55.0
        yield found


def objects(world: World, kind: str) -> list[Object]:
    return [found for key, found in world.cluster.store.objects.items() if key.kind == kind]


def training(world: World, profile: str, *, name: str, lake: str = "") -> RemoteTraining:
    """Return the manifests' source for the very task that the world runs."""
    airflow = world.airflow
    key = TaskKey(dag_id="train_flight_delays", run_id=airflow.run_id, task_id="train")
    lake = lake or world.storage.root
    return RemoteTraining(
        name=name or remote_name(MODEL, key, lake=lake),
        labels=remote_labels(MODEL, key, job_key=world.job.key, lake=lake),
        profile=read_profiles().profiles[profile],
        job_uri=world.job.uri,
        deadline_s=3600,
        annotations=remote_annotations(key),
    )


def put(world: World, kind: str, manifest: Object) -> Key:
    key = Key(*PLACES[kind], manifest["metadata"]["namespace"], manifest["metadata"]["name"])
    with world.cluster.lock:
        world.cluster.create(key, manifest)
    return key


def change_profile(world: World, monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    """Change the profile of the trainings in several pods."""
    held = read_profiles().model_dump(mode="json", exclude_none=True)
    held["profiles"]["gpu_2x4"] |= changed
    path = world.folder / "profiles.yaml"
    path.write_text(json.dumps(held))
    monkeypatch.setenv(PROFILES_VARIABLE, str(path))


def put_alone(world: World, **changed: object) -> Key:
    """Leave a pod without an owner that waits for ever, as of the runner `kubernetes` that was in model.yaml before."""
    manifest = pod(training(world, "gpu", name="train-alone"))
    manifest["metadata"] |= changed
    manifest["spec"]["schedulingGates"] = [{"name": "example.com/held"}]
    return put(world, "kubernetes", manifest)


def when_first_began(world: World, after_s: float, do: Callable[[], None]) -> None:
    """Do something some seconds after the first run has begun."""

    def began(_run: Run) -> None:
        if len(world.trainer.runs) == 1:
            world.cluster.store.agenda.after(after_s, do)

    world.trainer.began = began


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kubernetes", "job"])
def test_another_deployments_work_for_the_same_task_is_left_alone(world: World, kind: str) -> None:
    profile, make = ("gpu", pod) if kind == "kubernetes" else ("gpu_2x4", indexed_job)
    theirs = put(world, kind, make(training(world, profile, name="", lake="s3://prod")))
    world.make_operator = operator(kind)
    assert world.run() == "success"
    assert "deletionTimestamp" not in world.cluster.store.objects[theirs]["metadata"]
    own = [found for found in objects(world, theirs.kind) if found["metadata"]["name"] != theirs.name]
    assert any(found["metadata"]["labels"]["tradewind/job"] == world.job.key for found in own)


@pytest.mark.parametrize("kind", ["kubernetes", "job"])
def test_work_that_another_release_named_is_gone_on_with(world: World, kind: str) -> None:
    profile, make = ("gpu", pod) if kind == "kubernetes" else ("gpu_2x4", indexed_job)
    theirs = put(world, kind, make(training(world, profile, name="train-by-another-rule")))
    world.make_operator = operator(kind)
    assert world.run() == "success"
    assert len(world.trainer.runs) == 1
    assert all(name.startswith(theirs.name) for name in world.trainer.runs[0].pods)
    assert [found["metadata"]["name"] for found in objects(world, "services")] == [theirs.name] * (kind == "job")


@pytest.mark.parametrize("kind", PLACES)
def test_two_tasks_of_a_mapped_one_share_no_work(world: World, kind: str) -> None:
    make = operator(kind)

    def sibling(job: Job) -> Any:
        found = make(job)
        found.overrides = json.dumps({"seed": 7 + world.airflow.map_index})
        return found

    world.make_operator = sibling
    for map_index in (0, 1):
        world.airflow.map_index, world.airflow.state = map_index, "queued"
        assert world.run() == "success"
    found = objects(world, PLACES[kind][1])
    assert len({item["metadata"]["name"] for item in found}) == 2
    assert [item["metadata"]["labels"]["tradewind/map-index"] for item in found] in (["0", "1"], ["1", "0"])
    assert {item["metadata"]["annotations"]["tradewind/map-index"] for item in found} == {"0", "1"}
    assert sum("left over" in event or "go on with it" in event for event in world.events) == 0


# --- pods that outlive their owner ------------------------------------------------------------------------------------


@of_several_pods
@pytest.mark.parametrize("heard_at", [0, 18])
def test_a_cleared_task_begins_when_its_old_pods_are_gone(world: World, kind: str, heard_at: int) -> None:
    world.make_operator = operator(kind)
    world.airflow.fates.append(Fate(stage="watch", at_boundary=120, by="clear", heard_at=heard_at))
    assert world.run() == "success"
    assert world.airflow.fates[0].happened
    assert len(world.trainer.runs) == 2
    assert (world.trainer.num_overlaps, world.num_duplicates) == (0, 0)


@of_several_pods
def test_work_that_a_person_deletes_begins_again_when_its_pods_are_gone(world: World, kind: str) -> None:
    world.make_operator = operator(kind)

    def delete() -> None:
        (key,) = [key for key in world.cluster.store.objects if key.kind == PLACES[kind][1]]
        world.cluster.delete(key, {"propagationPolicy": "Background"})

    when_first_began(world, 100.0, delete)
    assert world.run() == "success"
    assert len(world.trainer.runs) == 2
    assert (world.trainer.num_overlaps, world.num_duplicates, world.airflow.num_tries) == (0, 0, 1)
    assert sum("is left over" in event for event in world.events) == 0
    assert sum("it was told to end" in event for event in world.events) == 1


def test_a_job_holds_its_name_until_its_pods_are_gone(world: World) -> None:
    left: list[int] = []

    def watch(change: Change) -> None:
        if (change.key.kind, change.type) == ("jobs", "DELETED"):
            left.append(len(objects(world, "pods")))

    world.cluster.store.observers.append(watch)
    world.airflow.fates.append(Fate(stage="watch", at_boundary=120, by="fail"))
    assert world.run() == "failed"
    assert left == [0]


@of_several_pods
def test_pods_on_a_node_that_is_never_heard_again_hold_nothing_for_ever(world: World, kind: str) -> None:
    world.make_operator = operator(kind)
    lose = partial(world.cluster.nodes.lose, "gpu-0")
    world.airflow.fates.append(Fate(stage="watch", at_boundary=150, by="clear", struck=lose))
    world.cluster.store.agenda.after(5000.0, lambda: world.cluster.nodes.heal("gpu-0"))
    assert world.run() == "success"
    assert world.airflow.fates[0].happened
    assert (len(world.trainer.runs), world.trainer.num_overlaps) == (2, 0)
    assert world.airflow.ended_at_s < 2000


@of_several_pods
def test_a_pod_that_waits_without_an_owner_is_deleted_first(world: World, kind: str) -> None:
    alone = put_alone(world)
    world.make_operator = operator(kind)
    assert world.run() == "success"
    assert alone not in world.cluster.store.objects
    assert (len(world.trainer.runs), world.num_duplicates, world.airflow.num_tries) == (1, 0, 1)
    assert sum(f"/pods/{alone.name} is left over, and deleted first" in event for event in world.events) == 1


def test_pods_that_lost_their_job_are_told_to_end_and_begin_again(world: World) -> None:
    def orphan() -> None:
        (key,) = [key for key in world.cluster.store.objects if key.kind == "jobs"]
        world.cluster.delete(key, {"propagationPolicy": "Orphan"})

    world.trainer.work_s = 100_000.0
    when_first_began(world, 100.0, orphan)
    world.cluster.store.agenda.after(1000.0, lambda: setattr(world.trainer, "work_s", 300.0))
    assert world.run() == "success"
    assert (len(world.trainer.runs), world.trainer.num_overlaps, world.airflow.num_tries) == (2, 0, 1)


@of_several_pods
def test_a_pod_that_never_goes_is_given_up(world: World, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change_profile(world, monkeypatch, max_interruptions=1)
    alone = put_alone(world, finalizers=["example.com/held"])
    world.make_operator = operator(kind)
    assert world.run() == "failed"
    assert alone in world.cluster.store.objects
    assert "told to end, and not ended after 12" in world.airflow.errors[0]
    assert world.trainer.runs == []


def test_a_pod_that_may_not_be_deleted_is_told(world: World) -> None:
    put_alone(world)
    world.cluster.faults.append(Fault(verb="DELETE", path="/pods/", code=403, times=None))
    assert world.run() == "failed"
    assert world.airflow.num_tries == 1
    assert "RefusedError: DELETE /api/v1/namespaces/" in world.airflow.errors[0]


# --- another runner ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "now"), [(a, b) for a in PLACES for b in PLACES if a != b])
def test_work_of_another_runner_ends_before_the_work_begins(world: World, before: str, now: str) -> None:
    make: dict[str, Any] = {"kubernetes": pod, "job": indexed_job, "trainjob": train_job}
    theirs = put(world, before, make[before](training(world, "gpu" if before == "kubernetes" else "gpu_2x4", name="")))
    world.simulation.advance(100.0)
    world.make_operator = operator(now)
    assert world.run() == "success"
    assert [len(world.trainer.runs), world.trainer.num_overlaps, world.num_duplicates] == [2, 0, 0]
    assert theirs not in world.cluster.store.objects
    assert world.airflow.num_tries == 1
    assert world.trainer.runs[1].from_s > 60  # where the other one was told to end


@pytest.mark.parametrize("code", [403, 404])
def test_a_cluster_without_train_jobs_will_do(world: World, code: int) -> None:
    world.make_operator = operator("kubernetes")
    world.cluster.faults.append(Fault(path="/trainjobs$", code=code, times=None))
    assert world.run() == "success"
    assert (world.airflow.num_tries, len(world.trainer.runs)) == (1, 1)


def test_what_another_runner_left_and_has_ended_is_the_janitors(world: World) -> None:
    world.trainer.flaw = "bad_data"
    theirs = put(world, "kubernetes", pod(training(world, "gpu", name="")))
    world.simulation.advance(100.0)
    world.trainer.flaw = "none"
    assert world.run() == "success"
    assert "deletionTimestamp" not in world.cluster.store.objects[theirs]["metadata"]


# --- what is refused --------------------------------------------------------------------------------------------------


@of_several_pods
def test_what_the_cluster_does_not_know_is_told_and_not_tried_again(world: World, kind: str) -> None:
    world.make_operator = operator(kind)
    world.cluster.faults.append(Fault(verb="PATCH", path=f"/{PLACES[kind][1]}/", code=404, times=None))
    assert world.run() == "failed"
    assert world.airflow.num_tries == 1
    assert "must be allowed; got 404" in world.airflow.errors[0]
    assert "Make the namespace, or install what the kind belongs to." in world.airflow.errors[0]


def test_a_job_without_its_service_holds_nothing(world: World) -> None:
    world.cluster.faults.append(Fault(path="/services/", code=403, times=None))
    assert world.run() == "failed"
    assert world.airflow.num_tries == 1
    assert "RefusedError: PATCH /api/v1/namespaces/" in world.airflow.errors[0]
    assert (world.num_left, objects(world, "jobs")) == (0, [])


@pytest.mark.parametrize("fault", [Fault(code=503, times=4), Fault(kind="reset", times=4)])
def test_a_job_that_lacks_its_service_gets_it(world: World, fault: Fault) -> None:
    world.cluster.faults.append(replace(fault, path="/services/"))
    assert world.run() == "success"
    (job,), (service,) = objects(world, "jobs"), objects(world, "services")
    assert service["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert len(world.trainer.runs) == 1


def test_a_service_without_quota_is_waited_for_as_long_as_the_profile_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_profile(world, monkeypatch, pending_s=120)
    for _ in range(30):  # each time so late that pods run already, and take longer to end than the pause is
        world.cluster.faults.append(Fault(path="/services/", code=503, times=2))
        world.cluster.faults.append(Fault(path="/services/", code=403, says="exceeded quota: services"))
    assert world.run() == "failed"
    assert world.airflow.num_tries == 1
    assert "got quota: a quota leaves no room for it (exceeded quota: services)" in world.airflow.errors[0]
    assert len(world.trainer.runs) == 5
    assert (world.num_left, objects(world, "jobs")) == (0, [])


def test_work_that_runs_outlives_a_right_that_was_taken(world: World) -> None:
    def take() -> None:
        world.cluster.faults.append(Fault(path="/services/", code=403, times=None))

    world.airflow.fates.append(Fate(stage="first", at_boundary=30, struck=take))
    assert world.run() == "success"
    assert world.airflow.fates[0].happened
    assert len(world.trainer.runs) == 1
    assert any("must be allowed; got 403" in event and "The work goes on" in event for event in world.events)


def test_work_that_runs_is_not_ended_by_who_may_not_look(world: World) -> None:
    def take() -> None:
        world.cluster.faults.append(Fault(verb="GET", path="/jobs$", code=403, times=None))

    deleted: list[Object] = []
    world.airflow.fates.append(Fate(stage="first", at_boundary=30, struck=take))
    world.cluster.store.observers.append(lambda change: deleted.extend([change.object] * (change.type == "DELETED")))
    assert world.run() == "failed"
    assert world.airflow.fates[0].happened
    assert "RefusedError: GET " in world.airflow.errors[0]
    assert (len(world.trainer.runs), deleted) == (1, [])


# --- a profile that changed while it ran -----------------------------------------------------------------------------


@pytest.mark.parametrize("has_result", [False, True])
def test_a_train_job_outlives_a_profile_that_no_other_may_have(
    world: World, monkeypatch: pytest.MonkeyPatch, *, has_result: bool
) -> None:
    put(world, "trainjob", train_job(training(world, "gpu_2x4", name="")))
    change_profile(world, monkeypatch, priority_class="high")
    world.make_operator = operator("trainjob")
    if has_result:
        world.simulation.advance(world.trainer.work_s + 60)
    assert world.run() == "success"
    assert (len(world.trainer.runs), world.airflow.num_tries) == (1, 1)


def test_a_train_job_is_not_made_of_a_profile_that_it_cannot_pass_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_profile(world, monkeypatch, priority_class="high")
    world.make_operator = operator("trainjob")
    assert world.run() == "failed"
    assert "got priority_class: high" in world.airflow.errors[0]
    assert (objects(world, "trainjobs"), world.airflow.num_tries) == ([], 1)


# --- its log ----------------------------------------------------------------------------------------------------------


def test_what_was_passed_on_is_not_passed_on_again(world: World) -> None:
    world.make_operator = operator("kubernetes")
    world.trainer.work_s = 120
    world.airflow.fates.append(Fate(stage="first", at_boundary=36))
    assert world.run() == "success"
    world.airflow.state = "queued"
    assert world.run() == "success"
    assert len(world.trainer.runs) == 1
    assert [sum(event.endswith(f" {done} of 120 s are done") for event in world.events) for done in (60, 120)] == [1, 1]
