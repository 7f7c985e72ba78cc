"""The pod that trains: its manifest, and its life on a scripted cluster, by Airflow's own task runner."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk import DAG
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from kubernetes_asyncio.config import ConfigException

from include.errors import BadInputError
from include.lake.files import write_bytes
from include.spec import load_spec
from include.training.commit import VARIABLE
from include.training.manifests import RemoteTraining, torchrun_command
from include.training.manifests import pod as pod_manifest
from include.training.profiles import VARIABLE as PROFILES_VARIABLE
from include.training.profiles import read_profiles
from include.training.resources import SPENT_FILE, Spent
from include.training.result import write_result
from operators import remote_work
from operators.gpu_training_pod import GpuTrainingPodOperator
from operators.retries import NUM_MACHINE_TRIES
from sensors.triggers.remote_training import RemoteTrainingTrigger
from tests.kubernetes.containers import sleep_and_exit
from tests.kubernetes.faults import Fault
from tests.kubernetes.orchestration import Fate
from tests.kubernetes.trainer import _result
from tests.kubernetes.world import COMMIT, MODEL, World, snapshot_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# A process that is killed in the midst of a call leaves its connection to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*Connection.__del__:pytest.PytestUnraisableExceptionWarning")

PODS = "/api/v1/namespaces/ml/pods"
SECRET = "tradewind-lake"
SHIPPED = {name: profile for name, profile in read_profiles().profiles.items() if profile.num_pods == 1}


def operator(snapshot: dict[str, object], **others: Any) -> GpuTrainingPodOperator:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "snapshot": snapshot,
        "profile": "quick",
        "poll_interval": 10,
        "retries": 3,
        "retry_delay": timedelta(seconds=30),
    }
    dag = DAG("train_flight_delays", schedule=None, start_date=datetime(2013, 1, 1, tzinfo=UTC))
    return GpuTrainingPodOperator(task_id="train", dag=dag, **{**arguments, **others})


@pytest.fixture(autouse=True)
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a profile for these tests."""
    gpu = read_profiles().profiles["gpu"].model_dump(mode="json", exclude_none=True)
    quick = gpu | {"namespace": "ml", "image": "trainer:1", "env_secret": SECRET, "pending_s": 300}
    held = {"schema_version": 1, "default": "quick", "default_without_gpu": "quick"}
    large = quick | {"num_gpus": 64}
    path = tmp_path / "profiles.yaml"
    path.write_text(json.dumps(held | {"profiles": {"quick": quick, "large": large, "two": quick | {"num_pods": 2}}}))
    monkeypatch.setenv(PROFILES_VARIABLE, str(path))
    monkeypatch.setenv(VARIABLE, COMMIT)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(folder=tmp_path / "lake", make_operator=lambda job: operator(snapshot_of(job))) as found:
        yield found


def after(world: World, seconds: float, do: Any) -> None:
    world.cluster.store.agenda.after(seconds, do)


def name_of(world: World) -> str:
    (pod,) = world.cluster.pods
    return str(pod["metadata"]["name"])


def created(world: World) -> int:
    return sum(call == ("POST", f"{PODS}?fieldManager=tradewind") for call in world.cluster.calls)


def log(world: World) -> str:
    return "\n".join(world.events)


# --- the manifest -----------------------------------------------------------------------------------------------------


def sent(world: World) -> dict[str, Any]:
    """Return the pod as the server got it."""
    assert world.run() == "success"
    (pod,) = world.cluster.pods
    return dict(ApiClient().sanitize_for_serialization(pod))


def test_the_pod_is_what_its_profile_says_and_valid_kubernetes(world: World) -> None:
    pod = sent(world)
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    metadata = {key: pod["metadata"][key] for key in ("name", "namespace", "labels")}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    for version in ("1.30", "1.33", "1.37"):
        kubernetes_validate.validate(manifest, version, strict=True)
    (container,) = spec["containers"]
    assert container["name"] == "base"
    assert container["args"] == ["python", "-m", "include.training", "--job", world.job.uri]
    assert container["envFrom"] == [{"secretRef": {"name": SECRET}}]
    assert {entry["name"] for entry in container["env"]} == {"TRADEWIND_GPUS", "TRADEWIND_PRICE_PER_HOUR"}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == load_spec(MODEL).training.timeout_s
    labels = metadata["labels"]
    assert labels["tradewind/job"] == world.job.key
    assert labels["tradewind/task"] == "train"
    assert labels["app.kubernetes.io/managed-by"] == "tradewind"


