from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from operators.hooks.mlflow import MlflowHook
from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class BuildSnapshotOperator(PartitionOperator):
    """Writes the point-in-time training set that ends with a partition, at pinned table versions.

    Equal rows from equal versions are written once; killed and run again, it returns the same snapshot.

    Args:
        model: Name of the model's folder.
        partition: Last partition of the window.
        window_partitions: How many partitions; empty or None for the spec's number.
        force: Whether an older partition than the newest, or than the champion's, may train; text `True` or `False`.
        lake_conn_id: Connection of the lake.
        mlflow_conn_id: Connection of the registry, which names the champion.

    Returns:
        `uri`, `sha256`, `partitions`, `num_rows`, `versions` by table.

    Raises:
        PartitionError: The partition may not train, or the window lacks rows.
        ServiceError: The registry does not answer.
    """

    template_fields: ClassVar[Sequence[str]] = (*PartitionOperator.template_fields, "window_partitions", "force")

    def __init__(
        self,
        *,
        window_partitions: int | str | None = None,
        force: bool | str = False,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.window_partitions = window_partitions
        self.force = force
        self.mlflow_conn_id = mlflow_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Check that the partition may train, build the snapshot; what comes back is small and JSON."""
        from include.registry.models import CHAMPION, get_alias
        from include.training.snapshot import build_snapshot, require_trainable, source_partitions, training_window

        on = self.subject()
        champion = get_alias(MlflowHook(self.mlflow_conn_id).get_conn(), model=on.spec.name, alias=CHAMPION)
        require_trainable(
            spec=on.spec,
            partition=on.partition,
            published=source_partitions(spec=on.spec, storage=on.storage),
            champion_window_end=champion.tags.get("window_end") if champion else None,
            force=str(self.force) == "True",
        )
        window = training_window(
            spec=on.spec,
            partition=on.partition,
            num_partitions=int(self.window_partitions) if self.window_partitions else None,
        )
        snapshot = build_snapshot(spec=on.spec, storage=on.storage, window=window)
        self.log.info("Snapshot of %s to %s: %d rows", window[0], window[-1], snapshot.ref.num_rows)
        return snapshot.ref.model_dump(mode="json") | {"versions": dict(snapshot.versions)}
