from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from include.errors import NotFoundError
from include.registry.models import get_alias, get_version
from operators.hooks.mlflow import MlflowHook
from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class ScorePartitionOperator(PartitionOperator):
    """Scores all examples of a partition with one version into the Delta table `scores`.

    It uses the features that serving would have had, and needs no model server. Equal scores make no new version of
    the table. Killed and run again, it ends in the same state.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        version: Version, or one of its aliases, for example champion.
        lake_conn_id: Connection of the lake.
        mlflow_conn_id: Connection of the model registry.

    Returns:
        `model`, `partition`, `model_version`, and of the table `version`, `num_rows`, `checksum`, `is_new`.
    """

    template_fields: ClassVar[Sequence[str]] = (*PartitionOperator.template_fields, "version")

    def __init__(
        self,
        *,
        version: str = "champion",
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.mlflow_conn_id = mlflow_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        """Score the partition.

        Raises:
            PartitionError: There is no such partition.
            NotFoundError: The partition was never published, or there is no such version or alias.
            CorruptArtifactError: The version's package does not match its digest.
        """
        from include.serving.batch import score_partition

        on = self.subject()
        tracking_uri = MlflowHook(self.mlflow_conn_id).get_conn()
        if self.version.isdecimal():
            version = get_version(tracking_uri, model=self.model, version=self.version)
        else:
            found = get_alias(tracking_uri, model=self.model, alias=self.version)
            if found is None:
                raise NotFoundError(
                    f"version of {self.model!r} must be a number or an alias that is set; got {self.version!r}. The "
                    "scores stay as they were. Name another one."
                )
            version = found
        commit = score_partition(spec=on.spec, storage=on.storage, partition=on.partition, version=version)
        return {
            "model": self.model,
            "partition": on.partition,
            "model_version": version.version,
            "version": commit.version,
            "num_rows": commit.num_rows,
            "checksum": commit.checksum,
            "is_new": commit.is_new,
        }
