"""Tell people what is stuck, once, and once more when it goes on; the ledger remembers what they were told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.alerts.delivery import DEFAULT_CHANNEL, KIND, Alert, deliver
from include.progress.state import Stage

if TYPE_CHECKING:
    from include.alerts.delivery import Poster
    from include.progress.repair import Repair
    from include.progress.state import ModelProgress, PartitionProgress
    from include.rollout.ledger import Entry, Ledger

_STUCK, _GOES_ON = "alert:stuck:", "alert:goes_on:"


@dataclass(frozen=True, kw_only=True)
class Teller:
    """Sends messages about partitions; those about one partition share a thread.

    Args:
        ledger: Remembers what was told.
        poster: Slack; None where no token is set.
        actor: Who tells: a Dag run, a person.
        channel: Slack's channel.
    """

    ledger: Ledger
    poster: Poster | None
    actor: str
    channel: str = DEFAULT_CHANNEL

    def tell_stuck(self, progress: ModelProgress) -> list[Entry]:
        """Tell of every partition that is stuck, and of those that were and are not any more.

        The same trouble is told once, however often this is called. While a part of the deployment is silent nothing is
        said to go on.
        """
        now = {_trouble(found): found for found in progress.stuck}
        known = self._known(progress.model)
        told = [self._say(found, key=f"{_STUCK}{key}", text=_stuck_text(found)) for key, found in now.items()]
        if progress.silent:
            return told
        over = [key for key in known if key not in now]
        current = {found.partition: found for found in progress.partitions}
        for key in over:
            partition = key.split(":")[1]
            if partition in current:
                text = _goes_on_text(current[partition])
                told.append(self._say(current[partition], key=f"{_GOES_ON}{key}", text=text))
        return told

    def tell_repair(self, repair: Repair) -> Entry:
        """Tell of a run that was started."""
        text = f"{repair.model} {repair.partition}: {repair.why}; the reconciler started {repair.run_id}."
        return deliver(
            self._alert(repair.model, repair.partition, key=f"alert:{repair.dag_id}:{repair.run_id}", text=text),
            ledger=self.ledger,
            poster=self.poster,
        )

    def _known(self, model: str) -> list[str]:
        """Return the troubles that were told and not yet said to be over."""
        keys = [entry.key for entry in self.ledger.entries(model, KIND)]
        over = {key.removeprefix(_GOES_ON) for key in keys if key.startswith(_GOES_ON)}
        told = [key.removeprefix(_STUCK) for key in keys if key.startswith(_STUCK)]
        return [key for key in told if key not in over]

    def _say(self, found: PartitionProgress, *, key: str, text: str) -> Entry:
        alert = self._alert(found.model, found.partition, key=key, text=text)
        return deliver(alert, ledger=self.ledger, poster=self.poster)

    def _alert(self, model: str, partition: str, *, key: str, text: str) -> Alert:
        return Alert(
            key=key,
            model=model,
            subject=partition,
            run=f"progress:{model}:{partition}",
            actor=self.actor,
            channel=self.channel,
            text=text,
        )


def _trouble(found: PartitionProgress) -> str:
    """Return what names a trouble: the same one is told once, one that comes back is told again."""
    stuck = found.stuck
    if stuck is None:
        return ""
    return f"{found.model}:{found.partition}:{stuck.stage}:{stuck.reason}:{stuck.since:%Y%m%dT%H%M%S}"


def _stuck_text(found: PartitionProgress) -> str:
    stuck = found.stuck
    if stuck is None:
        return ""
    head = f"{found.model} {found.partition} is stuck before {stuck.stage}, since {stuck.since:%Y-%m-%d %H:%M} UTC"
    return "\n".join(
        line for line in (f"{head}: {stuck.reason}.", f"{stuck.detail}.", f"Do: {stuck.command}", stuck.url) if line
    )


def _goes_on_text(found: PartitionProgress) -> str:
    if found.stuck:
        return f"{found.model} {found.partition}: that trouble is over; it is stuck for another reason now."
    state = Stage.CLOSED if found.is_closed else found.furthest or "waiting"
    return f"{found.model} {found.partition} goes on: {state}."
