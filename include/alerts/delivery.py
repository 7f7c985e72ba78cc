"""What people are told: always in the ledger, and in a Slack thread of the run where a token is set."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from include.rollout.ledger import Entry, Ledger

KIND = "alert"
DEFAULT_CHANNEL = "#ml-alerts"
MAX_TEXT_CHARS = 3000
"""Slack cuts longer messages; so does the ledger's reader's patience."""

_LOG = logging.getLogger(__name__)


class Poster(Protocol):
    """Sends a message and returns the thread that it is in, so that the next ones of a run can join it."""

    def post(self, *, channel: str, text: str, thread_ts: str | None) -> str:
        """Return the thread's id.

        Raises:
            ServiceError: The message was not taken.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One message.

    Args:
        key: What makes it unique; the same key is told once.
        model: The model it is about.
        subject: What it is about, for example a task.
        run: Id of the run; all messages of a run share one thread.
        actor: Who tells: a Dag run, a person.
        channel: Where to, for example `#ml-alerts`.
        text: What, in plain words.
    """

    key: str
    model: str
    subject: str
    run: str
    actor: str
    channel: str
    text: str


def deliver(alert: Alert, *, ledger: Ledger, poster: Poster | None) -> Entry:
    """Tell an alert once and return its ledger entry; without a poster, or if it fails, log it.

    An alert never fails what it reports on: Slack being down is written beside it. A process that is killed between
    the post and the entry tells it twice when it runs again, never zero times.
    """
    from include.errors import ServiceError

    told = ledger.find(alert.key)
    if told is not None:
        return told
    earlier = ledger.entries(alert.model, kind=KIND)
    threads = (e.evidence.get("thread_ts") for e in earlier if e.evidence.get("run") == alert.run)
    thread_ts = next((found for found in threads if found), None)
    text = alert.text if len(alert.text) <= MAX_TEXT_CHARS else f"{alert.text[: MAX_TEXT_CHARS - 1]}…"
    problem: str | None = "no Slack token is set"
    if poster is not None:
        try:
            thread_ts, problem = poster.post(channel=alert.channel, text=text, thread_ts=thread_ts), None
        except ServiceError as error:
            problem = str(error)
    if problem is not None:
        _LOG.warning("alert to %s (%s): %s", alert.channel, problem, text)
    evidence = {
        "run": alert.run,
        "channel": alert.channel,
        "text": text,
        "is_delivered": problem is None,
        "problem": problem,
        "thread_ts": thread_ts,
    }
    return ledger.append(
        model=alert.model, kind=KIND, subject=alert.subject, evidence=evidence, actor=alert.actor, key=alert.key
    )
