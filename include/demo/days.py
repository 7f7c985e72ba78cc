"""`python -m include.demo.days`: land real days of weather in a deployment that runs, while callers ask about the next.

Nothing of it belongs to the deployment: what an upstream system would deliver is landed, Airflow does the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from include import partitions
from include.cli.deployment import find_deployment
from include.demo.weather import MODEL, day_requests, days_to_land, land_day
from include.errors import ServiceError, TradewindError
from include.rollout.ledger import Ledger
from include.runtime.airflow_api import AirflowApi
from include.runtime.home import DEFAULT_HOME
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.runtime.services import Deployment
    from include.serving.client import ModelServerClient

NUM_DAYS = 60
DAY_TIMEOUT_S = 600.0
_POLL_S = 0.2


@dataclass(kw_only=True)
class Days:
    """Lands days, each when the one before is closed.

    Args:
        deployment: A deployment that runs.
        say: Told what is happening, several times a second.
        tell: Told what has happened, once.
    """

    deployment: Deployment
    say: Callable[[str], None]
    tell: Callable[[str], None]
    _closed: set[str] = field(default_factory=set)

    def run(self, days: tuple[str, ...]) -> None:
        """Land the days; those before a first training window is whole land together, for nothing is decided on them.

        Raises:
            ServiceError: A day was not closed in time, or a server does not answer.
        """
        source, window = load_spec(MODEL).source, load_spec(MODEL).training.window_partitions
        first_whole = partitions.shift(source.first_partition, window - 1)
        together = tuple(day for day in days if day < first_whole)
        for day in together:
            land_day(storage=self.deployment.home.storage, partition=day)
        for day in together:
            self._wait(day, asked=iter(()))
        if together:
            self.tell(f"{len(together)} days closed; the first training window has {window}")
        for day in days[len(together) :]:
            land_day(storage=self.deployment.home.storage, partition=day)
            following = partitions.shift(day, 1)
            has_following = source.last_partition is None or following <= source.last_partition
            requests = list(day_requests(following).items()) if has_following else []
            self._wait(day, asked=cycle(requests))
            if self._champion():
                for request_id, columns in requests:  # what was asked before counts once, whoever answered
                    self._server.infer(model=MODEL, columns=columns, request_id=request_id, sticky_key=request_id)
            self.tell(f"{day} closed: {self._decision(day)}")

    def _wait(self, day: str, *, asked: Iterator[tuple[str, dict[str, list[Any]]]]) -> None:
        """Wait until every decision on a day has been taken; callers ask meanwhile, as soon as something serves."""
        deadline = time.monotonic() + DAY_TIMEOUT_S
        while day not in self._closed:
            self.say(f"{day}: {'callers ask' if self._champion() else 'nothing serves yet'}")
            if self._champion() and (request := next(asked, None)):
                self._server.infer(model=MODEL, columns=request[1], request_id=request[0], sticky_key=request[0])
            self._closed |= {event["partition_key"] for event in self._api.asset_events(f"{MODEL}.closed")}
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{day} of {MODEL!r} must be closed within {DAY_TIMEOUT_S:.0f} s; got no such event. What has "
                    "landed stays. `./tradewind status` says what it waits for; then run this again."
                )
            time.sleep(_POLL_S)

    def _champion(self) -> str | None:
        champion: str | None = self._server.get_routes(model=MODEL)["routes"]["champion"]
        return champion

    def _decision(self, day: str) -> str:
        entries = Ledger(path=self.deployment.home.ledger).entries(MODEL, "retrain_decision")
        found = [entry.evidence for entry in entries if entry.subject == day]
        champion = self._champion()
        serving = f"v{champion} serves" if champion else "nothing serves yet"
        return f"{found[-1]['verdict']} ({found[-1]['reasons'][0]}); {serving}" if found else serving

    @property
    def _server(self) -> ModelServerClient:
        return self.deployment.model_server()

    @property
    def _api(self) -> AirflowApi:
        return AirflowApi(base_url=self.deployment.airflow_url, password=self.deployment.secrets.admin_password)


def main(arguments: list[str]) -> int:
    """Land the next days; return 0 when all of them are closed."""
    parser = argparse.ArgumentParser(prog="include.demo.days", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("TRADEWIND_HOME", DEFAULT_HOME)))
    parser.add_argument("--days", type=int, default=NUM_DAYS, choices=range(1, 365), metavar="1..364")
    chosen = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        deployment = find_deployment(chosen.home.resolve())
        days = days_to_land(storage=deployment.home.storage, num_days=chosen.days)
        with console.status("landing") as status:
            told = Days(deployment=deployment, say=lambda text: status.update(escape(text)), tell=console.print)
            told.run(days)
    except TradewindError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}")
        return 1
    console.print(f"{len(days)} days landed and decided on.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