def test_what_no_profile_says_an_author_may_pass(world: World) -> None:
    world.make_operator = lambda job: operator(
        snapshot_of(job),
        launcher="torchrun",
        env_vars={"NCCL_DEBUG": "INFO"},
        labels={"team": "a", "tradewind/job": "another"},
        annotations={"cost": "1", "tradewind/dag-id": "another"},
        volumes=[k8s.V1Volume(name="cache", empty_dir={})],
        volume_mounts=[k8s.V1VolumeMount(name="cache", mount_path="/cache")],
        image_pull_policy="Always",
    )
    pod = sent(world)
    (container,) = pod["spec"]["containers"]
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
    assert container["args"][:4] == ["torchrun", "--shutdown-timeout=60", "--nproc-per-node=1", "--standalone"]
    assert container["imagePullPolicy"] == "Always"
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["dshm", "cache"]
    labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    assert (labels["team"], labels["tradewind/job"]) == ("a", world.job.key)
    assert (annotations["cost"], annotations["tradewind/dag-id"]) == ("1", "train_flight_delays")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("image", "mine:2", "set image of the profile for image"),
        ("namespace", "team-a", "set namespace of the profile for namespace"),
        ("termination_grace_period", 600, "set grace_s of the profile for termination_grace_period"),
        ("active_deadline_seconds", 60, "set deadline_s of the profile for active_deadline_seconds"),
        ("priority_class_name", "high", "set priority_class of the profile for priority_class_name"),
        ("schedule_timeout_seconds", 60, "set pending_s of the profile for schedule_timeout_seconds"),
        ("startup_timeout_seconds", 60, "set pending_s of the profile for startup_timeout_seconds"),
        ("on_finish_action", "delete_pod", "leave on_finish_action out"),
        ("durable", False, "leave durable out"),
        ("do_xcom_push", False, "leave do_xcom_push out"),
    ],
)
def test_what_would_do_nothing_or_what_a_profile_says_is_refused_by_name(name: str, value: object, remedy: str) -> None:
    with pytest.raises(BadInputError, match=f"got {name}. No task was made. Instead, {remedy}") as raised:
        operator({}, **{name: value})
    assert "may have of KubernetesPodOperator's arguments annotations, env_vars," in str(raised.value)


def test_the_arguments_of_other_pods_in_the_same_dag_do_not_reach_it() -> None:
    others = {"namespace": "etl", "termination_grace_period": 600, "kubernetes_conn_id": "of_all", "poll_interval": 7}
    start = datetime(2013, 1, 1, tzinfo=UTC)
    with DAG("train_flight_delays", schedule=None, start_date=start, default_args=others):
        task = GpuTrainingPodOperator(task_id="train", model=MODEL, snapshot={})
    assert (task.namespace, task.termination_grace_period) == (None, None)
    assert (task.kubernetes_conn_id, task.poll_interval) == ("of_all", 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"termination_grace_period_seconds": 600}, "terminationGracePeriodSeconds of a training's pod must be the"),
        ({"active_deadline_seconds": None}, "activeDeadlineSeconds of a training's pod must be the profile's 3600"),
    ],
)
def test_a_hook_of_the_site_must_leave_what_is_waited_by(
    world: World, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    def hook(built: k8s.V1Pod) -> None:
        for name, value in change.items():
            setattr(built.spec, name, value)

    monkeypatch.setattr("airflow.providers.cncf.kubernetes.operators.pod.pod_mutation_hook", hook)
    assert world.run() == "failed"
    assert said in world.airflow.errors[0]
    assert (world.airflow.num_tries, created(world)) == (1, 0)


def test_gpus_that_would_idle_are_not_taken(world: World) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), profile="large")
    assert world.run() == "failed"
    assert "must have a profile with num_gpus: 1 at most; got 64, of which all but" in world.airflow.errors[0]
    assert (world.airflow.num_tries, created(world)) == (1, 0)


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.37"])
@pytest.mark.parametrize("name", SHIPPED)
def test_each_profile_makes_a_valid_pod(name: str, version: str) -> None:
    training = RemoteTraining(name="train-a", labels={}, profile=SHIPPED[name], job_uri="s3://a", deadline_s=60)
    task = operator({}, launcher="torchrun")
    task.pod_template_dict, task.do_xcom_push = pod_manifest(training, command=torchrun_command(training)), False
    built = ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))
    kubernetes_validate.validate(built, version, strict=True)


