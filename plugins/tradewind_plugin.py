"""Registers what Tradewind adds to Airflow's own processes; the code lives elsewhere or is a few lines."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.forkserver
import sys
from datetime import UTC, datetime
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from pydantic import BeforeValidator

_NOT_STARTED = datetime(1970, 1, 1, tzinfo=UTC)


class _PreloadAtStart:
    """Lets the scheduler's fork server import its libraries while the other servers start.

    Left alone, it starts with the first task, and the scheduler blocks for as long as the imports take.
    """

    @hookimpl
    def on_starting(self, component: Any) -> None:  # noqa: ARG002 - pluggy matches arguments by name
        """Start the fork server when a scheduler that uses one starts."""
        if "scheduler" in sys.argv and multiprocessing.get_start_method() == "forkserver":
            multiprocessing.forkserver.ensure_running()


class _CollectGarbageSeldom:
    """Lets the Dag processor, and the processes that it parses files in, look for reference cycles less often.

    What they make by the million, the Dags of a file and their rows, lives until they are done with the file. Looking
    through all of it every 700 objects takes a sixth of their time.
    """

    @hookimpl
    def on_starting(self, component: Any) -> None:  # noqa: ARG002 - pluggy matches arguments by name
        """Raise the thresholds when a Dag processor starts; children inherit them."""
        if "dag-processor" in sys.argv:
            gc.set_threshold(50_000, 20, 20)


def _list_events_of_queued_runs() -> None:
    """Let Airflow's API list an asset's events while a run that one of them started is still queued.

    Airflow 3.3.2 answers 500 then, to people and to tasks, for it insists on the run's start: apache/airflow#71360,
    mended by #71379. With many partitions landed at once such runs wait for minutes. Here their start is 1970.
    """
    from airflow.api_fastapi.core_api.datamodels import assets
    from airflow.api_fastapi.execution_api.datamodels import asset_event

    for run, *answers in (
        (assets.DagRunAssetReference, assets.AssetEventResponse, assets.AssetEventCollectionResponse),
        (asset_event.DagRunAssetReference, asset_event.AssetEventResponse, asset_event.AssetEventsResponse),
    ):
        run.model_fields["start_date"].metadata.append(BeforeValidator(lambda start: start or _NOT_STARTED))
        for model in (run, *answers):
            model.model_rebuild(force=True)


if "api-server" in sys.argv:
    _list_events_of_queued_runs()


class TradewindPlugin(AirflowPlugin):
    """Tradewind's listeners."""

    name = "tradewind"
    listeners = [_PreloadAtStart(), _CollectGarbageSeldom()]  # noqa: RUF012 - Airflow's interface asks for a list
