"""Which version answers which request, and what of that outlives a restart."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError, ServiceError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_LOG = logging.getLogger(__name__)

BUCKETS = 1000
"""Requests fall into this many buckets by their key, so a share is a multiple of 0.1 %."""

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


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What the router knows of one model and writes to disk.

    Args:
        versions: Loaded version -> its package's `uri` and `digest`.
        routes: Where requests go.
        revision: Number of the last change of the routes.
        changed_at_s: When that was, seconds since 1970.
        labels: Partition -> what its late labels say of a challenger, as `LabelEvidence` has it.
    """

    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    revision: int = 0
    changed_at_s: float = 0.0
    labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> ModelState:
        """Return the state that `asdict` described; an earlier release kept more of a package than its place."""
        versions = {
            version: {"uri": package["uri"], "digest": package["digest"]}
            for version, package in raw["versions"].items()
        }
        return cls(**{**raw, "versions": versions, "routes": Routes(**raw["routes"])})


@dataclass(kw_only=True)
class Router:
    """All models' routes; changed by one thread only, the event loop's.

    Args:
        path: File that keeps the states; it is replaced before a change takes effect.
        now_s: Clock, seconds since 1970.
        states: What is known of each model.
    """

    path: Path
    now_s: Callable[[], float] = time.time
    states: dict[str, ModelState] = field(default_factory=dict)

    def restore(self) -> None:
        """Read the states that an earlier process wrote.

        Raises:
            SetupError: The file cannot be read.
        """
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
        """Return how long ago a model's routes changed; 0 for a model that was never routed."""
        state = self.state(model)
        return max(0.0, self.now_s() - state.changed_at_s) if state.revision else 0.0

    def set_version(self, model: str, version: str, package: Mapping[str, str] | None) -> None:
        """Remember a loaded version's package, or forget it and what labels said of it."""
        state = self.state(model)
        versions = {name: found for name, found in state.versions.items() if name != version}
        if package is None:
            others = {key: said for key, said in state.labels.items() if version not in _pair(said)}
            state = replace(state, labels=others)
        else:
            versions[version] = dict(package)
        self._save(model, replace(state, versions=versions))

    def set_labels(self, model: str, partition: str, evidence: Mapping[str, Any]) -> None:
        """Remember what a partition's labels say of two versions; what others said of other versions is forgotten."""
        state = self.state(model)
        same = {key: said for key, said in state.labels.items() if _pair(said) == _pair(evidence)}
        self._save(model, replace(state, labels={**same, partition: dict(evidence)}))

    def set_routes(self, model: str, routes: Routes) -> None:
        """Replace a model's routes; equal ones change nothing, others begin a revision with counters of its own."""
        state = self.state(model)
        if routes == state.routes:
            return
        self._save(model, replace(state, routes=routes, revision=state.revision + 1, changed_at_s=self.now_s()))

    def outrun(self, model: str, *, revision: int) -> None:
        """Begin a revision of a model's routes above one that they never had, or had before their file was put back.

        What was counted under that one so says nothing about them, now or when they have changed as often.
        """
        state = self.state(model)
        if state.revision >= revision:
            return
        _LOG.warning(
            "routes of model %r are of revision %d, and revision %d was counted: they go on as %d, counted anew",
            model,
            state.revision,
            revision,
            revision + 1,
        )
        self._save(model, replace(state, revision=revision + 1, changed_at_s=self.now_s()))

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
        _keep_name(self.path)


def _keep_name(path: Path) -> None:
    """Have a file that took another's place outlive a power cut too; it is in effect, whatever the disk says."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        _LOG.warning("router state %s may be the one before after a power cut: %s", path, error)


def _pair(evidence: Mapping[str, Any]) -> tuple[str, str]:
    return evidence["version"], evidence["champion"]