# --- success ----------------------------------------------------------------------------------------------------------


def test_it_trains_and_passes_on_the_log_line_by_line_once(world: World) -> None:
    assert world.run() == "success"
    assert (world.airflow.num_tries, created(world)) == (1, 1)
    lines = [event for event in world.events if "of 600 s are done" in event]
    assert [int(line.split(" of ")[0].split()[-1]) for line in lines] == list(range(60, 601, 60))
    assert "it waits to run" not in log(world).split("it runs")[1]
    assert world.cluster.pods[0]["status"]["phase"] == "Succeeded"  # kept, for whoever wants to look
    xcoms = world.airflow.supervisor.xcoms
    (returned,) = [value for key, value in xcoms.items() if key[3] == "return_value"]
    assert returned["job_key"] == world.job.key


def test_a_line_is_logged_once_when_the_triggerer_dies_and_the_stream_breaks_off(world: World) -> None:
    world.cluster.faults += [Fault(kind="cut", path="/log$", num_bytes=90, skip=20, times=2)]
    world.airflow.fates.append(Fate(stage="watch", at_boundary=150))
    assert world.run() == "success"
    assert world.airflow.fates[0].happened
    assert world.airflow.num_tries == 1
    for done in range(60, 601, 60):
        assert sum(event.endswith(f" {done} of 600 s are done") for event in world.events) == 1


def test_a_cleared_task_returns_the_kept_result_and_another_job_is_trained(world: World) -> None:
    assert world.run() == "success"
    world.airflow.state = "queued"
    assert world.run() == "success"
    assert created(world) == 1
    world.airflow.state = "queued"
    world.make_operator = lambda job: operator(snapshot_of(job), overrides='{"seed": 7}')
    assert world.run() == "success"
    assert created(world) == 2
    assert name_of(world)  # one at a time, under one name
    assert world.num_duplicates == 0


# --- what machines do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["evict", "preempt", "press", "remove", "lose_node"])
def test_machines_that_fail_use_up_no_retry(world: World, how: str) -> None:
    def strike() -> None:
        if how == "lose_node":
            world.cluster.nodes.lose(world.cluster.pods[0]["spec"]["nodeName"])
        else:
            getattr(world.cluster, how)(name_of(world))

    world.trainer.work_s = 1500
    after(world, 200, strike)
    assert world.run() == "success"
    assert (world.airflow.num_tries, world.num_duplicates) == (1, 0)
    assert created(world) == 2
    assert max(world.trainer.lost_s, default=0) <= world.trainer.checkpoint_s
    kinds = {"remove": "vanished", "lose_node": "node_lost"}
    assert f"got {kinds.get(how, 'preempted')}: " in log(world)
    assert "uses up no retry (1 of 5 interruptions)" in log(world)


def test_an_api_that_is_silent_for_long_ends_nothing(world: World) -> None:
    world.trainer.work_s = 2000
    after(world, 200, lambda: world.cluster.faults.append(Fault(code=503, times=None)))
    after(world, 1000, world.cluster.faults.clear)
    assert world.run() == "success"
    assert (world.airflow.num_tries, len(world.trainer.runs)) == (1, 1)
    assert "got api_unreachable: Kubernetes' API did not answer, so it may still run" in log(world)
    assert "interruptions" not in log(world)


def test_an_api_that_is_silent_for_ever_is_told(world: World) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), retries=0)
    world.cluster.faults.append(Fault(kind="reset", times=None))
    assert world.run() == "failed"
    (error,) = world.airflow.errors
    assert error.startswith("TrainingError: training job ")
    assert "The next try, if the task has one left, looks for it first and goes on with it" in error
    assert 300 <= world.airflow.ended_at_s <= 600


def test_a_plugin_that_gives_no_token_for_a_while_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), retries=0)
    before = AsyncKubernetesHook.get_conn

    def get_conn(hook: AsyncKubernetesHook) -> Any:
        if 200 <= world.simulation.elapsed_s < 400:
            raise ConfigException("exec: process returned 255. STS: throttled")
        return before(hook)

    monkeypatch.setattr(AsyncKubernetesHook, "get_conn", get_conn)
    assert world.run() == "success"
    assert (world.airflow.num_tries, created(world), len(world.trainer.runs)) == (1, 1, 1)
    assert "got ConfigException: exec: process returned 255. STS: throttled" in log(world)


