from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from include.alerts.delivery import MAX_TEXT_CHARS, Alert, deliver
from include.errors import ServiceError
from include.rollout.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

ALERT = Alert(
    key="one",
    model="flight_delays",
    subject="train.fit",
    run="train:r1",
    actor="train:r1",
    channel="#ml",
    text="it failed",
)


@dataclass
class FakePoster:
    posts: list[tuple[str, str, str | None]] = field(default_factory=list)
    is_down: bool = False

    def post(self, *, channel: str, text: str, thread_ts: str | None) -> str:
        if self.is_down:
            raise ServiceError("Slack is down")
        self.posts.append((channel, text, thread_ts))
        return thread_ts or f"ts{len(self.posts)}"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(path=tmp_path / "ledger.sqlite")


def test_without_a_poster_the_alert_is_logged_and_kept(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        entry = deliver(ALERT, ledger=ledger, poster=None)
    assert "alert to #ml (no Slack token is set): it failed" in caplog.text
    assert ledger.entries("flight_delays", "alert") == [entry]
    assert entry.subject == "train.fit"
    assert entry.evidence == {
        "run": "train:r1",
        "channel": "#ml",
        "text": "it failed",
        "is_delivered": False,
        "problem": "no Slack token is set",
        "thread_ts": None,
    }


def test_messages_of_a_run_share_a_thread_and_runs_do_not(ledger: Ledger) -> None:
    poster = FakePoster()
    deliver(ALERT, ledger=ledger, poster=poster)
    deliver(replace(ALERT, key="two"), ledger=ledger, poster=poster)
    deliver(replace(ALERT, key="three", run="train:r2"), ledger=ledger, poster=poster)
    assert [thread for _, _, thread in poster.posts] == [None, "ts1", None]
    assert [e.evidence["thread_ts"] for e in ledger.entries(kind="alert")] == ["ts1", "ts1", "ts3"]


def test_the_same_alert_is_told_once(ledger: Ledger) -> None:
    poster = FakePoster()
    first = deliver(ALERT, ledger=ledger, poster=poster)
    assert deliver(ALERT, ledger=ledger, poster=poster) == first
    assert len(poster.posts) == 1
    assert len(ledger.entries()) == 1


def test_slack_being_down_fails_nothing_and_the_next_message_opens_the_thread(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    poster = FakePoster(is_down=True)
    entry = deliver(ALERT, ledger=ledger, poster=poster)
    assert (entry.evidence["is_delivered"], entry.evidence["problem"]) == (False, "Slack is down")
    assert "Slack is down" in caplog.text
    poster.is_down = False
    assert deliver(replace(ALERT, key="two"), ledger=ledger, poster=poster).evidence["thread_ts"] == "ts1"


@pytest.mark.parametrize(
    ("length", "expected"), [(MAX_TEXT_CHARS, MAX_TEXT_CHARS), (MAX_TEXT_CHARS + 1, MAX_TEXT_CHARS)]
)
def test_long_messages_are_cut(ledger: Ledger, length: int, expected: int) -> None:
    poster = FakePoster()
    deliver(replace(ALERT, text="x" * length), ledger=ledger, poster=poster)
    assert len(poster.posts[0][1]) == expected
    assert poster.posts[0][1].endswith("…") is (length > expected)
