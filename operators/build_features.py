from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class BuildFeaturesOperator(PartitionOperator):
    """Computes a partition's store features as of its end and writes them into the tables `features_<view>`.

    Equal features make no new version; killed and run again, it ends in the same tables. Nothing runs outside the task.
    Without store features it builds none, which it says.

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

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Build the partition's features; what comes back is small and JSON."""
        from include.features.build import build_features

        on = self.subject()
        self.say_if_nothing_stored(on.spec)
        built = build_features(spec=on.spec, storage=on.storage, partition=on.partition, published_at=datetime.now(UTC))
        return {
            "partition": built.partition,
            "versions": dict(built.versions),
            "num_entities": dict(built.num_entities),
            "available_at": {view: moment.isoformat() for view, moment in built.available_at.items()},
        }
