from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from include import partitions
from include.spec import load_spec
from operators.hooks.lake import LakeHook
from operators.hooks.mlflow import MlflowHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class BuildSnapshotOperator(BaseOperator):
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

    template_fields: ClassVar[Sequence[str]] = (
        "model",
        "partition",
        "window_partitions",
        "force",
        "lake_conn_id",
        "mlflow_conn_id",
    )

    def __init__(
        self,
        *,
        model: str,
        partition: str = "{{ dag_run.partition_key }}",
        window_partitions: int | str | None = None,
        force: bool | str = False,
        lake_conn_id: str = LakeHook.default_conn_name,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.partition = partition
        self.window_partitions = window_partitions
        self.force = force
        self.lake_conn_id = lake_conn_id
        self.mlflow_conn_id = mlflow_conn_id

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002 - Airflow passes it by name
        """Check that the partition may train, build the snapshot; what comes back is small and JSON."""
        from include.registry.models import CHAMPION, get_alias
        from include.training.snapshot import build_snapshot, require_trainable, source_partitions, training_window

        spec = load_spec(self.model)
        partition = partitions.require(self.partition, source=spec.source, model=spec.name)
        storage = LakeHook(self.lake_conn_id).get_conn()
        champion = get_alias(MlflowHook(self.mlflow_conn_id).get_conn(), model=spec.name, alias=CHAMPION)
        require_trainable(
            spec=spec,
            partition=partition,
            published=source_partitions(spec=spec, storage=storage),
            champion_window_end=champion.tags.get("window_end") if champion else None,
            force=str(self.force) == "True",
        )
        window = training_window(
            spec=spec,
            partition=partition,
            num_partitions=int(self.window_partitions) if self.window_partitions else None,
        )
        snapshot = build_snapshot(spec=spec, storage=storage, window=window)
        self.log.info("Snapshot of %s to %s: %d rows", window[0], window[-1], snapshot.ref.num_rows)
        return snapshot.ref.model_dump(mode="json") | {"versions": dict(snapshot.versions)}
