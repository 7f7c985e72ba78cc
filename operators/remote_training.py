"""What operators that train on Kubernetes share: one flow from the job to its outcome, whatever object does the work.

    execute: job -> whole result? -> find or create the work -> the trigger watches it
    resume:  result and evidence together -> outcome: return, try again after a pause, or raise

The work's name is the task instance's own over all tries, so Kubernetes itself refuses a second one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, TaskDeferred

from include.errors import ServiceError, TradewindError
from include.spec import load_spec
from include.training.failures import Evidence, Failure, FailureKind, decide_outcome
from include.training.interruptions import Interruptions
from include.training.manifests import RemoteTraining, pod_spec
from include.training.profiles import resolve_profile
from include.training.remote_names import remote_annotations, remote_labels, remote_name
from include.training.scheduling import why_no_node
from include.training.sweep import has_ended
from include.training.watch import End, Watch
from operators.hooks.kubernetes_calls import RefusedError, object_path
from operators.hooks.kubernetes_objects import KubernetesObjects
from operators.hooks.lake import LakeHook
from operators.remote_work import SETTLED, Work, folder, is_own, task_key
from operators.retries import MachinesApartMixin
from sensors.triggers.pod_log import Place, Unread
from sensors.triggers.remote_training import PauseTrigger, RemoteTrainingTrigger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context


_STATE_KEY = "tradewind_interruptions"
_PAUSE_S = 30.0


class RemoteTrainingMixin(MachinesApartMixin):
    """The flow; a class that has it says by `manifests` and `watch` which object does the work.

    Whoever mixes it in has the attributes `model`, `snapshot`, `profile`, `overrides`, `lake_conn_id` and
    `kubernetes_conn_id`.
    """

    model: str
    snapshot: Mapping[str, Any]
    profile: str
    overrides: str
    lake_conn_id: str
    kubernetes_conn_id: str
    log: Any
    _owner: str = ""
    _grace_s: int = 60

    def manifests(self, work: Work, context: Context) -> Sequence[dict[str, Any]]:
        """Return the objects to create; the first is the work itself."""
        raise NotImplementedError

    def watch(self, work: Work) -> Watch:
        """Return what is waited for, and for how long."""
        raise NotImplementedError

    @cached_property
    def api(self) -> KubernetesObjects:
        """The API, by the operator's connection."""
        return KubernetesObjects(self.kubernetes_conn_id)

    def begin(self, context: Context) -> dict[str, Any]:
        """Return a kept result, or see to it that the work runs and hand over to the trigger."""
        work = self._work(context)
        outcome = decide_outcome(self._result(work), Evidence())
        if outcome is not None and outcome.succeeded:
            return self._finish(work, context)
        try:
            watch = self._ensure(work, context)
        except RefusedError as error:
            return self._refused(work, context, error)
        except ServiceError as error:
            return self._wait(work, context, Failure(kind=FailureKind.API_UNREACHABLE, evidence=(str(error),)))
        Interruptions.of(work.job.key, context.get("task_state_store"), _STATE_KEY).wait_over()
        raise TaskDeferred(
            trigger=RemoteTrainingTrigger(conn_id=self.kubernetes_conn_id, watch=watch.to_json()),
            method_name="resume",
            kwargs={"owner": watch.owner, "until_gone": watch.until_gone, "job_uri": work.job.uri},
        )

    def resume(
        self, context: Context, event: dict[str, Any], owner: str, *, until_gone: bool, job_uri: str
    ) -> dict[str, Any]:
        """Go on after the trigger: decide by the result and by what was seen; the code may have changed meanwhile."""
        work, end = self._work(context, job_uri=job_uri), End.from_json(event)
        self._owner = owner
        outcome = decide_outcome(self._result(work), end.evidence)
        if outcome is not None and outcome.succeeded:
            if outcome.failure:
                self.log.info("the result is whole; afterwards: %s", "; ".join(outcome.failure.evidence))
            return self._finish(work, context)
        if end.reason == "stuck":
            self._delete(grace_s=0)  # its node cannot say that it ended
        if until_gone and end.reason in ("gone", "stuck"):
            return self.begin(context)
        failure = outcome.failure if outcome else None
        return self._failed(work, context, failure or Failure(kind=FailureKind.UNKNOWN))

    def go_on(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it
        """Begin again after a pause."""
        return self.begin(context)

    def on_kill(self) -> None:
        """Delete the work: its trainer gets SIGTERM and its grace."""
        if self._owner:
            self._delete(grace_s=self._grace_s)

    def _work(self, context: Context, *, job_uri: str = "") -> Work:
        """Return the work of a job that was written before, or of the one that the present code writes."""
        from include.training.job import load_job
        from include.training.submit import submit_job

        spec, storage = load_spec(self.model), LakeHook(self.lake_conn_id).get_conn()
        profile = resolve_profile(spec.training, name=self.profile)
        if job_uri:
            job = load_job(job_uri, storage=storage)
        else:
            job = submit_job(spec=spec, snapshot=self.snapshot, overrides=self.overrides, storage=storage)
        key = task_key(context)
        self._grace_s = profile.grace_s
        training = RemoteTraining(
            name=remote_name(self.model, key),
            labels=remote_labels(self.model, key, job_key=job.key, lake=storage.root),
            profile=profile,
            job_uri=job.uri,
            deadline_s=profile.deadline_s or spec.training.timeout_s,
            annotations=remote_annotations(key),
        )
        return Work(job=job, storage=storage, training=training)

    def _ensure(self, work: Work, context: Context) -> Watch:
        """Find the work or create it; what is left of other work by its name is removed first."""
        watch = self.watch(work)
        path = self._owner = watch.owner
        found = self.api.get(path)
        if found is not None and not is_own(found, work):
            self.log.info("%s is left over, and deleted first", path)
            self.api.delete(path, grace_s=self._grace_s, uid=found["metadata"].get("uid"))
            found = self.api.get(path)
            if found is not None:
                return replace(watch, until_gone=True)
        if found is not None:
            self.log.info("found %s, and go on with it", path)
            return watch
        owner, *rest = self.manifests(work, context)
        created = self.api.create(folder(path), owner)
        self.log.info("%s %s", "created" if created else "found", path)
        for each in rest:
            self._create_owned(each, path)
        return watch

    def _create_owned(self, manifest: dict[str, Any], path: str) -> None:
        """Create what belongs to the work, so that it is deleted with it."""
        owner = self.api.get(path)
        if owner is None:
            return
        reference = {key: owner[key] for key in ("apiVersion", "kind")}
        reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
        metadata = manifest["metadata"] | {"ownerReferences": [reference]}
        plural = f"{manifest['kind'].lower()}s"
        at = object_path(api_version=manifest["apiVersion"], plural=plural, namespace=metadata["namespace"])
        self.api.create(at, manifest | {"metadata": metadata})

    def _result(self, work: Work) -> object | None:
        from include.training.result import read_result

        return read_result(work.job, storage=work.storage)

    def _finish(self, work: Work, context: Context) -> dict[str, Any]:
        """End what still runs, and return what the tasks after this one need."""
        from include.training.submit import finished_job

        Interruptions.forget(context.get("task_state_store"), _STATE_KEY)
        self._end_what_runs(work)
        return finished_job(work.job, storage=work.storage)

    def _end_what_runs(self, work: Work) -> None:
        """Delete work that has not ended; what has ended is kept, for its log, until the janitor comes."""
        try:
            path = self.watch(work).owner
            found = self.api.get(path)
            if found is None:
                return
            self._pass_on_log(work, found)
            if not has_ended(found):
                self.api.delete(path, grace_s=self._grace_s)
        except (TradewindError, AirflowException) as error:
            self.log.warning("%s The janitor deletes what is left.", error)

    def _pass_on_log(self, work: Work, found: Mapping[str, Any]) -> None:
        """Log what the pod has printed and no triggerer has read, as when it ended while nobody looked."""
        watch = self.watch(work)
        if not watch.selector:
            since = Place.noted(found)
            unread = Unread(since)
            for line in self.api.log(watch.owner, **since.query(watch.container)).split("\n"):
                if (said := unread.take(line)) is not None:
                    self.log.info("%s", said)

    def _refused(self, work: Work, context: Context, error: RefusedError) -> dict[str, Any]:
        """Wait while a quota is used up; whatever else is refused needs a person."""
        if not error.is_quota:
            raise error
        self.log.info("it waits to run: %s", error.reason)
        return self._wait(work, context, Failure(kind=FailureKind.QUOTA, evidence=(error.reason,)))

    def _wait(self, work: Work, context: Context, failure: Failure) -> dict[str, Any]:
        """Wait for room or for an answer, as long as the profile lets it wait to run; this is no interruption."""
        counted = Interruptions.of(work.job.key, context.get("task_state_store"), _STATE_KEY)
        waited_s, limit_s = counted.waited_s, work.training.profile.pending_s
        if waited_s >= limit_s:
            counted.reset()
            raise self._error(work, failure)
        counted.wait(_PAUSE_S)
        then = f"It is tried again in {_PAUSE_S:g} s, for {limit_s} s in all, and uses up no retry."
        self.log.warning("%s", self._error(work, failure, next_try=then))
        raise TaskDeferred(trigger=PauseTrigger(wait_s=_PAUSE_S), method_name="go_on")

    def _failed(self, work: Work, context: Context, failure: Failure) -> dict[str, Any]:
        """Try again after a failure of machines, by a count of its own; raise what anything else means."""
        if failure.kind is FailureKind.API_UNREACHABLE:
            return self._wait(work, context, failure)
        self._settle(work)
        if failure.kind is FailureKind.UNSCHEDULABLE:
            failure = replace(failure, evidence=(*failure.evidence, *self._why_no_node(work)))
        if not failure.is_infrastructure:
            raise self._error(work, failure)
        counted = Interruptions.of(work.job.key, context.get("task_state_store"), _STATE_KEY)
        limit = work.training.profile.max_interruptions
        if why := counted.count(failure.kind, limit=limit):
            raise self._error(work, failure, next_try=why)
        number, wait_s = counted.num, counted.back_off_s
        then = f"Start {number + 1} follows in {wait_s:.0f} s and uses up no retry ({number} of {limit} interruptions)."
        self.log.warning("%s", self._error(work, failure, next_try=then))
        raise TaskDeferred(trigger=PauseTrigger(wait_s=wait_s), method_name="go_on")

    def _settle(self, work: Work) -> None:
        """Mark the work as decided on, and end it if it still runs."""
        try:
            path = self.watch(work).owner
            self.api.patch(path, {"metadata": {"annotations": {SETTLED: "true"}}})
        except TradewindError as error:
            self.log.warning("%s", error)
        self._end_what_runs(work)

    def _why_no_node(self, work: Work) -> tuple[str, ...]:
        """Return why no node of the cluster ever could; nothing without the right to read nodes."""
        try:
            nodes = (self.api.get("/api/v1/nodes") or {}).get("items") or ()
        except TradewindError:
            return ()
        return why_no_node(pod_spec(work.training, command=[]), nodes)

    def _delete(self, *, grace_s: int) -> None:
        try:
            self.api.delete(self._owner, grace_s=grace_s)
        except TradewindError as error:
            self.log.warning("%s The janitor deletes what is left.", error)

    def _error(self, work: Work, failure: Failure, *, next_try: str | None = None) -> TradewindError:
        from include.training.submit import newest_checkpoint

        checkpoint = newest_checkpoint(work.job, storage=work.storage)
        return failure.error(f"training job {work.job.key}", checkpoint=checkpoint, next_try=next_try)
