from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.exceptions import AirflowSkipException

from operators.assets import dataset_asset
from operators.partition_operator import PartitionOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context


class DataDocsLink(BaseOperatorLink):
    """Opens the Data Docs of the expectations that the task ran, also when they failed."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the URI that the task has set."""
        return str(getattr(operator, "data_docs", ""))


class ValidatePartitionOperator(PartitionOperator):
    """Checks a staged partition with the model's expectations, quarantines its bad rows and publishes the good ones.

    A critical expectation that fails, fails the task: nothing is published and nothing downstream runs. Otherwise the
    task publishes each table with one commit and emits the model's dataset asset with the versions. It is skipped, with
    no event, if Airflow has already recorded an event for equal content. That record is made together with the task's
    success, so a task killed after its commits still emits when it runs again. Data Docs are kept either way.

    Args:
        model: Folder of the model below `include/models`.
        partition: Key of the partition.
        lake_conn_id: Connection of the lake.
    """

    operator_extra_links = (DataDocsLink(),)

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        # The asset is an inlet too: the operator reads which events it has already emitted.
        super().__init__(model=model, inlets=[dataset_asset(model)], outlets=[dataset_asset(model)], **kwargs)
        self.data_docs = ""

    def execute(self, context: Context) -> dict[str, Any]:
        """Check and publish the partition; return the event's extra.

        Raises:
            DataQualityError: A critical expectation failed.
            AirflowSkipException: Equal content has been announced before.
        """
        from include.validation.announcement import announcement, is_announced
        from include.validation.partition import check_partition, publish_partition

        on = self.subject()
        checked = check_partition(spec=on.spec, storage=on.storage, partition=on.partition)
        self.data_docs = checked.data_docs
        published = publish_partition(
            spec=on.spec, storage=on.storage, checked=checked, run_id=str(context.get("run_id", ""))
        )
        extra = announcement(model=self.model, partition=on.partition, published=published, data_docs=checked.data_docs)
        asset = dataset_asset(self.model)
        is_news = any(commit.is_new for commit in published.tables.values())
        # Not asked without need: Airflow 3.3.2 lists no events while a run of one is queued (apache/airflow#71360).
        earlier = [] if is_news or "inlet_events" not in context else [e.extra for e in context["inlet_events"][asset]]
        if is_announced(extra, earlier=earlier):
            raise AirflowSkipException(
                f"partition {on.partition!r} of {self.model!r} holds equal content since versions "
                f"{ {table: held['version'] for table, held in extra['tables'].items()} }: no new version, no event."
            )
        if "outlet_events" in context:
            context["outlet_events"][asset].extra = extra
        self.log.info("Published %s: %s", on.partition, extra)
        return extra
