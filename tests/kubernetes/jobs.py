"""The Job controller of a scripted cluster, as of Kubernetes 1.31.

A pod that is told to end counts as failed at once, and one that is gone too; a Job that fails says so when all of its
pods have ended.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.kubernetes.clock import timestamp
from tests.kubernetes.pods import ENDED, PODS
from tests.kubernetes.store import ApiError, Key, Object

if TYPE_CHECKING:
    from tests.kubernetes.cluster import Cluster
    from tests.kubernetes.store import Change

JOBS = "jobs"
_AGAIN_S = 10.0
INDEX = "batch.kubernetes.io/job-completion-index"


class JobController:
    """Keeps as many pods as each Job wants, and says how they ended."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._counted: set[str] = set()
        self._made: dict[str, set[str]] = defaultdict(set)
        self._done: dict[str, set[int]] = defaultdict(set)

    def on_change(self, change: Change) -> None:
        """Look at a Job again when it or one of its pods has changed."""
        if change.key.kind == JOBS and (change.type == "ADDED" or "suspend" in change.object["spec"]):
            self._later(change.key)
        elif change.key.kind == PODS:
            for owner in change.object["metadata"].get("ownerReferences", ()):
                if owner["kind"] == "Job":
                    self._later(Key("batch/v1", JOBS, change.key.namespace, owner["name"]))

    def _later(self, key: Key) -> None:
        self.cluster.store.agenda.after(0.05, lambda: self._reconcile(key))

    def _reconcile(self, key: Key) -> None:
        job = self.cluster.store.objects.get(key)
        if job is None or _finished(job) or job["spec"].get("suspend"):
            return
        if "startTime" not in job.setdefault("status", {}):
            self._begin(key, job)
        pods = self._pods_of(key, job)
        failed_for_good = self._count(job, pods)
        status, spec = job["status"], job["spec"]
        if _condition(job, "FailureTarget"):
            self._fail(key, job, pods, "")
            return
        done = self._done[job["metadata"]["uid"]]
        live = {_index(pod) for pod in pods if pod["status"]["phase"] not in ENDED}
        wanted, before = spec.get("completions") or spec.get("parallelism", 1), copy.deepcopy(status)
        status.update(active=len(live), succeeded=len(done), ready=len(live))
        if failed_for_good or status.get("failed", 0) > spec.get("backoffLimit", 6):
            self._fail(key, job, pods, failed_for_good or "BackoffLimitExceeded")
        elif len(done) >= wanted:
            self._finish(key, job, "Complete", "CompletionsReached")
        else:
            self._create_missing(key, job, done | live, num_live=len(live))
            if status != before:
                self.cluster.store.changed(key)

    def _pods_of(self, key: Key, job: Object) -> list[Object]:
        return [
            pod
            for pod in self.cluster.store.select(Key("v1", PODS, key.namespace, ""))
            if job["metadata"]["uid"] in [owner["uid"] for owner in pod["metadata"].get("ownerReferences", ())]
        ]

    def _begin(self, key: Key, job: Object) -> None:
        job["status"]["startTime"] = timestamp(self.cluster.store.agenda.at)
        if "activeDeadlineSeconds" in job["spec"]:
            uid = job["metadata"]["uid"]

            def too_late() -> None:
                found = self.cluster.store.objects.get(key)
                if found is not None and found["metadata"]["uid"] == uid and not _finished(found):
                    self._fail(key, found, self._pods_of(key, found), "DeadlineExceeded")

            self.cluster.store.agenda.after(job["spec"]["activeDeadlineSeconds"], too_late)

    def _count(self, job: Object, pods: list[Object]) -> str:
        """Count new failures by the Job's policy; return why the whole Job fails, if it does."""
        status = job["status"]
        for pod in pods:
            uid, phase = pod["metadata"]["uid"], pod["status"]["phase"]
            if phase == "Succeeded":
                self._counted.add(uid)
                self._done[job["metadata"]["uid"]].add(_index(pod))
            has_failed = phase == "Failed" or (phase != "Succeeded" and "deletionTimestamp" in pod["metadata"])
            if uid in self._counted or not has_failed:
                continue
            self._counted.add(uid)
            action = _action(job["spec"].get("podFailurePolicy") or {}, pod)
            if action == "FailJob":
                return "PodFailurePolicy"
            if action != "Ignore":
                status["failed"] = status.get("failed", 0) + 1
        here = {pod["metadata"]["uid"] for pod in pods}
        gone = self._made[job["metadata"]["uid"]] - here - self._counted
        self._counted |= gone
        if gone:
            status["failed"] = status.get("failed", 0) + len(gone)
        return ""

    def _create_missing(self, key: Key, job: Object, there: set[int], *, num_live: int) -> None:
        if "deletionTimestamp" in job["metadata"]:
            return
        spec = job["spec"]
        wanted = spec.get("completions") or spec.get("parallelism", 1)
        for index in [n for n in range(wanted) if n not in there][: spec.get("parallelism", 1) - num_live]:
            self._create_pod(key, job, index)

    def _create_pod(self, key: Key, job: Object, index: int) -> None:
        template = copy.deepcopy(job["spec"]["template"])
        meta = template.setdefault("metadata", {})
        number = self.cluster.store.version
        meta["labels"] = {**(meta.get("labels") or {}), "job-name": key.name, "batch.kubernetes.io/job-name": key.name}
        if job["spec"].get("completionMode") == "Indexed":
            meta["labels"][INDEX] = str(index)
            meta["annotations"] = {**(meta.get("annotations") or {}), INDEX: str(index)}
            template["spec"].setdefault("hostname", f"{key.name}-{index}")
            for container in template["spec"]["containers"]:
                given = container.get("env") or []
                container["env"] = [*given, {"name": "JOB_COMPLETION_INDEX", "value": str(index)}]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": key.name, "uid": job["metadata"]["uid"]}
        meta["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": True}]
        meta["name"] = f"{key.name}-{index}-{number:x}"
        try:
            made = self.cluster.create(Key("v1", PODS, key.namespace, meta["name"]), template)
        except ApiError as error:
            self.cluster.kubelets.event(key, "Warning", "FailedCreate", f"Error creating: {error}")
            self.cluster.store.agenda.after(_AGAIN_S, lambda: self._reconcile(key))
            return
        self._made[job["metadata"]["uid"]].add(made["metadata"]["uid"])

    def _fail(self, key: Key, job: Object, pods: list[Object], reason: str) -> None:
        """End the other pods, and say that the Job has failed when all have ended."""
        target = _condition(job, "FailureTarget")
        if target is None:
            at = timestamp(self.cluster.store.agenda.at)
            target = {"type": "FailureTarget", "status": "True", "reason": reason, "lastTransitionTime": at}
            job["status"].setdefault("conditions", []).append(target)
            self.cluster.store.changed(key)
        live = [pod for pod in pods if pod["status"]["phase"] not in ENDED]
        if not live:
            self._finish(key, job, "Failed", target["reason"])
        for pod in live:
            if "deletionTimestamp" not in pod["metadata"]:
                self.cluster.kubelets.delete(Key("v1", PODS, key.namespace, pod["metadata"]["name"]))

    def _finish(self, key: Key, job: Object, kind: str, reason: str) -> None:
        at = timestamp(self.cluster.store.agenda.at)
        condition = {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": at}
        job["status"].setdefault("conditions", []).append(condition)
        job["status"]["active"] = 0
        if kind == "Complete":
            job["status"]["completionTime"] = at
        for each in self.cluster.store.owned(job["metadata"]["uid"]):
            if each.kind == PODS and self.cluster.store.objects[each]["status"]["phase"] not in ENDED:
                self.cluster.kubelets.delete(each)
        self.cluster.store.changed(key)
        ttl_s = job["spec"].get("ttlSecondsAfterFinished")
        if ttl_s is not None:
            self.cluster.store.agenda.after(ttl_s, lambda: self._expire(key))

    def _expire(self, key: Key) -> None:
        if key in self.cluster.store.objects:
            self.cluster.delete(key, {})


def _condition(job: Object, *kinds: str) -> Object | None:
    return next((each for each in job.get("status", {}).get("conditions", ()) if each["type"] in kinds), None)


def _finished(job: Object) -> bool:
    return _condition(job, "Complete", "Failed") is not None


def _index(pod: Object) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(INDEX, pod["metadata"]["name"].split("-")[-2]))


def _action(policy: dict[str, Any], pod: Object) -> str:
    """Return what a Job's policy says about a failed pod."""
    conditions = {each["type"] for each in pod["status"].get("conditions", ()) if each["status"] == "True"}
    codes = [
        each["state"]["terminated"]["exitCode"]
        for each in pod["status"].get("containerStatuses", ())
        if "terminated" in each["state"]
    ]
    for rule in policy.get("rules") or ():
        if any(each["type"] in conditions for each in rule.get("onPodConditions") or ()):
            return str(rule["action"])
        on_codes = rule.get("onExitCodes")
        if on_codes and any((code in on_codes["values"]) is (on_codes["operator"] == "In") and code for code in codes):
            return str(rule["action"])
    return "Count"
