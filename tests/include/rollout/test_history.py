from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from include.rollout.history import (
    champion_of,
    failed_stages,
    former_champion,
    is_rolled_out,
    serving_at,
    takeover_of,
    was_taken_out,
)
from include.rollout.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 1, 1, tzinfo=UTC)
NUM_ENTRIES = 100_000


class Written:
    """A ledger with one entry an hour."""

    def __init__(self, path: Path) -> None:
        self._hours = 0
        self.ledger = Ledger(path=path, now=lambda: START + timedelta(hours=self._hours))

    def note(self, kind: str, subject: str, *, key: str = "", **evidence: object) -> None:
        self._hours += 1
        key = key or f"run:{self._hours}"
        self.ledger.append(model="m", kind=kind, subject=subject, evidence=evidence, actor="test", key=key)

    def serving(self, hours: float) -> list[tuple[str, str, float]]:
        found = serving_at(self.ledger, "m", START + timedelta(hours=hours))
        return [(one.version, one.role, one.share_pct) for one in found]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path / "ledger.sqlite")


def roll_out(written: Written) -> None:
    written.note("bootstrap", "1", champion="1", previous=None, digest="d1", commit="c1")
    written.note("shadow", "2", state="started", champion="1", digest="d2", commit="c2")
    written.note("shadow", "2", state="ended", verdict="pass")
    written.note("canary_step", "2", state="started", share_pct=10, champion="1")
    written.note("canary_step", "2", state="ended", share_pct=10, verdict="pass")
    written.note("promote", "2", champion="2", previous="1", digest="d2", commit="c2")


def test_who_served_at_each_moment_of_a_rollout(written: Written) -> None:
    roll_out(written)
    written.note("roll_back", "1", champion="1", previous="2")

    assert written.serving(0.5) == []
    assert written.serving(1) == [("1", "champion", 100)]
    assert written.serving(2) == [("1", "champion", 100), ("2", "shadow", 0)]
    assert written.serving(3.5) == [("1", "champion", 100), ("2", "shadow", 0)]
    assert written.serving(4) == [("1", "champion", 90), ("2", "canary", 10)]
    assert written.serving(5.5) == [("1", "champion", 90), ("2", "canary", 10)]
    assert written.serving(6) == [("2", "champion", 100)]
    assert written.serving(7) == [("1", "champion", 100)]
    assert serving_at(written.ledger, "other", START + timedelta(days=1)) == ()


def test_a_challenger_that_was_taken_out_serves_no_more(written: Written) -> None:
    written.note("bootstrap", "1", champion="1", previous=None)
    written.note("canary_step", "2", state="started", share_pct=10)
    written.note("roll_back", "2", champion="1", withdrawn="2")
    written.note("roll_back", "2", champion=None)

    assert written.serving(2) == [("1", "champion", 90), ("2", "canary", 10)]
    assert written.serving(3) == [("1", "champion", 100)]
    assert champion_of(written.ledger, "m") == "1"


def test_a_challenger_serves_until_it_is_taken_out_itself(written: Written) -> None:
    written.note("bootstrap", "1", champion="1", previous=None)
    written.note("deploy", "2", champion="1")
    written.note("canary_step", "2", state="started", share_pct=10)
    written.note("roll_back", "3", champion="1", withdrawn="3")
    written.note("deploy", "4", champion="1")

    assert written.serving(4) == [("1", "champion", 90), ("2", "canary", 10)]
    assert written.serving(5) == [("1", "champion", 100)]  # the rollout that begins took it out


def test_a_rollout_ends_when_its_version_is_taken_out_or_another_one_takes_over(written: Written) -> None:
    def is_over() -> list[bool]:
        begun = written.ledger.newest("m", "deploy", subject="2")
        assert begun is not None
        return [was_taken_out(written.ledger, begun), not is_rolled_out(written.ledger, "m", "2")]

    def begin() -> None:
        written.note("deploy", "2", champion="1")
        assert is_over() == [False, False]

    begin()
    written.note("roll_back", "2", champion="1", withdrawn="2")
    written.note("roll_back", "3", champion="1", withdrawn="3")
    assert is_over() == [True, True]
    begin()
    written.note("promote", "4", champion="4", previous="1")
    assert is_over() == [True, True]
    begin()
    written.note("deploy", "3", champion="1")
    assert is_over() == [False, True]