def test_a_worker_without_a_token_ends_nothing(world: World) -> None:
    says = 'pods is forbidden: User "system:anonymous" cannot list resource "pods"'
    world.cluster.faults.append(Fault(verb="GET", path="/pods$", code=403, says=says, times=6))
    assert world.run() == "success"
    assert (world.airflow.num_tries, created(world)) == (1, 1)


def test_a_trigger_that_breaks_uses_up_no_retry_and_the_pod_is_gone_on_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), retries=0)
    before = RemoteTrainingTrigger._look

    async def look(trigger: RemoteTrainingTrigger) -> Any:
        if world.trainer.runs and world.airflow.num_tries == 1:
            raise RuntimeError("broken")
        return await before(trigger)

    monkeypatch.setattr(RemoteTrainingTrigger, "_look", look)
    assert world.run() == "success"
    assert (world.airflow.num_tries, created(world), len(world.trainer.runs)) == (2, 1, 1)


def test_an_api_that_takes_its_time_is_waited_for_by_the_clock(world: World) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), retries=0)
    world.cluster.faults.append(Fault(code=503, retry_after_s=15, times=None))
    assert world.run() == "failed"
    assert "got api_unreachable" in world.airflow.errors[0]
    # The client waits too, so that each round of calls takes minutes.
    assert log(world).count("It is tried again in 30 s, for 300 s in all") == 2


def test_interruptions_have_a_limit_and_a_back_off_of_their_own(world: World) -> None:
    world.trainer.began = lambda run: after(world, 20, lambda: world.cluster.remove(run.pod))
    world.make_operator = lambda job: operator(snapshot_of(job), retries=0)
    assert world.run() == "failed"
    assert created(world) == 6
    (error,) = world.airflow.errors
    assert "got vanished: it was deleted from outside" in error
    assert "interruption 6 without a new checkpoint, of 5 that are allowed" in error
    waits = [int(line.split(" follows in ")[1].split(" ")[0]) for line in world.events if " follows in " in line]
    assert waits == [10, 20, 40, 80, 160]


@pytest.mark.parametrize(
    ("flaw", "kind"), [("user_error", "user_error"), ("bad_data", "bad_data"), ("out_of_memory", "out_of_memory")]
)
def test_what_a_person_must_mend_is_not_tried_again(world: World, flaw: Any, kind: str) -> None:
    world.trainer.flaw = flaw
    if flaw == "out_of_memory":
        world.trainer.began = lambda run: after(world, 100, lambda: world.cluster.out_of_memory(run.pod))
    spent = Spent(num_starts=2, wall_s=7200, gpu_s=14400, cost=3.6)
    write_bytes(f"{world.job.output_uri}/{SPENT_FILE}", spent.model_dump_json().encode(), storage=world.storage)
    assert world.run() == "failed"
    assert (world.airflow.num_tries, created(world)) == (1, 1)
    (error,) = world.airflow.errors
    assert f"training job {world.job.key} must leave a whole result; got {kind}: " in error
    assert f". {spent.words} No retry follows." in error


def test_a_message_holds_neither_the_environment_nor_a_manifest(world: World) -> None:
    world.trainer.flaw = "user_error"
    assert world.run() == "failed"
    for secret in (SECRET, "envFrom", "containers", "token-of-the-tests"):
        assert secret not in "\n".join(world.airflow.errors) + log(world)


# --- pending ----------------------------------------------------------------------------------------------------------


def test_a_pod_that_no_node_takes_says_why_and_is_given_up(world: World) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), profile="large", launcher="torchrun")
    said_at: list[float] = []
    world.cluster.store.observers.append(
        lambda _change: said_at.append(world.simulation.elapsed_s) if "it waits to run" in log(world) else None
    )
    assert world.run() == "failed"
    assert "it waits to run: Unschedulable: 0/" in log(world)
    assert "Insufficient nvidia.com/gpu" in log(world)
    (error,) = world.airflow.errors
    assert error.startswith("SetupError: ")
    assert "got unschedulable: no node takes it (not running after 3" in error
    assert "2 of 3 nodes: nvidia.com/gpu: asked for 64, has 8" in error
    assert world.airflow.num_tries == 1
    assert 300 <= world.airflow.ended_at_s <= 330
    assert said_at
    assert said_at[0] <= 60
    assert world.cluster.pods == []


