from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from sensors.triggers.partition_landed import PartitionLandedTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("connections")


def trigger(partition: str = "2013-01", poke_interval_s: float = 0.05) -> PartitionLandedTrigger:
    return PartitionLandedTrigger(
        model="flight_delays", partition=partition, lake_conn_id="tradewind_lake", poke_interval_s=poke_interval_s
    )


async def first_event(subject: PartitionLandedTrigger) -> TriggerEvent:
    return await anext(subject.run())


def test_it_ends_the_task_once_the_month_has_landed(landed: Callable[..., None]) -> None:
    async def land_late() -> TriggerEvent:
        waiting = asyncio.create_task(first_event(trigger()))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await asyncio.to_thread(landed, "2013-01", 10)
        return await asyncio.wait_for(waiting, timeout=30)

    assert isinstance(asyncio.run(land_late()), TaskSuccessEvent)


@pytest.mark.parametrize("partition", ["None", "2014-01"])
def test_a_partition_that_the_source_lacks_resumes_the_task_with_the_reason(partition: str) -> None:
    event = asyncio.run(first_event(trigger(partition)))
    assert not isinstance(event, TaskSuccessEvent)
    assert event.payload["error"] == "PartitionError"
    assert "allowed: each month, such as 2013-01, from 2013-01 to 2013-12" in event.payload["message"]


def test_a_connection_that_names_no_storage_resumes_the_task_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TRADEWIND_LAKE", json.dumps({"conn_type": "fs", "extra": {}}))
    event = asyncio.run(first_event(trigger()))
    assert event.payload["error"] == "SetupError"
