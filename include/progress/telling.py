"""Tell people what is stuck, once, and once more when it goes on; the ledger remembers what they were told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.alerts.delivery import DEFAULT_CHANNEL, KIND, Alert, deliver
from include.progress.state import Reason, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        """Tell of the partitions that are stuck, and of those that were and are not any more.

        The same trouble is told once, however often this is called. Of several that wait for the same thing the oldest
        is named and the others are counted; each failed task is told by itself. While a part of the deployment is
        silent nothing is said to go on.
        """
        now = {_trouble(found): found for found in progress.stuck}
        known = self._known(progress.model)
        told = [
            self._say(found, key=f"{_STUCK}{_trouble(found)}", text=_stuck_text(found, num_others=len(others)))
            for found, *others in _alike(progress.stuck)
        ]
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


def _alike(stuck: Iterable[PartitionProgress]) -> list[list[PartitionProgress]]:
    """Return the partitions that wait for the same thing together, oldest first."""
    groups: dict[tuple[str, ...], list[PartitionProgress]] = {}
    for found in stuck:
        if found.stuck is not None:
            own = (found.partition,) if found.stuck.reason is Reason.TASK_FAILED else ()
            groups.setdefault((found.stuck.stage, found.stuck.reason, *own), []).append(found)
    return list(groups.values())


def _trouble(found: PartitionProgress) -> str:
    """Return what names a trouble: the same one is told once, one that comes back is told again."""
    stuck = found.stuck
    if stuck is None:
        return ""
    return f"{found.model}:{found.partition}:{stuck.stage}:{stuck.reason}:{stuck.since:%Y%m%dT%H%M%S}"


def _stuck_text(found: PartitionProgress, *, num_others: int) -> str:
    stuck = found.stuck
    if stuck is None:
        return ""
    head = f"{found.model} {found.partition} is stuck before {stuck.stage}, since {stuck.since:%Y-%m-%d %H:%M} UTC"
    others = f"So are {num_others} later partitions." if num_others else ""
    lines = (f"{head}: {stuck.reason}.", f"{stuck.detail}.", others, f"Do: {stuck.command}", stuck.url)
    return "\n".join(line for line in lines if line)


def _goes_on_text(found: PartitionProgress) -> str:
    if found.stuck:
        return f"{found.model} {found.partition}: that trouble is over; it is stuck for another reason now."
    state = Stage.CLOSED if found.is_closed else found.furthest or "waiting"
    return f"{found.model} {found.partition} goes on: {state}."