def test_the_origin_is_told_for_champion_and_canary(written: Written) -> None:
    roll_out(written)
    champion, canary = serving_at(written.ledger, "m", START + timedelta(hours=4))

    assert (champion.origin["commit"], canary.origin["commit"]) == ("c1", "c2")
    assert canary.decided.evidence["share_pct"] == 10


def test_a_version_that_nobody_recorded_the_origin_of_has_none(written: Written) -> None:
    written.note("bootstrap", "1", champion="1", previous=None)
    (champion,) = serving_at(written.ledger, "m", START + timedelta(hours=1))
    assert champion.origin == {}


def test_going_back_twice_goes_back_two_versions(written: Written) -> None:
    written.note("bootstrap", "1", champion="1", previous=None)
    written.note("promote", "2", champion="2", previous="1")
    written.note("promote", "3", champion="3", previous="2")
    assert former_champion(written.ledger, "m") == "2"
    written.note("roll_back", "2", champion="2", previous="3")
    assert former_champion(written.ledger, "m") == "1"
    taken_over = takeover_of(written.ledger, "m", "2")
    assert taken_over is not None
    assert taken_over.kind == "promote"


def test_a_version_that_only_a_rollback_installed_goes_back_to_the_one_it_replaced_first(written: Written) -> None:
    written.note("bootstrap", "1", champion="1", previous=None)
    written.note("roll_back", "5", champion="1", withdrawn="5")
    written.note("roll_back", "5", champion="5", previous="1")
    assert former_champion(written.ledger, "m") == "1"
    written.note("promote", "6", champion="6", previous="5")
    written.note("roll_back", "5", champion="5", previous="6")
    assert former_champion(written.ledger, "m") == "1"


def test_failed_stages_of_one_run_come_oldest_first(written: Written) -> None:
    written.note("canary_step", "2", key="a:1", verdict="inconclusive")
    written.note("shadow", "2", key="a:2", verdict="fail")
    written.note("shadow", "2", key="b:1", verdict="fail")
    written.note("shadow", "3", key="a:3", verdict="fail")
    written.note("shadow", "2", key="a:4", verdict="pass")

    found = failed_stages(written.ledger, "m", run_key="a", version="2")
    assert [entry.key for entry in found] == ["a:1", "a:2"]


def fill(ledger: Ledger) -> None:
    """Write the entries of many rollouts, as one transaction; their hashes are of no matter here."""
    roll_out_kinds = ("shadow", "canary_step", "canary_step", "roll_back", "gate", "alert", "promote", "shadow")
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        first = connection.execute("SELECT max(seq) FROM entries").fetchone()[0] + 1
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?, 'm', ?, ?, '', '')",
            (
                (seq, f"k{seq}", kind, _body(kind, seq))
                for seq in range(first, NUM_ENTRIES + 1)
                for kind in [roll_out_kinds[seq % len(roll_out_kinds)]]
            ),
        )


def _body(kind: str, seq: int) -> str:
    version = str(seq // 8)
    evidence: dict[str, object] = {"reasons": ["every measure is within its limit"] * 5, "champion": version}
    if kind == "roll_back":
        evidence["withdrawn"] = version
    elif kind in ("shadow", "canary_step"):
        evidence |= {"state": "started", "share_pct": 10}
    at = (START + timedelta(minutes=seq)).isoformat(timespec="microseconds")
    return json.dumps({"subject": version, "evidence": evidence, "actor": "test", "at": at})


def test_a_hundred_thousand_entries_answer_within_100_ms(written: Written) -> None:
    written.note("bootstrap", "1", champion="1", previous=None, digest="d1")
    fill(written.ledger)
    moments = [START + timedelta(minutes=share * NUM_ENTRIES) for share in (0.001, 0.3, 0.5, 0.9, 2)]

    for when in moments:
        spent_s, waited_s = [], []
        for _ in range(5):
            started_s, began_s = time.thread_time(), time.perf_counter()
            assert serving_at(written.ledger, "m", when)
            spent_s.append(time.thread_time() - started_s)
            waited_s.append(time.perf_counter() - began_s)
        assert max(spent_s) < 0.1
        assert min(waited_s) < 0.1  # other processes may take the processor meanwhile, but not each time
    assert written.ledger.position_at(moments[-1]) == NUM_ENTRIES
