from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class MaterializeFeaturesOperator(PartitionOperator):
    """Writes a partition's features into Feast's online store; an older value never replaces a newer one.

    One SQLite transaction over all views of the model: killed, it leaves the store as it was, and running it again ends
    in the same store. Feast itself is loaded only when the model's definitions changed. Without store features it says
    that it writes nothing.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake, which must be a local folder.

    Returns:
        `partition`, `num_entities` by view, `num_written` values, `num_withdrawn` entities.

    Raises:
        PartitionError: The partition key is missing or names no partition.
        NotFoundError: The partition's features were never built.
        SetupError: The lake is in an object store.
    """

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Materialize the partition; what comes back is small and JSON."""
        from include.features.materialize import materialize

        on = self.subject()
        self.say_if_nothing_stored(on.spec)
        done = materialize(spec=on.spec, storage=on.storage, partition=on.partition)
        return {
            "partition": done.partition,
            "num_entities": dict(done.num_entities),
            "num_written": done.num_written,
            "num_withdrawn": done.num_withdrawn,
        }
