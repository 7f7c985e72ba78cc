from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from include.errors import SetupError
from include.training.profiles import read_profiles
from include.training.remote_names import lake_labels
from include.training.sweep import Fate, Found, judge
from operators.hooks.airflow_api import AirflowApiHook
from operators.hooks.kubernetes_calls import object_path
from operators.hooks.kubernetes_objects import DEFAULT_CONN, KubernetesObjects
from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.sdk import Context

_KINDS = (("v1", "pods"), ("batch/v1", "jobs"), ("trainer.kubeflow.org/v1alpha1", "trainjobs"))


class SweepTrainingOperator(BaseOperator):
    """Deletes what trainings have left on a cluster: pods, Jobs and TrainJobs that no task waits for any more.

    It finds them by label in the namespaces of all profiles, and asks Airflow for the task instance of each. What runs
    is deleted when its task has ended or is gone with its Dag run; what has ended stays for `keep_s`, to be looked at.
    Work whose task still waits, will be tried again, or cannot be asked about is left alone. Without a cluster it is
    skipped. Killed anywhere, the next pass goes on.

    Args:
        dry_run: Whether to look only; text `True` or `False`. Templated.
        keep_s: Seconds after which work that has ended is deleted.
        namespaces: Where to look; empty: those of all profiles.
        lake_conn_id: Connection of the lake: only what trains from it is ours.
        kubernetes_conn_id: Connection of Kubernetes.
        airflow_api_conn_id: Connection of Airflow's REST API; its user must be allowed to read task instances.

    Returns:
        `orphan` and `old` (paths that were deleted), `num_kept`.

    Raises:
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
        for found in self._found(cluster):
            task = found.task
            state = airflow.task_state(task.dag_id, task.run_id, task.task_id, task.map_index) if task else None
            fate = judge(found, task_state=state, now=datetime.now(UTC), keep=keep)
            swept[fate].append(found.path)
            if fate is Fate.KEEP:
                continue
            self.log.info("%s: %s, its task is %s", fate, found.path, state or "gone")
            if str(self.dry_run) != "True":
                cluster.delete(found.path, uid=found.uid)
        return {"orphan": swept[Fate.ORPHAN], "old": swept[Fate.OLD], "num_kept": len(swept[Fate.KEEP])}

    def _found(self, cluster: KubernetesObjects) -> Iterator[Found]:
        """Yield all work; what belongs to other work goes with it."""
        labels = lake_labels(LakeHook(self.lake_conn_id).get_conn().root)
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        for namespace in self.namespaces or sorted({each.namespace for each in read_profiles().profiles.values()}):
            for version, plural in _KINDS:
                folder = object_path(api_version=version, plural=plural, namespace=namespace)
                listed = cluster.get(folder, labelSelector=selector) or {}
                for item in listed.get("items") or ():
                    if not item["metadata"].get("ownerReferences"):
                        yield Found.of(item, path=f"{folder}/{item['metadata']['name']}")