def test_what_was_said_of_an_earlier_pod_is_not_said_of_this_one(world: World) -> None:
    world.kubelets.pull_s = 200.0
    world.trainer.work_s = 1500
    full = "0/3 nodes are available"
    after(world, 0.1, lambda: world.kubelets.event(world.kubelets.find(name_of(world)), "Warning", "FailedMount", full))
    after(world, 250, lambda: world.cluster.remove(name_of(world)))
    assert world.run() == "success"
    before, _, afterwards = log(world).partition("it was deleted from outside")
    assert f"it waits to run: FailedMount: {full}" in before
    assert "it waits to run: its node has not started it yet" in afterwards
    assert full not in afterwards


def test_a_missing_image_is_named(world: World) -> None:
    world.kubelets.missing_images.add("trainer:1")
    assert world.run() == "failed"
    (error,) = world.airflow.errors
    assert "got image: the container cannot be started from its image" in error
    assert "trainer:1" in error


def test_a_quota_is_waited_for_as_long_as_the_profile_says(world: World) -> None:
    refusal = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 8, limited: 8"
    world.cluster.quota = lambda _pod: refusal if world.simulation.elapsed_s < 100 else ""
    assert world.run() == "success"
    assert f'it waits to run: pods "{name_of(world)}" is forbidden: {refusal}' in log(world)
    assert world.airflow.num_tries == 1


def test_a_quota_that_stays_used_up_is_told(world: World) -> None:
    world.cluster.quota = lambda _pod: "exceeded quota: gpus"
    assert world.run() == "failed"
    (error,) = world.airflow.errors
    assert error.startswith("SetupError: ")
    assert "got quota: a quota leaves no room for it (pods " in error


def test_a_quota_that_wants_what_no_profile_says_is_not_waited_for(world: World) -> None:
    world.cluster.quota = lambda _pod: "failed quota: compute: must specify limits.ephemeral-storage"
    assert world.run() == "failed"
    assert "RefusedError: POST " in world.airflow.errors[0]
    assert (world.airflow.num_tries, world.airflow.ended_at_s < 60) == (1, True)


# --- processes of Airflow that die ------------------------------------------------------------------------------------


def test_a_pod_that_finished_unwatched_is_found_and_not_run_again(world: World) -> None:
    world.airflow.triggerer_delay_s = 3600
    world.airflow.fates += [Fate(stage="watch", at_boundary=30)]
    assert world.run() == "success"
    assert (created(world), len(world.trainer.runs)) == (1, 1)


def test_a_result_counts_although_the_code_changed_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    after(world, 30, lambda: monkeypatch.setenv(VARIABLE, "f" * 40))
    assert world.run() == "success"
    assert created(world) == 1


@pytest.mark.parametrize("what", ["profile", "profiles", "model"])
@pytest.mark.parametrize("how", ["ends", "lost"])
def test_a_result_counts_although_its_profile_or_model_cannot_be_used_any_more(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, how: str
) -> None:
    def spoil() -> None:
        if what == "model":
            monkeypatch.setattr(remote_work, "load_spec", lambda _name: load_spec("flight_delay"))
            return
        path = tmp_path / "profiles.yaml"
        path.write_text(path.read_text().replace('"quick"', '"fast"') if what == "profile" else "profiles: [")
        os.utime(path, ns=(1, 1))

    after(world, 100, spoil)
    if how == "lost":
        world.trainer.finished = lambda run: after(world, 1, lambda: world.cluster.remove(run.pod))
    assert world.run() == "success"
    assert (world.airflow.num_tries, created(world), len(world.trainer.runs)) == (1, 1, 1)


def test_a_result_that_comes_while_its_profile_is_gone_counts_after_a_pause(world: World, tmp_path: Path) -> None:
    def rename() -> None:
        path = tmp_path / "profiles.yaml"
        path.write_text(path.read_text().replace('"quick"', '"fast"'))
        os.utime(path, ns=(1, 1))

    world.trainer.work_s = 705
    after(world, 100, rename)
    after(world, 100, lambda: world.cluster.faults.append(Fault(code=503, times=None)))
    after(world, 725, world.cluster.faults.clear)
    assert world.run() == "success"
    assert "got api_unreachable" in log(world)
    assert (world.airflow.num_tries, len(world.trainer.runs)) == (1, 1)
    assert world.airflow.ended_at_s > 725


