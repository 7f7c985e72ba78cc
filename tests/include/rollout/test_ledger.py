from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from include.errors import BadInputError, CorruptArtifactError, ServiceError
from include.rollout.ledger import GENESIS, Chain, Entry, Ledger
from include.rollout.ledger_file import open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
TRIGGERS = ("entries_never_change", "entries_never_vanish", "entries_only_follow")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(path=tmp_path / "made" / "ledger.sqlite")


def note(ledger: Ledger, key: str, *, kind: str = "promote", subject: str = "1", **evidence: object) -> Entry:
    return ledger.append(model="m", kind=kind, subject=subject, evidence=evidence, actor="test", key=key)


def tamper(ledger: Ledger, *statements: str) -> None:
    """Do what somebody with the file and no respect for its triggers could do."""
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement)


def test_entries_are_chained_and_read_back(ledger: Ledger) -> None:
    first = note(ledger, "a", champion="1")
    second = note(ledger, "b", champion="2", nested={"ü": [1, 2.5, None]})
    assert (first.seq, first.previous_hash) == (1, GENESIS)
    assert (second.seq, second.previous_hash) == (2, first.hash)
    assert ledger.entries() == [first, second]
    assert ledger.verify() == 2
    assert ledger.verify(expected_head=second.hash) == 2


def test_an_equal_key_is_recorded_once(ledger: Ledger) -> None:
    first = note(ledger, "a", share=10)
    assert note(ledger, "a", share=11) == first
    assert len(ledger.entries()) == 1


def test_a_key_of_another_subject_is_refused(ledger: Ledger) -> None:
    note(ledger, "a")
    with pytest.raises(BadInputError, match="belongs to promote of m 1; got promote of m 2"):
        note(ledger, "a", subject="2")
    assert ledger.verify() == 1


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_evidence_must_be_json(ledger: Ledger, value: object) -> None:
    with pytest.raises(BadInputError, match="must be JSON without NaN"):
        note(ledger, "a", value=value)
    assert ledger.entries() == []


def test_entries_are_filtered(ledger: Ledger) -> None:
    note(ledger, "a", kind="gate")
    note(ledger, "b", kind="promote")
    ledger.append(model="other", kind="gate", subject="1", evidence={}, actor="test", key="c")
    assert [e.key for e in ledger.entries("m")] == ["a", "b"]
    assert [e.key for e in ledger.entries(kind="gate")] == ["a", "c"]
    assert [e.key for e in ledger.entries("m", "gate")] == ["a"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = '{}'",
        "DELETE FROM entries",
        "INSERT OR REPLACE INTO entries VALUES (1, 'a', 'm', 'x', '{}', 'p', 'h')",
        "INSERT OR REPLACE INTO entries VALUES (9, 'a', 'm', 'x', '{}', 'p', 'h')",
        "INSERT INTO entries VALUES (0, 'z', 'm', 'x', '{}', 'p', 'h')",
    ],
)
def test_the_file_itself_refuses_changes(ledger: Ledger, statement: str) -> None:
    note(ledger, "a")
    with (
        closing(sqlite3.connect(ledger.path)) as connection,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        connection.execute(statement)
    assert ledger.verify() == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = replace(body, '\"share\":1', '\"share\":9') WHERE seq = 2",
        "UPDATE entries SET kind = 'gate' WHERE seq = 2",
        "UPDATE entries SET hash = previous_hash WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 1",
        "DELETE FROM entries WHERE seq = 2",
        "DELETE FROM entries WHERE seq = 3",
        "DELETE FROM entries",
        "UPDATE entries SET seq = -(5 - seq) WHERE seq > 1",
        "INSERT INTO entries VALUES (4, 'd', 'm', 'promote', '{}', (SELECT hash FROM entries WHERE seq = 3), 'x')",
    ],
    ids=["body", "kind", "hash", "first", "middle", "last", "all", "reordered", "forged"],
)
def test_verify_finds_tampering(ledger: Ledger, statement: str) -> None:
    for key in "abc":
        note(ledger, key, share=1)
    tamper(ledger, statement, "UPDATE entries SET seq = -seq WHERE seq < 0")
    with pytest.raises(CorruptArtifactError, match="Restore it from a backup"):
        ledger.verify()


def test_entries_without_a_count_of_what_was_issued_are_tampering(ledger: Ledger) -> None:
    for key in "abc":
        note(ledger, key)
    tamper(ledger, "DELETE FROM entries WHERE seq = 3", "DELETE FROM sqlite_sequence")
    with pytest.raises(CorruptArtifactError, match="must hold the 0 entries that it issued; got 2"):
        ledger.verify()


def test_a_head_kept_elsewhere_finds_that_the_newest_were_removed_with_their_count(ledger: Ledger) -> None:
    first, second = note(ledger, "a"), note(ledger, "b")
    tamper(ledger, "DELETE FROM entries WHERE seq = 2", "UPDATE sqlite_sequence SET seq = 1")
    assert ledger.verified() == Chain(num_entries=1, head=first.hash)
    with pytest.raises(CorruptArtifactError, match="must hold the entry with hash"):
        ledger.verify(expected_head=second.hash)


