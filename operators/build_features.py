from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from include import partitions
from include.spec import load_spec
from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class BuildFeaturesOperator(BaseOperator):
    """Computes a partition's store features as of its end and writes them into the tables `features_<view>`.

    Equal features make no new version; killed and run again, it ends in the same tables. Nothing runs outside the task.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake.

    Returns:
        `partition`, `versions` by feature table, `num_entities` by view, `available_at` by view.

    Raises:
        PartitionError: The partition key is missing or names no partition.
        NotFoundError: The partition was never published.
    """

    template_fields: Sequence[str] = ("partition",)

    def __init__(
        self,
        *,
        model: str,
        partition: str = "{{ dag_run.partition_key }}",
        lake_conn_id: str = LakeHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.partition = partition
        self.lake_conn_id = lake_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Build the partition's features; what comes back is small and JSON."""
        from include.features.build import build_features

        spec = load_spec(self.model)
        built = build_features(
            spec=spec,
            storage=LakeHook(self.lake_conn_id).get_conn(),
            partition=partitions.require(self.partition, source=spec.source, model=spec.name),
            published_at=datetime.now(UTC),
        )
        return {
            "partition": built.partition,
            "versions": dict(built.versions),
            "num_entities": dict(built.num_entities),
            "available_at": {view: moment.isoformat() for view, moment in built.available_at.items()},
        }
