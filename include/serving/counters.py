"""What each version did under the present routes: the numbers that a rollout is decided by."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence  # noqa: TC003 - msgspec reads the fields' types
from dataclasses import dataclass, field
from typing import Any

import msgspec

LATENCY_SAMPLES = 4096


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What one version made of one request, as the journal keeps it.

    Args:
        model: The model's name.
        revision: Of the routes under which the work began.
        version: Version that scored.
        role: champion, canary or shadow.
        request_id: The caller's id, or one made up.
        example_ids: The rows' names, None when the caller sent none.
        latency_ms: Of encoding and inference.
        output: What is predicted; it names the column.
        num_classes: Numbers of a row of several classes; 0 where a row has one number.
        predictions: A number for each row, or a list of them for each; None: the version failed.
        sums: Sum over the rows of each number of a row.
        columns: Every model input, request and store features alike, as the graph saw it.
        strings: Which of them are strings; the others are numbers.
        logged_at_us: Microseconds since 1970, UTC.
    """

    model: str
    revision: int
    version: str
    role: str
    request_id: str
    example_ids: Sequence[str] | None
    latency_ms: float
    output: str
    num_classes: int
    predictions: Sequence[Any] | None
    sums: tuple[float, ...]
    columns: Mapping[str, Sequence[Any]]
    strings: frozenset[str]
    logged_at_us: int

    @property
    def num_rows(self) -> int:
        """Rows that it predicted; none when it failed."""
        return len(self.predictions or ())


@dataclass(kw_only=True)
class WindowCounters:
    """What one version did in one role since the routes last changed."""

    requests: int = 0
    errors: int = 0
    prediction_sums: tuple[float, ...] = ()
    num_predictions: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_SAMPLES))

    def add(self, sums: Sequence[float], *, num_rows: int, latency_ms: float) -> None:
        """Count one request by the sum of each number of its predictions; no rows: the version failed."""
        self.requests += 1
        if not num_rows:
            self.errors += 1
            return
        self.prediction_sums = tuple(map(sum, zip(self.prediction_sums or [0.0] * len(sums), sums, strict=True)))
        self.num_predictions += num_rows
        self.latencies_ms.append(latency_ms)

    def to_json(self, *, version: str, role: str) -> dict[str, Any]:
        """Return the counters with quantiles in place of samples."""
        ordered = sorted(self.latencies_ms)
        quantiles = {
            f"p{pct}": ordered[min(len(ordered) - 1, len(ordered) * pct // 100)] if ordered else None
            for pct in (50, 95, 99)
        }
        return {
            "version": version,
            "role": role,
            "requests": self.requests,
            "errors": self.errors,
            "prediction_sums": list(self.prediction_sums),
            "num_predictions": self.num_predictions,
            "latency_ms": {"samples": len(ordered), **quantiles},
        }


class _SavedWindow(msgspec.Struct, array_like=True):
    version: str
    role: str
    requests: int
    errors: int
    prediction_sums: tuple[float, ...]
    num_predictions: int
    latencies_ms: list[float]


class _SavedModel(msgspec.Struct, array_like=True):
    revision: int
    away_s: float
    windows: list[_SavedWindow]


@dataclass(kw_only=True)
class Counted:
    """What was counted of one model.

    Args:
        revision: Of the routes that it was counted under.
        away_s: Seconds since that change of the routes in which no server ran.
        windows: (version, role) -> counters.
    """

    revision: int
    away_s: float = 0.0
    windows: dict[tuple[str, str], WindowCounters] = field(default_factory=dict)

    def add(self, work: Work) -> None:
        """Count one version's work on one request."""
        window = self.windows.setdefault((work.version, work.role), WindowCounters())
        window.add(work.sums, num_rows=work.num_rows, latency_ms=work.latency_ms)


@dataclass(kw_only=True)
class RouteCounters:
    """All models' counters; each change of a model's routes starts them anew."""

    _models: dict[str, Counted] = field(default_factory=dict)

    def add(self, work: Work) -> None:
        """Count one version's work; work that began under earlier routes says nothing about the present ones."""
        found = self._models.get(work.model)
        if found is None or found.revision < work.revision:
            found = self._models[work.model] = Counted(revision=work.revision)
        if found.revision == work.revision:
            found.add(work)

    def of(self, model: str, *, revision: int) -> Counted:
        """Return what was counted of a model since a change of its routes."""
        found = self._models.get(model)
        return found if found is not None and found.revision == revision else Counted(revision=revision)

    def pause(self, model: str, *, revision: int, seconds: float) -> None:
        """Say that no server ran for so long since a change of the routes."""
        found = self._models[model] = self.of(model, revision=revision)
        found.away_s += seconds

    def to_bytes(self) -> bytes:
        """Return all counters as `from_bytes` reads them."""
        saved = {
            model: _SavedModel(
                counted.revision,
                counted.away_s,
                [
                    _SavedWindow(*key, w.requests, w.errors, w.prediction_sums, w.num_predictions, list(w.latencies_ms))
                    for key, w in counted.windows.items()
                ],
            )
            for model, counted in self._models.items()
        }
        return msgspec.msgpack.encode(saved)

    @classmethod
    def from_bytes(cls, content: bytes) -> RouteCounters:
        """Return the counters that `to_bytes` described.

        Raises:
            msgspec.DecodeError: It did not.
        """
        saved = msgspec.msgpack.decode(content, type=dict[str, _SavedModel])
        return cls(_models={model: _counted(found) for model, found in saved.items()})


def _counted(saved: _SavedModel) -> Counted:
    windows = {
        (w.version, w.role): WindowCounters(
            requests=w.requests,
            errors=w.errors,
            prediction_sums=w.prediction_sums,
            num_predictions=w.num_predictions,
            latencies_ms=deque(w.latencies_ms, maxlen=LATENCY_SAMPLES),
        )
        for w in saved.windows
    }
    return Counted(revision=saved.revision, away_s=saved.away_s, windows=windows)
