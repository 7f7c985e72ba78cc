"""Answers one request from a snapshot of what is served; runs in worker threads and changes nothing."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.errors import NotFoundError, ServiceError
from include.serving.agreement import disagreement_frac
from include.serving.protocol import answer
from include.serving.router import Routes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.serving.features import FeatureLookup
    from include.serving.protocol import Answer, RequestReader
    from include.serving.versions import LoadedVersion
    from include.spec import ModelSpec

_LOG = logging.getLogger(__name__)

NAMED = "named"
"""Role of a version that answers because the caller named it."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model as worker threads see it: a snapshot that is replaced, never changed.

    Args:
        spec: The model's spec.
        reader: Reads its requests.
        versions: The versions that are loaded.
        failures: Version that should be loaded -> why it could not be.
        routes: Where requests go.
        revision: Number of the last change of the routes.
    """

    spec: ModelSpec
    reader: RequestReader
    versions: Mapping[str, LoadedVersion] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    routes: Routes = field(default_factory=Routes)
    revision: int = 0

    def require_loaded(self, version: str) -> None:
        """Refuse a version that somebody names and that is not loaded.

        Raises:
            NotFoundError: So it is.
        """
        if version not in self.versions:
            raise NotFoundError(
                f"version {version[:64]!r} of model {self.spec.name!r} must be loaded to be named; it is not. Nothing "
                "was scored. Name none, and the routes choose."
            )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one version made of one request.

    Args:
        version: The version.
        role: champion, canary or shadow.
        latency_ms: Of its encoding and inference.
        predictions: A number for each row, or a list of them for each; None: it failed.
        disagreement: Of a shadow, the share of the rows that the champion predicted otherwise; None: not compared.
    """

    version: str
    role: str
    latency_ms: float
    predictions: Sequence[Any] | None
    disagreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was done for a request; no answer: no version could score it."""

    served: ServedModel
    request_id: str
    example_ids: Sequence[str] | None
    columns: Mapping[str, Sequence[Any]]
    outcomes: tuple[Outcome, ...]
    answer: Answer | None


def score_request(
    served: ServedModel, lookup: FeatureLookup, body: bytes, *, json_bytes: int | None, named: str | None
) -> Scored:
    """Score a request by the version that its key belongs to; the champion replaces a canary that fails or is missing.

    A version that the caller named answers itself or fails, in a role of its own: it is evidence for no rollout.

    Raises:
        BadInputError: The request is not what the model needs.
        NotFoundError: The named version is not loaded.
        ServiceError: No champion is loaded, or the online store does not answer.
    """
    model = served.spec.name
    if named is not None:
        served.require_loaded(named)
    request = served.reader.read(body, json_bytes=json_bytes)
    columns = {**request.columns, **lookup.read(served.spec, request.columns)}
    request_id = request.request_id or uuid.uuid4().hex
    version, role = named, NAMED
    if named is None:
        version, role = served.routes.choose(request.sticky_key or request_id, model=model)
    champion = served.routes.champion
    if role == "canary" and version not in served.versions:
        version, role = champion, "champion"  # the canary did nothing, so nothing is counted for it
    outcomes = [attempt(served, version, role, columns)]
    if outcomes[0].predictions is None and role == "canary" and champion in served.versions:
        outcomes.append(attempt(served, champion, "champion", columns))
    last = outcomes[-1]
    found = None
    if last.predictions is not None:
        found = answer(
            task=served.reader.task,
            model=model,
            version=last.version,
            request_id=request_id,
            predicted_BK=last.predictions,
            is_binary=request.wants_binary,
        )
    return Scored(
        served=served,
        request_id=request_id,
        example_ids=request.example_ids,
        columns=columns,
        outcomes=tuple(outcomes),
        answer=found,
    )


def attempt(served: ServedModel, version: str | None, role: str, columns: Mapping[str, Sequence[Any]]) -> Outcome:
    """Return what a version makes of some rows; failure is an outcome too, a version that is not loaded has none.

    Raises:
        ServiceError: No version has the role, or it is not loaded.
    """
    if version is None:
        raise ServiceError(
            f"model {served.spec.name!r} must have a {role}; got none. Nothing was scored. Deploy a version."
        )
    loaded = served.versions.get(version)
    if loaded is None:
        raise ServiceError(
            f"version {version} of model {served.spec.name!r} must be loaded to score as {role}; it is not. Nothing "
            "was scored or counted. GET /v2/health/ready says why: load it again, or route another version."
        )
    started = time.perf_counter()
    predictions: Sequence[Any] | None = None
    try:
        predictions = loaded.score(columns).tolist()
    except Exception:  # noqa: BLE001 - a graph fails in as many ways as there are graphs, and the caller must get an answer
        _LOG.exception("version %s of model %r could not score as %s", version, served.spec.name, role)
    latency_ms = (time.perf_counter() - started) * 1e3
    return Outcome(version=version, role=role, latency_ms=latency_ms, predictions=predictions)


def disagreement_of(shadowed: Outcome, scored: Scored) -> float | None:
    """Return the share of a request's rows that a shadow predicted otherwise than the champion; None: one failed."""
    answered = scored.outcomes[-1]
    if answered.role != "champion" or answered.predictions is None or shadowed.predictions is None:
        return None
    tolerance = scored.served.spec.rollout.agreement_tolerance
    return disagreement_frac(ours=shadowed.predictions, theirs=answered.predictions, tolerance=tolerance)