def test_a_training_that_is_interrupted_while_its_profile_is_gone_says_both(world: World, tmp_path: Path) -> None:
    def rename() -> None:
        path = tmp_path / "profiles.yaml"
        path.write_text(path.read_text().replace('"quick"', '"fast"'))
        os.utime(path, ns=(1, 1))
        world.cluster.press(name_of(world))

    after(world, 100, rename)
    assert world.run() == "failed"
    assert (world.airflow.num_tries, created(world), world.num_left) == (1, 1, 0)
    (error,) = world.airflow.errors
    assert error.startswith("SetupError: profile 'quick' must be in profiles.yaml; allowed: fast, large, two.")
    assert "got preempted: " in log(world)
    assert "No other start follows: its profile cannot be used any more." in log(world)


def test_a_worker_that_dies_after_creating_the_pod_leaves_it_to_the_next_try(world: World) -> None:
    world.airflow.fates += [Fate(stage="first", at_boundary=36)]
    assert world.run() == "success"
    assert world.airflow.fates[0].happened
    assert world.num_duplicates == 0
    assert len(world.trainer.runs) == 1


@pytest.mark.parametrize("fate", [Fate(stage="watch", at_boundary=60), Fate(stage="first", at_boundary=36)])
def test_a_person_who_fails_the_task_ends_the_pod_wherever_the_task_is(world: World, fate: Fate) -> None:
    world.airflow.fates.append(replace(fate, by="fail"))
    assert world.run() == "failed"
    assert world.airflow.fates[0].happened
    assert created(world) == 1
    assert world.cluster.live_pods == []
    assert ("interrupted; a checkpoint is saved" in log(world)) == (fate.stage == "watch")


def test_a_profile_that_went_while_the_pod_runs_is_told_without_a_lie(world: World, tmp_path: Path) -> None:
    def rename() -> None:
        path = tmp_path / "profiles.yaml"
        path.write_text(path.read_text().replace('"quick"', '"fast"'))
        os.utime(path, ns=(1, 1))

    world.airflow.fates.append(Fate(stage="first", at_boundary=36, struck=rename))
    assert world.run() == "failed"
    assert (len(world.trainer.runs), world.num_left) == (1, 1)
    assert "profile 'quick' must be in profiles.yaml" in world.airflow.errors[-1]
    assert "Nothing new was started." in world.airflow.errors[-1]


def test_a_worker_that_is_told_to_stop_loses_no_work_and_leaves_nothing(world: World) -> None:
    world.airflow.fates.append(Fate(stage="first", at_boundary=36, by="stop"))
    assert world.run() == "success"
    assert world.airflow.fates[0].happened
    assert (world.num_duplicates, world.cluster.live_pods) == (0, [])


@pytest.mark.parametrize(("retries", "state", "num_tries"), [(1, "success", 5), (0, "failed", 4)])
def test_killed_workers_leave_the_retries_to_failures_of_the_task_itself(
    world: World, retries: int, state: str, num_tries: int
) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), retries=retries)
    world.airflow.fates += [Fate(stage="first", at_boundary=at) for at in (3, 12, 36)]

    def overdue(run: Any) -> None:
        if len(world.trainer.runs) == 1:  # what only the task's author can judge
            world.kubelets.fail(world.kubelets.find(run.pod), "DeadlineExceeded", "too long")

    world.trainer.began = lambda run: after(world, 100, lambda: overdue(run))

    assert world.run() == state
    assert all(fate.happened for fate in world.airflow.fates)
    assert world.airflow.num_tries == num_tries
    (kept,) = world.airflow.supervisor.task_state.values()
    assert kept["tradewind_failures"] == {"max_tries": retries + NUM_MACHINE_TRIES, "tries": [4]}


# --- what a site puts into pods ---------------------------------------------------------------------------------------


