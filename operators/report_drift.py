from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from include import partitions
from include.spec import load_spec
from operators.hooks.lake import LakeHook
from operators.hooks.mlflow import MlflowHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class ReportDriftOperator(BaseOperator):
    """Writes Evidently's HTML report of what was served for a partition against a version's training window.

    The report is `reports/<model>/<partition>/drift.html`, replaced as a whole. It takes half a minute at most and
    nothing waits for it: run it beside the training that it explains.

    Args:
        model: Name of the model's folder.
        version: Version whose training window is the reference; empty: skip, since there is nothing to compare with.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake.
        mlflow_conn_id: Connection of the registry.

    Returns:
        `uri`, `num_rows`, `num_reference_rows`, `drifted_frac`, `left_out`.

    Raises:
        PartitionError: The partition key is missing or names no partition.
        NotFoundError: The registry has no such version, or the partition was never published.
        InconclusiveError: Nothing was served, or the version does not say what it was trained on.
        ServiceError: The registry does not answer.
    """

    template_fields: ClassVar[Sequence[str]] = ("model", "version", "partition", "lake_conn_id", "mlflow_conn_id")

    def __init__(
        self,
        *,
        model: str,
        version: str,
        partition: str = "{{ dag_run.partition_key }}",
        lake_conn_id: str = LakeHook.default_conn_name,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.partition = partition
        self.lake_conn_id = lake_conn_id
        self.mlflow_conn_id = mlflow_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Write the report; what comes back is small and JSON.

        Raises:
            AirflowSkipException: No version is named.
        """
        from include.drift.report import write_report
        from include.registry.models import get_version

        if not self.version:
            raise AirflowSkipException(f"{self.model!r} has no version to compare {self.partition} with: no report.")
        spec = load_spec(self.model)
        tracking_uri = MlflowHook(self.mlflow_conn_id).get_conn()
        return write_report(
            spec=spec,
            storage=LakeHook(self.lake_conn_id).get_conn(),
            partition=partitions.require(self.partition, source=spec.source, model=spec.name),
            version=get_version(tracking_uri, model=spec.name, version=self.version),
        )
