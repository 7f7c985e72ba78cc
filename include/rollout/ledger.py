"""The ledger: an append-only, hash-chained file of every decision about what serves, and why."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError, CorruptArtifactError, ServiceError
from include.rollout.ledger_file import TAKEOVER, TURN, open_ledger, read_at_once, write_alone

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping
    from pathlib import Path

GENESIS = "0" * 64
"""What the first entry names as the hash of the one before."""

_COLUMNS = "seq, key, model, kind, body, previous_hash, hash"
_LAST = "SELECT seq, hash, json_extract(body, '$.at') FROM entries ORDER BY seq DESC LIMIT 1"
_LAST_SEQ = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One decision.

    Args:
        seq: Position, from 1, without gaps.
        key: What makes the entry unique; appending the same key again returns this entry.
        model: The model's name.
        kind: For example promote, roll_back, gate, retrain_decision, alert.
        subject: What was decided about, most often a version.
        evidence: JSON-able values that the decision rests on.
        actor: Who or what decided: a Dag run, a person.
        at: When it was recorded, UTC.
        previous_hash: `hash` of the entry before, GENESIS for the first.
        hash: SHA-256 over `previous_hash` and the canonical JSON of all the other fields.
    """

    seq: int
    key: str
    model: str
    kind: str
    subject: str
    evidence: Mapping[str, Any]
    actor: str
    at: datetime
    previous_hash: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A ledger whose every link holds.

    Args:
        num_entries: How many.
        head: Hash of the newest of them, GENESIS without one.
    """

    num_entries: int
    head: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """A SQLite file in WAL mode that any number of processes of one machine append to.

    Args:
        path: The file; it and its folder are made when missing.
        now: Clock, UTC.
    """

    path: str | Path
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def append(  # the entry's own fields; a value object would only repeat them
        self,
        *,
        model: str,
        kind: str,
        subject: str,
        evidence: Mapping[str, Any],
        actor: str,
        key: str,
        after: int | None = None,
    ) -> Entry:
        """Record a decision once and return its entry; an equal `key` returns the entry that is already there.

        With `after`, the model's newest turn must still be at that position (see `turn_seq`).

        Raises:
            BadInputError: `evidence` is not JSON-able, or `key` belongs to another model, kind or subject.
            ServiceError: Another process held the file for longer than 30 s, or the disk refused the write, or there
                was another turn meanwhile.
        """
        with open_ledger(self.path) as connection, write_alone(connection):
            row = connection.execute(f"SELECT {_COLUMNS} FROM entries WHERE key = ?", (key,)).fetchone()  # noqa: S608 - a constant
            if row is not None:
                return _require_same(_entry(row), model=model, kind=kind, subject=subject)
            if after is not None:
                _require_newest_turn(connection, model, after)
            seq, previous_hash, earliest = connection.execute(_LAST).fetchone() or (0, GENESIS, "")
            seq += 1
            at = max(_text(self.now()), earliest)  # a clock that was set back puts no entry before the one it follows
            body = _canonical({"subject": subject, "evidence": evidence, "actor": actor, "at": at})
            entry_hash = _hash(seq=seq, key=key, model=model, kind=kind, body=body, previous_hash=previous_hash)
            row = (seq, key, model, kind, body, previous_hash, entry_hash)
            connection.execute(f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608 - a constant
            return _entry(row)

    def entries(self, model: str | None = None, kind: str | None = None) -> list[Entry]:
        """Return the entries of a model and a kind, or of all, oldest first."""
        query = f"SELECT {_COLUMNS} FROM entries WHERE model = ifnull(?, model) AND kind = ifnull(?, kind) ORDER BY seq"  # noqa: S608 - a constant
        with open_ledger(self.path) as connection:
            return [_entry(row) for row in connection.execute(query, (model, kind))]

    def find(self, key: str) -> Entry | None:
        """Return the entry with a key, None if it was not recorded."""
        return self._first("key = ?", key)

    def newest(self, model: str, *kinds: str, subject: str | None = None, until: int | None = None) -> Entry | None:
        """Return a model's newest entry of some kinds about a subject, None without one.

        Args:
            model: The model's name.
            kinds: At least one.
            subject: What was decided about; None: whatever it was.
            until: Last position that counts; None: all.
        """
        marks = ", ".join("?" * len(kinds))
        about = "" if subject is None else " AND json_extract(body, '$.subject') = ?"
        condition = f"model = ? AND kind IN ({marks}) AND seq <= ?{about} ORDER BY seq DESC"
        return self._first(
            condition, model, *kinds, _LAST_SEQ if until is None else until, *([subject] if about else [])
        )

    def takeover(self, model: str, *, until: int | None = None) -> Entry | None:
        """Return the newest entry by which a version took over; its evidence names the `champion`."""
        until = _LAST_SEQ if until is None else until
        return self._first(f"model = ? AND seq <= ? AND {TAKEOVER} ORDER BY seq DESC", model, until)

    def turn_seq(self, model: str) -> int:
        """Return the position of the newest entry by which a version took over or was taken out, 0 without one."""
        with open_ledger(self.path) as connection:
            return _turn_seq(connection, model)

    def require_turn(self, model: str, after: int) -> None:
        """Refuse to go on unless the newest turn is the one at a position.

        Raises:
            ServiceError: It is another one.
        """
        with open_ledger(self.path) as connection:
            _require_newest_turn(connection, model, after)

    def position_at(self, when: datetime) -> int:
        """Return the position of the newest entry that was recorded at a moment or before it, 0 without one."""
        with open_ledger(self.path) as connection:
            last = connection.execute(_LAST).fetchone()

            def recorded_at(seq: int) -> str:
                query = "SELECT json_extract(body, '$.at') FROM entries WHERE seq = ?"
                row = connection.execute(query, (seq,)).fetchone()
                if row is None:
                    raise self._broken(f"it must hold entry {seq}; got none")
                return str(row[0])

            return bisect_right(range(1, last[0] + 1 if last else 1), _text(when), key=recorded_at)

    def head(self) -> str:
        """Return the hash of the newest entry, GENESIS without one."""
        with open_ledger(self.path) as connection:
            row = connection.execute(_LAST).fetchone()
        return row[1] if row else GENESIS

    def verify(self, *, expected_head: str | None = None) -> int:
        """Check every link of the chain and return the number of entries; see `verified`."""
        return self.verified(expected_head=expected_head).num_entries

    def verified(self, *, expected_head: str | None = None) -> Chain:
        """Check every link of the chain, as it is at one moment, and return it.

        Args:
            expected_head: Hash of an entry that was kept elsewhere; it must still be in the chain. Only this finds what
                somebody did to the whole of it: a file that was written anew from the first entry on, is another or
                is gone, and one whose newest entries were removed and SQLite's count of what was issued set to match.

        Raises:
            CorruptArtifactError: A row was edited, removed, added out of turn or reordered.
        """
        with open_ledger(self.path) as connection, read_at_once(connection):
            rows = connection.execute(f"SELECT {_COLUMNS} FROM entries ORDER BY seq").fetchall()  # noqa: S608 - a constant
            issued = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
        previous_hash = GENESIS
        for position, (seq, key, model, kind, body, named_previous, named_hash) in enumerate(rows, start=1):
            computed = _hash(seq=seq, key=key, model=model, kind=kind, body=body, previous_hash=previous_hash)
            if (seq, named_previous, named_hash) != (position, previous_hash, computed):
                raise self._broken(f"entry {position} must follow hash {previous_hash[:12]}; got row {seq}, edited")
            previous_hash = named_hash
        num_issued = issued[0] if issued else 0
        if num_issued != len(rows):
            raise self._broken(f"it must hold the {num_issued} entries that it issued; got {len(rows)}")
        if expected_head is not None and expected_head not in {GENESIS, *(row[-1] for row in rows)}:
            raise self._broken(f"it must hold the entry with hash {expected_head[:12]}; got none")
        return Chain(num_entries=len(rows), head=previous_hash)

    def _first(self, condition: str, *values: Any) -> Entry | None:
        query = f"SELECT {_COLUMNS} FROM entries WHERE {condition} LIMIT 1"  # noqa: S608 - constants; values are bound
        with open_ledger(self.path) as connection:
            row = connection.execute(query, values).fetchone()
        return _entry(row) if row else None

    def _broken(self, what: str) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"ledger {self.path} is not as it was written: {what}. Nothing was changed. Restore it from a backup."
        )


def _hash(*, seq: int, key: str, model: str, kind: str, body: str, previous_hash: str) -> str:
    text = _canonical([previous_hash, seq, key, model, kind, body])
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInputError(
            f"evidence of a ledger entry must be JSON without NaN; got: {error}. Nothing was recorded. Convert it."
        ) from error


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _entry(row: tuple[Any, ...]) -> Entry:
    seq, key, model, kind, body, previous_hash, entry_hash = row
    fields = json.loads(body)
    at = datetime.fromisoformat(fields.pop("at"))
    return Entry(
        seq=seq, key=key, model=model, kind=kind, at=at, previous_hash=previous_hash, hash=entry_hash, **fields
    )


def _turn_seq(connection: sqlite3.Connection, model: str) -> int:
    query = f"SELECT ifnull(max(seq), 0) FROM entries WHERE model = ? AND {TURN}"  # noqa: S608 - a constant
    return int(connection.execute(query, (model,)).fetchone()[0])


def _require_newest_turn(connection: sqlite3.Connection, model: str, after: int) -> None:
    found = _turn_seq(connection, model)
    if found != after:
        raise ServiceError(
            f"the newest takeover or withdrawal of {model!r} must still be entry {after} of the ledger; got {found}: "
            "somebody else decided meanwhile. Nothing was recorded. A retry reads the routes anew."
        )


def _require_same(entry: Entry, *, model: str, kind: str, subject: str) -> Entry:
    if (entry.model, entry.kind, entry.subject) != (model, kind, subject):
        raise BadInputError(
            f"ledger key {entry.key!r} belongs to {entry.kind} of {entry.model} {entry.subject}; got {kind} of {model} "
            f"{subject}. Nothing was recorded. Name another key."
        )
    return entry
