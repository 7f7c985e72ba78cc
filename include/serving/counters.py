"""What each version did under the present routes: the numbers that a rollout is decided by."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence  # noqa: TC003 - msgspec reads the fields' types
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from include.rollout.latency import NUM_BUCKETS, bucket_of

_LOG = logging.getLogger(__name__)


class Work(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one version made of one request, as the journal keeps it.

    Args:
        model: The model's name.
        revision: Of the routes under which the work began.
        version: Version that scored.
        role: champion, canary or shadow.
        request_id: The caller's id, or one made up.
        example_ids: The rows' names, None when the caller sent none.
        latency_ms: Of encoding and inference, alone; None: it was not timed.
        output: What is predicted; it names the column.
        num_classes: Numbers of a row of several classes; 0 where a row has one number.
        predictions: A number for each row, or a list of them for each; None: the version failed.
        disagreement: Of a shadow, the share of its rows that the champion predicted otherwise; None: not compared.
        columns: Every model input, request and store features alike, as the graph saw it.
        strings: Which of them are strings; the others are numbers.
        logged_at_us: Microseconds since 1970, UTC.
        sampling_weight: Rows that each of its rows stands for, when it is what a sample kept; 0: it is no sample.
        is_stand_in: Whether the champion did it because a canary had failed; such work is logged and not counted.
    """

    model: str
    revision: int
    version: str
    role: str
    request_id: str
    example_ids: Sequence[str] | None
    latency_ms: float | None
    output: str
    num_classes: int
    predictions: Sequence[Any] | None
    columns: Mapping[str, Sequence[Any]]
    strings: frozenset[str]
    logged_at_us: int
    disagreement: float | None = None
    sampling_weight: float = 0.0
    is_stand_in: bool = False

    @property
    def is_sampled(self) -> bool:
        """Whether it stands for other work too, which was counted when it was done."""
        return self.sampling_weight > 0

    @property
    def num_rows(self) -> int:
        """Rows that it predicted; none when it failed."""
        return len(self.predictions or ())


@dataclass(kw_only=True)
class WindowCounters:
    """What one version did in one role, since the routes last changed or since the server started.

    Args:
        requests: Requests that it scored or failed to score; a caller's own mistakes are not counted, nor is what the
            champion answered in place of a canary that failed.
        errors: Those that it failed to score.
        latency_counts: Scored requests that were timed, by `LATENCY_BOUNDS_MS` of their encoding and inference.
        latency_sum_ms: Of these.
        num_pairs: Requests that both it, as a shadow, and the champion scored.
        num_disagreements: Over these, the sum of the shares of rows that the two predicted differently.
    """

    requests: int = 0
    errors: int = 0
    latency_counts: list[int] = field(default_factory=lambda: [0] * NUM_BUCKETS)
    latency_sum_ms: float = 0.0
    num_pairs: int = 0
    num_disagreements: float = 0.0

    def add(self, *, is_ok: bool, latency_ms: float | None, disagreement: float | None = None) -> None:
        """Count one request."""
        self.requests += 1
        if not is_ok:
            self.errors += 1
            return
        if latency_ms is not None:
            self.latency_counts[bucket_of(latency_ms)] += 1
            self.latency_sum_ms += latency_ms
        if disagreement is not None:
            self.num_pairs += 1
            self.num_disagreements += disagreement

    def to_json(self, *, version: str, role: str) -> dict[str, Any]:
        """Return the counters and whose they are."""
        return {"version": version, "role": role, **asdict(self)}


class _SavedWindow(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: str
    role: str
    requests: int
    errors: int
    latency_counts: Annotated[list[int], msgspec.Meta(min_length=NUM_BUCKETS, max_length=NUM_BUCKETS)]
    latency_sum_ms: float
    num_pairs: int
    num_disagreements: float


class _SavedModel(msgspec.Struct, array_like=True):
    revision: int
    away_s: float
    windows: list[_SavedWindow]
    latencies: Literal["of lone requests"]


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
        """Count one version's work on one request.

        What a canary failed to score is the champion's only because it failed: where both fail on the same requests,
        counting it would raise the champion's share of errors with the canary's own.
        """
        if work.is_stand_in:
            return
        window = self.windows.setdefault((work.version, work.role), WindowCounters())
        is_ok = work.predictions is not None
        window.add(is_ok=is_ok, latency_ms=work.latency_ms, disagreement=work.disagreement)


@dataclass(kw_only=True)
class RouteCounters:
    """All models' counters; each change of a model's routes starts them anew."""

    _models: dict[str, Counted] = field(default_factory=dict)

    @property
    def revisions(self) -> dict[str, int]:
        """Model -> revision of the routes that its counters are of."""
        return {model: found.revision for model, found in self._models.items()}

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
                    _SavedWindow(**window.to_json(version=version, role=role))
                    for (version, role), window in counted.windows.items()
                ],
                latencies="of lone requests",
            )
            for model, counted in self._models.items()
        }
        return msgspec.msgpack.encode(saved)

    @classmethod
    def from_bytes(cls, content: bytes) -> RouteCounters:
        """Return the counters that `to_bytes` described; of a release that counted otherwise, none: they begin anew.

        Raises:
            msgspec.DecodeError: It is no MessagePack.
        """
        try:
            saved = msgspec.msgpack.decode(content, type=dict[str, _SavedModel])
        except msgspec.ValidationError as error:
            _LOG.warning("counters of another release begin anew: %s", error)
            return cls()
        return cls(_models={model: _counted(found) for model, found in saved.items()})


def _counted(saved: _SavedModel) -> Counted:
    windows = {(w.version, w.role): _window(msgspec.structs.asdict(w)) for w in saved.windows}
    return Counted(revision=saved.revision, away_s=saved.away_s, windows=windows)


def _window(saved: Mapping[str, Any]) -> WindowCounters:
    return WindowCounters(**{name: value for name, value in saved.items() if name not in ("version", "role")})
