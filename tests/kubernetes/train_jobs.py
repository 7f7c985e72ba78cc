"""Kubeflow Trainer's controller in a scripted cluster: a TrainJob is a Job of its runtime, and says how that ended.

The runtime is that of docs/pages/training.md, with `restartPolicy: Never`, `backoffLimit: 0` and the profile's grace:
what comes next is decided by who made the TrainJob, not by a container that starts again beside its peers.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tests.kubernetes.clock import timestamp
from tests.kubernetes.store import Key, Object

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.kubernetes.cluster import Cluster, Controller

TRAIN_JOBS = "trainjobs"
_LOOK_S = 1.0
_GRACE_S = 60
_ENDS = {"Complete": "JobsCompleted", "Failed": "JobsFailed"}


def train_job_controller(cluster: Cluster) -> Controller:
    """Return what becomes of each new TrainJob; `cluster.controllers["trainjobs"]` takes it."""

    def control(found: Object) -> Generator[float | Object, None, None]:
        meta = found["metadata"]
        key = Key("batch/v1", "jobs", meta["namespace"], f"{meta['name']}-node-0")
        yield _LOOK_S
        cluster.create(key, _job(found))
        yield _says(cluster, "Suspended", "False", "Resumed", [])
        while True:
            yield _LOOK_S
            job = cluster.store.objects.get(key)
            if job is None:
                return
            for each in job.get("status", {}).get("conditions", ()):
                if each["type"] in _ENDS:
                    before = found["status"]["conditions"]
                    yield _says(cluster, each["type"], "True", _ENDS[each["type"]], before, each["reason"])
                    return

    return control


def _says(
    cluster: Cluster, kind: str, status: str, reason: str, before: list[Object], message: str = ""
) -> dict[str, Any]:
    since = timestamp(cluster.store.agenda.at)
    told = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
    return {"status": {"conditions": [*before, told]}}


def _job(found: Object) -> Object:
    """Return the Job that the runtime makes of a TrainJob."""
    meta, trainer = found["metadata"], found["spec"]["trainer"]
    (patch,) = found["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    patched = copy.deepcopy(replicated["template"]["spec"]["template"])
    amounts = trainer["resourcesPerNode"]
    env = [*trainer.get("env", ()), {"name": "PET_NNODES", "value": str(trainer["numNodes"])}]
    (container,) = patched["spec"]["containers"]
    container |= {"image": trainer["image"], "command": trainer["command"], "resources": amounts, "env": env}
    owner = {"apiVersion": found["apiVersion"], "kind": found["kind"], "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{meta['name']}-node-0",
            "labels": replicated["template"].get("metadata", {}).get("labels", {}),
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": trainer["numNodes"],
            "parallelism": trainer["numNodes"],
            "backoffLimit": 0,
            "template": {
                **patched,
                "spec": {**patched["spec"], "restartPolicy": "Never", "terminationGracePeriodSeconds": _GRACE_S},
            },
        },
    }
