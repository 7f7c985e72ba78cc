"""What Kubernetes is asked for, held against its published schemas and against the fields of a TrainJob."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from include.errors import SetupError
from include.training.manifests import (
    QUEUE_LABEL,
    RemoteTraining,
    indexed_job,
    pod,
    service,
    torchrun_command,
    train_job,
)
from include.training.profiles import Profile, read_profiles
from include.training.remote_names import TaskKey, remote_labels, remote_name

VERSIONS = ("1.30", "1.33", "1.37")
TRAIN_JOB = json.loads(Path(__file__).with_name("trainjob.schema.json").read_text())
KEY = TaskKey(dag_id="train_flight_delays", run_id="manual__2013-04-01T00:00:00+00:00", task_id="train")
PROFILES = read_profiles().profiles
FULL = Profile.model_validate(
    PROFILES["gpu_2x4"].model_dump()
    | {
        "disk": "100Gi",
        "gpu_kind": "NVIDIA-H100-80GB-HBM3",
        "service_account": "trainer",
        "env_secret": "tradewind-lake",
        "image_pull_secret": "registry",
        "queue": "ml",
        "security": {"run_as_user": 1000, "run_as_group": 1000, "fs_group": 1000, "read_only_root": True},
        "node_affinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}
            ]
        },
    }
)
ALL = PROFILES | {"full": FULL}
TOLD = [{"name": "TRADEWIND_GPUS", "value": "4"}, {"name": "TRADEWIND_PRICE_PER_HOUR", "value": "20"}]
"""What a pod of FULL says about itself to the trainer: GPUs of one pod, price of both."""


def training(profile: Profile) -> RemoteTraining:
    return RemoteTraining(
        name=remote_name("flight_delays", KEY, lake="s3://lake"),
        labels=remote_labels("flight_delays", KEY, job_key="2013-03-abc", lake="s3://lake"),
        profile=profile,
        job_uri="s3://lake/jobs/flight_delays/2013-03-abc/job.json",
        deadline_s=3600,
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_manifests_are_valid_kubernetes(name: str, version: str) -> None:
    subject = training(ALL[name])
    for manifest in (pod(subject), indexed_job(subject), service(subject)):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", ALL)
def test_a_train_job_has_only_fields_that_its_api_knows(name: str) -> None:
    manifest = train_job(training(ALL[name]))
    jsonschema.validate(manifest, TRAIN_JOB)
    assert manifest["spec"]["trainer"]["command"][:4] == ["tini", "--", "torchrun", "--shutdown-timeout=60"]
    (patch,) = manifest["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    patched = job["template"]["spec"]["template"]["spec"]
    whole = pod(training(ALL[name]))["spec"]
    (container,) = patched["containers"]
    shared = {key: value for key, value in patched.items() if key not in ("containers", "volumes")}
    assert shared == {key: whole[key] for key in shared}
    for has, got in (
        (whole["volumes"], patched["volumes"]),
        (whole["containers"][0]["volumeMounts"], container["volumeMounts"]),
    ):
        assert got[: len(has)] == has
        added = [] if ALL[name].service_account else ["no-token"]
        assert [each["name"] for each in got[len(has) :]] == added
    assert {"/var/run/secrets/kubernetes.io/serviceaccount"} >= {
        each["mountPath"] for each in container["volumeMounts"] if each["name"] == "no-token"
    }
    assert manifest["spec"]["trainer"]["resourcesPerNode"] == whole["containers"][0]["resources"]
    # The parts that stand in it are Kubernetes' own.
    rebuilt = patched | {"containers": [container | {"image": "a:1"}]}
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": rebuilt}
    kubernetes_validate.validate(template, VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"priority_class": "high"},
            "got priority_class: high (leave it out, and set priorityClassName of the pods of",
        ),
        ({"runtime": "torch-distributed"}, "got grace_s: 60 (set 30, which pods of 'torch-distributed' have, or a"),
    ],
)
def test_what_a_train_job_cannot_pass_on_is_refused_by_name(changed: dict[str, str], said: str) -> None:
    with pytest.raises(SetupError, match=re.escape(said)):
        train_job(training(FULL.model_copy(update=changed)))
    short = {"runtime": "torch-distributed", "grace_s": 30}
    assert train_job(training(FULL.model_copy(update=short)))["spec"]["runtimeRef"]["name"] == "torch-distributed"


def test_the_schema_of_a_train_job_refuses_what_the_api_would_not_know() -> None:
    manifest = train_job(training(FULL))
    manifest["spec"]["podTemplateOverrides"] = []
    with pytest.raises(jsonschema.ValidationError, match="podTemplateOverrides"):
        jsonschema.validate(manifest, TRAIN_JOB)


def test_a_pod_has_what_its_profile_says() -> None:
    manifest = pod(training(FULL.model_copy(update={"priority_class": "training"})))
    spec = manifest["spec"]
    (container,) = spec["containers"]
    amounts = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "4"}
    assert container["resources"] == {"requests": amounts, "limits": amounts}
    assert container["envFrom"] == [{"secretRef": {"name": "tradewind-lake"}}]
    assert container["env"] == TOLD
    assert "command" not in container
    assert container["args"] == ["python", "-m", "include.training", "--job", training(FULL).job_uri]
    shared = {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}}
    assert spec["volumes"] == [shared, {"name": "tmp", "emptyDir": {}}]  # the trainer asks for a place to write
    assert container["volumeMounts"] == [
        {"name": "dshm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    assert [found["name"] for found in pod(training(PROFILES["gpu"]))["spec"]["volumes"]] == ["dshm"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("trainer", True)
    assert pod(training(PROFILES["gpu"]))["spec"]["automountServiceAccountToken"] is False
    assert (spec["priorityClassName"], spec["restartPolicy"]) == ("training", "Never")
    assert (spec["activeDeadlineSeconds"], spec["terminationGracePeriodSeconds"]) == (3600, 60)
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert len(spec["affinity"]["nodeAffinity"]) == 2
    assert manifest["metadata"]["labels"][QUEUE_LABEL] == "ml"
    assert QUEUE_LABEL not in pod(training(PROFILES["gpu"]))["metadata"]["labels"]


def test_torchrun_starts_one_process_a_gpu_and_fixes_the_ranks() -> None:
    one = torchrun_command(training(PROFILES["gpu_4"]))
    assert one[:4] == ["torchrun", "--shutdown-timeout=60", "--nproc-per-node=4", "--standalone"]
    assert one[4:] == ["-m", "include.training", "--job", training(FULL).job_uri]
    two = torchrun_command(training(PROFILES["gpu_2x4"]))
    name = training(FULL).name
    assert two[:8] == [
        "torchrun",
        "--shutdown-timeout=60",
        f"--rdzv-conf=timeout={PROFILES['gpu_2x4'].pending_s + 300}",  # who waits in vain is given up by the task first
        "--nproc-per-node=4",
        "--nnodes=2",
        "--node-rank=$(JOB_COMPLETION_INDEX)",
        f"--master-addr={name}-0.{name}",
        "--master-port=29500",
    ]


def test_the_pods_of_a_job_find_each_other_and_end_together() -> None:
    subject = training(PROFILES["gpu_2x4"])
    job, headless = indexed_job(subject), service(subject)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (2, 2, 0)
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["subdomain"] == headless["metadata"]["name"]
    assert headless["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert headless["spec"]["clusterIP"] == "None"
    assert spec["suspend"] is False
    assert indexed_job(training(FULL))["spec"]["suspend"] is True  # Kueue starts it


def test_secrets_are_named_and_never_held() -> None:
    env: list[dict[str, Any]] = train_job(training(FULL))["spec"]["trainer"]["env"]
    named = [entry for entry in env if entry not in TOLD]
    assert {entry["valueFrom"]["secretKeyRef"]["name"] for entry in named} == {"tradewind-lake"}
    assert "AWS_SESSION_TOKEN" in {entry["name"] for entry in named}
    assert train_job(training(PROFILES["gpu_mig"]))["spec"]["trainer"]["env"] == [
        TOLD[0] | {"value": "1"},
        TOLD[1] | {"value": "0.4"},
    ]
