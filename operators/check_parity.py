from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.assets import features_asset
from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class CheckParityOperator(PartitionOperator):
    """Compares sampled entities between the feature tables and the online store, then publishes the features' asset.

    The asset's event carries `model`, `partition`, `versions` of all tables that a training set reads, `num_entities`
    and `available_at`. The task only reads, so killing it leaves nothing behind. Without store features it says that it
    compares nothing, and publishes.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake, which must be a local folder.

    Returns:
        What the event carries, and `num_sampled` by view and `num_values` compared.

    Raises:
        PartitionError: The partition key is missing or names no partition.
        GateError: A value or its time differs; no event is sent.
        InconclusiveError: There is no entity to compare; no event is sent.
    """

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        super().__init__(model=model, outlets=[features_asset(model)], **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Compare, then fill the event; what comes back is small and JSON."""
        from include.features.examples import current_versions
        from include.features.parity import check_parity

        on = self.subject()
        self.say_if_nothing_stored(on.spec)
        parity = check_parity(spec=on.spec, storage=on.storage, partition=on.partition)
        event = {
            "model": on.spec.name,
            "partition": parity.partition,
            "versions": current_versions(spec=on.spec, storage=on.storage),
            "num_entities": sum(parity.num_entities.values()),
            "available_at": parity.available_at.isoformat() if parity.available_at else None,
        }
        if "outlet_events" in context:
            context["outlet_events"][features_asset(on.spec.name)].extra = event
        return {**event, "num_sampled": dict(parity.num_sampled), "num_values": parity.num_values}
