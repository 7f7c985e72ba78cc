from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from include import partitions
from include.errors import ServiceError, TradewindError
from include.lake.landing import is_landed
from include.spec import load_spec
from operators.hooks.lake import LakeHook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class PartitionLandedTrigger(BaseTrigger):
    """Ends its task once a partition's marker has landed; a partition key that cannot be used resumes the task.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake.
        poke_interval_s: Seconds between two looks.
    """

    def __init__(self, *, model: str, partition: str, lake_conn_id: str, poke_interval_s: float) -> None:
        super().__init__()
        self.model = model
        self.partition = partition
        self.lake_conn_id = lake_conn_id
        self.poke_interval_s = poke_interval_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again; the connection's secrets are not part of it."""
        return (
            "sensors.triggers.partition_landed.PartitionLandedTrigger",
            {
                "model": self.model,
                "partition": self.partition,
                "lake_conn_id": self.lake_conn_id,
                "poke_interval_s": self.poke_interval_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the marker is there; a storage that does not answer is looked at again."""
        try:
            source = load_spec(self.model).source
            partition = partitions.require(self.partition, source=source, model=self.model)
            storage = await LakeHook(self.lake_conn_id).aget_conn()
            look = partial(is_landed, storage=storage, model=self.model, partition=partition, marker=source.marker)
            while not await self._is_seen(look):  # noqa: ASYNC110 - a landing folder has no event to wait for
                await asyncio.sleep(self.poke_interval_s)
        except TradewindError as error:
            yield TriggerEvent({"error": type(error).__name__, "message": str(error)})
        else:
            yield TaskSuccessEvent()

    async def _is_seen(self, look: Callable[[], bool]) -> bool:
        """Look beside the event loop, which all triggers share: a look is blocking I/O on a disk or in S3."""
        try:
            return await asyncio.to_thread(look)
        except ServiceError as error:
            self.log.warning("%s", error)
            return False