@pytest.fixture
def proxied(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Put a proxy before the trainer in each pod, which ends only when it is told to, and with another exit code."""

    def hook(built: k8s.V1Pod) -> None:
        built.spec.containers.insert(0, k8s.V1Container(name="istio-proxy", image="proxy:1"))

    monkeypatch.setattr("airflow.providers.cncf.kubernetes.operators.pod.pod_mutation_hook", hook)
    world.kubelets.program = lambda pod, container: (
        world.trainer(pod, container) if container["name"] == "base" else sleep_and_exit(1e6)(pod, container)
    )
    return world


def test_a_training_has_ended_when_its_trainer_has_whatever_goes_on_beside_it(proxied: World) -> None:
    assert proxied.run() == "success"
    assert proxied.airflow.ended_at_s < 700
    assert (proxied.airflow.num_tries, created(proxied), proxied.cluster.pods) == (1, 1, [])
    assert "done" in log(proxied)


@pytest.mark.parametrize(("flaw", "kind"), [("bad_data", "bad_data"), ("no_result", "no_result")])
def test_how_it_ended_is_said_by_the_trainers_own_exit_code(proxied: World, flaw: Any, kind: str) -> None:
    proxied.trainer.flaw = flaw
    assert proxied.run() == "failed"
    assert f"got {kind}: " in proxied.airflow.errors[0]
    assert (proxied.airflow.num_tries, created(proxied), proxied.num_left) == (1, 1 if kind == "bad_data" else 2, 0)


def test_machines_that_take_it_away_use_up_no_retry_either(proxied: World) -> None:
    after(proxied, 200, lambda: proxied.cluster.evict(name_of(proxied)))
    assert proxied.run() == "success"
    assert (proxied.airflow.num_tries, created(proxied), proxied.trainer.num_overlaps) == (1, 2, 0)


# --- one truth --------------------------------------------------------------------------------------------------------


def test_a_whole_result_counts_although_its_pod_vanished(world: World) -> None:
    def vanish() -> None:
        if world.has_result:
            world.cluster.remove(name_of(world))
        else:
            after(world, 1, vanish)

    after(world, 500, vanish)
    assert world.run() == "success"
    assert world.cluster.pods == []
    assert created(world) == 1


def test_the_last_words_of_a_pod_that_vanished_are_in_the_log(world: World) -> None:
    world.trainer.finished = lambda run: after(world, 1, lambda: world.cluster.remove(run.pod))
    assert world.run() == "success"
    assert world.cluster.pods == []
    assert [sum(event.endswith(line) for event in world.events) for line in world.trainer.lines] == [1] * len(
        world.trainer.lines
    )


def test_an_exit_code_of_0_without_a_result_is_no_success(world: World) -> None:
    world.kubelets.program = sleep_and_exit()
    assert world.run() == "failed"
    (error,) = world.airflow.errors
    assert "got no_result: it ended well by its own word, and left no whole result (exit code 0 without" in error
    assert "That was the second time in a row, so no retry follows." in error
    assert (world.airflow.num_tries, created(world)) == (1, 2)


def test_a_result_that_its_storage_shows_late_is_found_without_another_run(world: World) -> None:
    world.trainer.flaw = "no_result"
    took_s = 5 + world.trainer.work_s + 5
    late = lambda: write_result(world.job, _result(world.job), contents={}, storage=world.storage)  # noqa: E731
    world.trainer.began = lambda _run: after(world, took_s + 12, late)
    assert world.run() == "success"
    assert (world.airflow.num_tries, created(world)) == (1, 1)


def test_several_pods_need_another_operator(world: World) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), profile="two")
    assert world.run() == "failed"
    assert "must have a profile with num_pods: 1; got 2" in world.airflow.errors[0]
    assert created(world) == 0


def test_a_profile_that_is_not_there_says_which_are(world: World) -> None:
    world.make_operator = lambda job: operator(snapshot_of(job), profile="quik")
    assert world.run() == "failed"
    assert (
        "profile 'quik' must be in profiles.yaml; allowed: large, quick, two. Did you mean 'quick'?"
        in (world.airflow.errors[0])
    )


def test_no_rights_are_told_and_not_tried_again(world: World) -> None:
    world.cluster.faults.append(Fault(verb="POST", code=403, times=None))
    assert world.run() == "failed"
    assert "RefusedError: POST /api/v1/namespaces/ml/pods must be allowed; got 403" in world.airflow.errors[0]
    assert world.airflow.num_tries == 1


def test_the_log_of_a_pod_that_ended_unwatched_is_passed_on(world: World) -> None:
    world.trainer.work_s = 120
    world.airflow.fates.append(Fate(stage="first", at_boundary=36))
    assert world.run() == "success"
    assert [sum(event.endswith(f" {done} of 120 s are done") for event in world.events) for done in (60, 120)] == [1, 1]
