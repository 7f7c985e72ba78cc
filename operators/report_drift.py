from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowSkipException

from operators.hooks.mlflow import MlflowHook
from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class ReportDriftOperator(PartitionOperator):
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

    template_fields: ClassVar[Sequence[str]] = (*PartitionOperator.template_fields, "version")

    def __init__(
        self,
        *,
        version: str,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
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
        on = self.subject()
        tracking_uri = MlflowHook(self.mlflow_conn_id).get_conn()
        version = get_version(tracking_uri, model=on.spec.name, version=self.version)
        return write_report(spec=on.spec, storage=on.storage, partition=on.partition, version=version)
