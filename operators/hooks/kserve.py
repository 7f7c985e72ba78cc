from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from operators.hooks.kubernetes_objects import DEFAULT_CONN, KubernetesObjects

if TYPE_CHECKING:
    from include.rollout.kserve.target import KServeTarget


class KServeHook(BaseHook):
    """Resolves the connection of a cluster with KServe into a deployment target.

    Its password is the admin token of the pods; its extra holds the fields of `KServeSettings`, and may name
    `kubernetes_conn_id` and `prometheus_token`.
    """

    conn_name_attr = "kserve_conn_id"
    default_conn_name = "kserve_default"
    hook_name = "KServe"

    def __init__(self, kserve_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.kserve_conn_id = kserve_conn_id

    def get_conn(self) -> KServeTarget:
        """Return the target; nothing is asked of the cluster yet.

        Raises:
            SetupError: A field of the extra is missing, unknown or impossible.
        """
        from include.rollout.kserve.services import Services
        from include.rollout.kserve.settings import KServeSettings
        from include.rollout.kserve.target import KServeTarget
        from include.rollout.prometheus import Prometheus

        connection = self.get_connection(self.kserve_conn_id)
        extra = dict(connection.extra_dejson)
        kubernetes_conn_id = extra.pop("kubernetes_conn_id", DEFAULT_CONN)
        prometheus_token = extra.pop("prometheus_token", "")
        settings = KServeSettings.read(extra, conn_id=self.kserve_conn_id)
        return KServeTarget(
            services=Services(objects=KubernetesObjects(kubernetes_conn_id), settings=settings),
            prometheus=Prometheus(url=settings.prometheus_url, token=prometheus_token, labels=settings.metric_labels),
            token=connection.password or "",
        )
