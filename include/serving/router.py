"""Which version answers which request, what each one did under the present routes, and what outlives a restart."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import deque
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError, ServiceError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

BUCKETS = 1000
"""Requests fall into this many buckets by their key, so a share is a multiple of 0.1 %."""

LATENCY_SAMPLES = 4096
FULL_PCT = 100.0


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Where a model's requests go."""

    champion: str | None = None
    canary: str | None = None
    canary_share_pct: float = 0.0
    shadow: str | None = None

    def require_possible(self) -> None:
        """Refuse routes that contradict themselves.

        Raises:
            BadInputError: A share without a canary, a canary or shadow without a champion, or one version twice.
        """
        share = self.canary_share_pct
        on_grid = 0 <= share < FULL_PCT and math.isclose(share * 10, round(share * 10), abs_tol=1e-6)
        named = [version for version in (self.champion, self.canary, self.shadow) if version is not None]
        problem = ""
        if not on_grid:
            problem = f"need canary_share_pct from 0 to below 100 in steps of 0.1; got {share}"
        elif (self.canary is None) != (share == 0):
            problem = f"need a canary and its share together; got canary {self.canary}, share {share} %"
        elif named and self.champion is None:
            problem = "need a champion beside a canary or a shadow; got none"
        elif len(set(named)) != len(named):
            problem = f"need different versions as champion, canary and shadow; got {', '.join(named)}"
        if problem:
            raise BadInputError(f"routes {problem}. The routes stay as they were. Send routes that are possible.")

    def role_of(self, version: str) -> str | None:
        """Return the role in which a version is routed."""
        found = [role for role in ("champion", "canary", "shadow") if getattr(self, role) == version]
        return found[0] if found else None

    def choose(self, key: str, *, model: str) -> tuple[str | None, str]:
        """Return (version, role) that answers a request with this key.

        A key stays with the canary as its share rises, and each canary gets another set of keys.
        """
        if self.canary is not None and bucket(f"{model}:{self.canary}:{key}") < round(self.canary_share_pct * 10):
            return self.canary, "canary"
        return self.champion, "champion"


def bucket(text: str) -> int:
    """Return the bucket of a text, from 0 to 999, the same on every machine.

    >>> bucket("a") == bucket("a")
    True
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


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


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What the router knows of one model and writes to disk.

    Args:
        versions: Loaded version -> its package's `uri` and `digest`.
        routes: Where requests go.
        revision: Number of the last change of the routes.
        changed_at_s: When that was, seconds since 1970.
    """

    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    revision: int = 0
    changed_at_s: float = 0.0

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ModelState:
        """Return the state that `asdict` described."""
        return cls(**{**raw, "routes": Routes(**raw["routes"])})


@dataclass(kw_only=True)
class Router:
    """All models' routes and counters; changed by one thread only, the event loop's.

    Args:
        path: File that keeps the states; it is replaced before a change takes effect.
        now_s: Clock, seconds since 1970.
        states: What is known of each model.
        windows: Model -> (version, role) -> counters.
        counting_since_s: When this process began to count, seconds since 1970.
    """

    path: Path
    now_s: Callable[[], float] = time.time
    states: dict[str, ModelState] = field(default_factory=dict)
    windows: dict[str, dict[tuple[str, str], WindowCounters]] = field(default_factory=dict)
    counting_since_s: float = 0.0

    def restore(self) -> None:
        """Read the states that an earlier process wrote; counters and the time that they cover start at zero.

        A canary then waits for a whole interval again, which costs time and no verdict.

        Raises:
            SetupError: The file cannot be read.
        """
        self.counting_since_s = self.now_s()
        if not self.path.exists():
            return
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
            self.states = {model: ModelState.from_json(state) for model, state in raw["models"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SetupError(
                f"router state {self.path} must be readable JSON; got {error!r}. No port was opened. Restore the "
                "file, or remove it and deploy each champion again."
            ) from error

    def state(self, model: str) -> ModelState:
        """Return a model's state; of a model that was never deployed, an empty one."""
        return self.states.get(model, ModelState())

    def age_s(self, model: str) -> float:
        """Return how long a model's present counters have counted: since its last change of routes, or since the start.

        0 for a model that was never routed.
        """
        state = self.state(model)
        since_s = max(state.changed_at_s, self.counting_since_s)
        return max(0.0, self.now_s() - since_s) if state.revision else 0.0

    def set_version(self, model: str, version: str, package: Mapping[str, str] | None) -> None:
        """Remember a loaded version's package, or forget it."""
        state = self.state(model)
        versions = {name: found for name, found in state.versions.items() if name != version}
        if package is not None:
            versions[version] = dict(package)
        self._save(model, replace(state, versions=versions))

    def set_routes(self, model: str, routes: Routes) -> None:
        """Replace a model's routes; equal ones change nothing, others reset its counters."""
        state = self.state(model)
        if routes == state.routes:
            return
        self._save(model, replace(state, routes=routes, revision=state.revision + 1, changed_at_s=self.now_s()))
        self.windows[model] = {}

    def window(self, model: str, version: str, role: str) -> WindowCounters:
        """Return the counters of a version in a role, made on first use."""
        return self.windows.setdefault(model, {}).setdefault((version, role), WindowCounters())

    def _save(self, model: str, state: ModelState) -> None:
        states = {**self.states, model: state}
        document = {"schema_version": 1, "models": {name: asdict(found) for name, found in states.items()}}
        temporary = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            raise ServiceError(
                f"router state {self.path} must be written before a change takes effect; got: {error}. Routes and "
                "versions stay as they were. Make room on the disk, then retry."
            ) from error
        self.states = states