def test_a_head_kept_elsewhere_finds_a_rewritten_file(ledger: Ledger) -> None:
    head = note(ledger, "a", share=1).hash
    Path(ledger.path).unlink()
    note(ledger, "a", share=2)
    assert ledger.verify() == 1
    with pytest.raises(CorruptArtifactError, match="got none"):
        ledger.verify(expected_head=head)


def test_what_is_appended_meanwhile_is_no_tampering(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    first = note(ledger, "a")
    other = Ledger(path=ledger.path)

    @contextmanager
    def watched(path: str | Path) -> Iterator[sqlite3.Connection]:
        """Let somebody append before each statement that follows the reading of the entries."""
        with open_ledger(path) as connection:
            seen: list[str] = []

            def begins(statement: str) -> None:
                if any("FROM entries" in before for before in seen):
                    monkeypatch.undo()
                    note(other, f"meanwhile-{len(seen)}")
                seen.append(statement)

            connection.set_trace_callback(begins)
            yield connection

    monkeypatch.setattr("include.rollout.ledger.open_ledger", watched)
    assert ledger.verified() == Chain(num_entries=1, head=first.hash)
    assert ledger.verify() > 1


def test_a_key_finds_its_entry(ledger: Ledger) -> None:
    entry = note(ledger, "a")
    assert ledger.find("a") == entry
    assert ledger.find("b") is None


def test_the_newest_entry_is_found_by_kind_and_subject(ledger: Ledger) -> None:
    for key, kind, subject in (("a", "promote", "1"), ("b", "gate", "1"), ("c", "promote", "2"), ("d", "gate", "2")):
        note(ledger, key, kind=kind, subject=subject)

    def key_of(*kinds: str, subject: str | None = None, until: int | None = None) -> str | None:
        found = ledger.newest("m", *kinds, subject=subject, until=until)
        return found and found.key

    assert key_of("promote") == "c"
    assert key_of("promote", "gate") == "d"
    assert key_of("gate", subject="1") == "b"
    assert key_of("promote", until=2) == "a"
    assert key_of("alert") is None
    assert ledger.newest("other", "promote") is None


def test_a_clock_that_is_set_back_puts_no_entry_before_another(tmp_path: Path) -> None:
    clock = iter([datetime(2026, 1, day, tzinfo=UTC) for day in (5, 2, 6)])
    ledger = Ledger(path=tmp_path / "l.sqlite", now=lambda: next(clock))
    assert [note(ledger, key).at.day for key in "abc"] == [5, 5, 6]
    assert [ledger.position_at(datetime(2026, 1, day, tzinfo=UTC)) for day in (4, 5, 6)] == [0, 2, 3]


def test_the_file_of_an_earlier_release_gets_its_indexes(ledger: Ledger) -> None:
    note(ledger, "a", champion="1")
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        connection.execute("DROP INDEX takeovers")
        connection.execute("DROP INDEX entries_by_subject")
        connection.execute("PRAGMA user_version = 1")
    taken_over = ledger.takeover("m")
    assert taken_over is not None
    assert taken_over.key == "a"
    with closing(sqlite3.connect(ledger.path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert {"takeovers", "entries_by_subject"} <= names
    assert ledger.verify() == 1


def test_threads_that_write_at_once_share_one_chain(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: note(ledger, f"k{number % 20}"), range(40)))
    assert ledger.verify() == 20


@pytest.mark.parametrize("attempt", range(20))
def test_threads_that_all_make_the_file_wait_for_each_other(ledger: Ledger, attempt: int) -> None:
    together = Barrier(8)

    def write(key: int) -> None:
        together.wait()
        note(ledger, f"{attempt}-{key}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert ledger.verify() == 8


def test_processes_that_write_at_once_share_one_chain(ledger: Ledger) -> None:
    code = (
        "import sys; from include.rollout.ledger import Ledger\n"
        "for n in range(15):\n"
        "    Ledger(path=sys.argv[1]).append(model='m', kind='gate', subject='1', evidence={}, actor='p', "
        "key=f'{sys.argv[2]}-{n}' if n % 3 else f'shared-{n}')"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(ledger.path), str(number)], cwd=ROOT) for number in range(4)
    ]
    assert [child.wait() for child in children] == [0, 0, 0, 0]
    assert ledger.verify() == 4 * 10 + 5


def test_a_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_text("not a database, by far" * 100)
    with pytest.raises(CorruptArtifactError, match="must be a writable SQLite file"):
        Ledger(path=path).entries()


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="Nothing was recorded"):
        Ledger(path=tmp_path).entries()


def test_import_is_light() -> None:
    code = "import sys, include.rollout.ledger; print([m for m in sys.modules if m in {'airflow', 'pydantic', 'yaml'}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
