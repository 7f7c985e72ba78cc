from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowSensorTimeout
from airflow.triggers.base import StartTriggerArgs

from include import errors, partitions
from include.lake.landing import is_landed, marker_uri
from include.spec import load_spec
from operators.hooks.lake import LakeHook
from sensors.triggers.partition_landed import PartitionLandedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class PartitionLandedSensor(BaseSensorOperator):
    """Waits until a partition's marker has landed, however late; partitions may land in any order.

    It starts and ends in the triggerer: waiting takes no worker and no slot. After `timeout` seconds it fails without a
    retry. There is no remote job, so killing it stops nothing else.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake.
        poke_interval: Seconds between two looks (of Airflow's sensors, as is `timeout`).
    """

    template_fields: Sequence[str] = ("partition",)
    start_from_trigger = True

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
        self.start_trigger_args = StartTriggerArgs(
            trigger_cls=f"{PartitionLandedTrigger.__module__}.{PartitionLandedTrigger.__qualname__}",
            trigger_kwargs={
                "model": model,
                "partition": partition,
                "lake_conn_id": lake_conn_id,
                "poke_interval_s": self.poke_interval,
            },
            next_method="resume",
            timeout=timedelta(seconds=self.timeout),
        )

    def execute(self, context: Context) -> None:  # noqa: ARG002 - Airflow's signature
        """Look once, then hand over to the trigger; only reached where the scheduler does not start the trigger."""
        source = load_spec(self.model).source
        partition = partitions.require(self.partition, source=source, model=self.model)
        storage = LakeHook(self.lake_conn_id).get_conn()
        if is_landed(storage=storage, model=self.model, partition=partition, marker=source.marker):
            return
        self.defer(
            trigger=PartitionLandedTrigger(
                model=self.model,
                partition=partition,
                lake_conn_id=self.lake_conn_id,
                poke_interval_s=self.poke_interval,
            ),
            method_name="resume",
            timeout=timedelta(seconds=self.timeout),
        )

    def resume(self, context: Context, event: Any = None) -> None:  # noqa: ARG002 - Airflow's signature
        """Raise what the trigger could not use; the trigger ends the task itself when the partition has landed."""
        if isinstance(event, dict) and "error" in event:
            raise getattr(errors, event["error"])(event["message"])

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Name, when the wait timed out, what is missing and where.

        Raises:
            AirflowSensorTimeout: Nothing landed in time; Airflow does not retry it.
        """
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as error:
            at = marker_uri(
                storage=LakeHook(self.lake_conn_id).get_conn(),
                model=self.model,
                partition=self.partition,
                marker=load_spec(self.model).source.marker,
            )
            raise AirflowSensorTimeout(
                f"partition {self.partition!r} of {self.model!r} must land within {self.timeout:g} s; got no {at}. "
                "Nothing was changed. Ask the upstream system, then clear this task to wait again."
            ) from error
