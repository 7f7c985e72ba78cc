from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from include.errors import SetupError, SpecError
from include.spec import MODELS_DIR, load_spec, model_names
from include.training.manifests import KINDS
from include.training.profiles import read_profiles, resolve_profile
from include.training.remote_names import lake_labels
from include.training.sweep import Fate, Found, judge
from operators.hooks.airflow_api import AirflowApiHook
from operators.hooks.kubernetes_calls import RefusedError, object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN, KubernetesObjects
from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.sdk import Context

_REMEDY = "Give the connection's account the Role of docs/pages/training.md in that namespace."


class SweepTrainingOperator(BaseOperator):
    """Deletes what trainings have left on a cluster: pods, Jobs and TrainJobs that no task waits for any more.

    It finds them by label in the namespaces of all profiles and of all models' `training.pod`, and asks Airflow for the
    task instance of each. What runs is deleted when its task has ended or is gone with its Dag run; what has ended
    stays for `keep_s`, to be looked at. Work whose task still waits, will be tried again, or cannot be asked about is
    left alone. Where rights are missing it warns, sweeps all else, and fails at the end. Without a cluster it is
    skipped. Killed anywhere, the next pass goes on.

    Args:
        dry_run: Whether to look only; text `True` or `False`. Templated.
        keep_s: Seconds from its end after which work that has ended is deleted.
        namespaces: Where to look; empty: where profiles and models put work now. Those that they have left are not
            known.
        lake_conn_id: Connection of the lake: only what trains from it is ours.
        kubernetes_conn_id: Connection of Kubernetes.
        airflow_api_conn_id: Connection of Airflow's REST API; its user must be allowed to read task instances.

    Returns:
        `orphan` and `old` (paths that were deleted), `num_kept`.

    Raises:
        SetupError: Kubernetes refuses to list or delete some of it; the rest was swept.
        ServiceError: Kubernetes or Airflow does not answer.
    """

    template_fields: ClassVar[Sequence[str]] = ("dry_run",)

    def __init__(
        self,
        *,
        dry_run: bool | str = False,
        keep_s: float = 86_400,
        namespaces: Sequence[str] = (),
        lake_conn_id: str = LakeHook.default_conn_name,
        kubernetes_conn_id: str = DEFAULT_CONN,
        airflow_api_conn_id: str = AirflowApiHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dry_run = dry_run
        self.keep_s = keep_s
        self.namespaces = namespaces
        self.lake_conn_id = lake_conn_id
        self.kubernetes_conn_id = kubernetes_conn_id
        self.airflow_api_conn_id = airflow_api_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Pass over the namespaces; what comes back is small and JSON."""
        cluster = KubernetesObjects(self.kubernetes_conn_id)
        try:
            cluster.connect()
        except SetupError as error:
            raise AirflowSkipException(f"there is no cluster to sweep: {error}") from error
        airflow, keep = AirflowApiHook(self.airflow_api_conn_id).get_conn(), timedelta(seconds=self.keep_s)
        swept: dict[Fate, list[str]] = {fate: [] for fate in Fate}
        refused: list[str] = []
        for found in self._found(cluster, refused):
            task = found.task
            state = airflow.task_state(task.dag_id, task.run_id, task.task_id, task.map_index) if task else None
            fate = judge(found, task_state=state, now=datetime.now(UTC), keep=keep)
            if fate is not Fate.KEEP:
                self.log.info("%s: %s, its task is %s", fate, found.path, state or "gone")
                if not self._delete(cluster, found, refused):
                    continue
            swept[fate].append(found.path)
        result = {"orphan": swept[Fate.ORPHAN], "old": swept[Fate.OLD], "num_kept": len(swept[Fate.KEEP])}
        if refused:
            raise SetupError(
                f"all work of trainings must be found and deleted; got {len(refused)} refusals: {', '.join(refused)}. "
                f"All else was swept: {result}. {_REMEDY}"
            )
        return result

    def _delete(self, cluster: KubernetesObjects, found: Found, refused: list[str]) -> bool:
        """Delete it unless this is a dry run; return whether that was allowed."""
        try:
            if str(self.dry_run) != "True":
                cluster.delete(found.path, uid=found.uid)
        except RefusedError as error:
            self.log.warning("%s %s", error, _REMEDY)
            refused.append(f"DELETE {found.path}")
            return False
        return True

    def _found(self, cluster: KubernetesObjects, refused: list[str]) -> Iterator[Found]:
        """Yield all work that may be listed; what belongs to other work goes with it."""
        labels = lake_labels(LakeHook(self.lake_conn_id).get_conn().root)
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        for namespace in self.namespaces or self._namespaces():
            for version, plural in KINDS.values():
                folder = object_path(api_version=version, plural=plural, namespace=namespace)
                try:
                    listed = cluster.get(folder, labelSelector=selector) or {}
                except RefusedError as error:
                    self.log.warning("%s %s", error, _REMEDY)
                    refused.append(f"GET {folder}")
                    continue
                for item in listed.get("items") or ():
                    if not item["metadata"].get("ownerReferences"):
                        yield Found.of(item, path=f"{folder}/{item['metadata']['name']}")

    def _namespaces(self) -> list[str]:
        """Return where profiles put work, and models whose `training.pod` says otherwise."""
        found = {profile.namespace for profile in read_profiles().profiles.values()}
        for name in model_names(MODELS_DIR):
            try:
                found.add(resolve_profile(load_spec(name, MODELS_DIR).training).namespace)
            except (SpecError, SetupError) as error:
                self.log.warning("where model %r trains is not known: %s", name, error)
        return sorted(found)
