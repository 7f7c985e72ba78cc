from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout, TaskDeferralTimeout, TaskDeferred

from include.errors import PartitionError, SetupError
from sensors.partition_landed import PartitionLandedSensor
from sensors.triggers.partition_landed import PartitionLandedTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage

pytestmark = pytest.mark.usefixtures("connections")


def sensor(partition: str = "2013-01", **kwargs: Any) -> PartitionLandedSensor:
    return PartitionLandedSensor(
        task_id="wait", model="flight_delays", partition=partition, poke_interval=0.5, timeout=60, **kwargs
    )


def test_a_month_that_has_landed_is_taken_at_once(landed: Callable[..., None]) -> None:
    landed("2013-01", 10)
    assert sensor().execute({}) is None


def test_a_late_month_is_waited_for_in_the_triggerer(landed: Callable[..., None]) -> None:
    landed("2013-02", 10)
    with pytest.raises(TaskDeferred) as caught:
        sensor().execute({})
    assert isinstance(caught.value.trigger, PartitionLandedTrigger)
    assert caught.value.trigger.partition == "2013-01"
    assert (caught.value.method_name, caught.value.timeout) == ("resume", timedelta(seconds=60))


def test_files_without_the_marker_have_not_landed(storage: Storage, landed: Callable[..., None]) -> None:
    from pathlib import Path

    landed("2013-01", 10)
    (Path(storage.landing("flight_delays", "2013-01")) / "_SUCCESS").unlink()
    with pytest.raises(TaskDeferred):
        sensor().execute({})


def test_the_scheduler_starts_the_trigger_without_a_worker() -> None:
    waiting = PartitionLandedSensor(task_id="wait", model="flight_delays", poke_interval=0.5, timeout=60)
    other = sensor("2013-07")
    assert waiting.start_from_trigger is True
    assert waiting.start_trigger_args.trigger_kwargs == {
        "model": "flight_delays",
        "partition": "{{ dag_run.partition_key }}",
        "lake_conn_id": "tradewind_lake",
        "poke_interval_s": 0.5,
    }
    assert waiting.start_trigger_args.timeout == timedelta(seconds=60)
    assert other.start_trigger_args.trigger_kwargs["partition"] == "2013-07"
    trigger = PartitionLandedTrigger(**waiting.start_trigger_args.trigger_kwargs)
    assert trigger.serialize() == (waiting.start_trigger_args.trigger_cls, waiting.start_trigger_args.trigger_kwargs)


def test_a_partition_that_the_source_lacks_is_refused() -> None:
    with pytest.raises(PartitionError, match="outside the source"):
        sensor("2014-01").execute({})


@pytest.mark.parametrize("error", [PartitionError, SetupError])
def test_what_the_trigger_could_not_use_is_raised(error: type[Exception]) -> None:
    with pytest.raises(error, match="mend it"):
        sensor().resume({}, {"error": error.__name__, "message": "mend it"})


def test_a_resumed_sensor_without_an_error_ends() -> None:
    assert sensor().resume({}, "success") is None


def test_a_timeout_names_what_is_missing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowSensorTimeout) as caught:
        sensor().resume_execution("__fail__", {"error": "Trigger timeout"}, {})
    assert isinstance(caught.value.__cause__.__cause__, TaskDeferralTimeout)
    assert str(caught.value) == (
        f"partition '2013-01' of 'flight_delays' must land within 60 s; got no {storage.root}/landing/flight_delays/"
        "2013-01/_SUCCESS. Nothing was changed. Ask the upstream system, then clear this task to wait again."
    )
