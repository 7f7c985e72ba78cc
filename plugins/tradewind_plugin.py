"""Registers what Tradewind adds to Airflow's own processes; the code lives elsewhere or is a few lines."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import sys
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


class _PreloadAtStart:
    """Lets the scheduler's fork server import its libraries while the other servers start.

    Left alone, it starts with the first task, and the scheduler blocks for as long as the imports take.
    """

    @hookimpl
    def on_starting(self, component: Any) -> None:  # noqa: ARG002 - pluggy matches arguments by name
        """Start the fork server when a scheduler that uses one starts."""
        if "scheduler" in sys.argv and multiprocessing.get_start_method() == "forkserver":
            multiprocessing.forkserver.ensure_running()


class TradewindPlugin(AirflowPlugin):
    """Tradewind's listeners."""

    name = "tradewind"
    listeners = [_PreloadAtStart()]  # noqa: RUF012 - Airflow's interface asks for a list
