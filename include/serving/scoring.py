"""Answers requests from a snapshot of what is served; runs in worker threads and changes nothing."""

from __future__ import annotations

import logging
import random
import uuid
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from include.errors import ServiceError
from include.serving.features import UnreadableError
from include.serving.protocol import answer
from include.serving.spans import NO_TRACE, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from include.serving.features import FeatureLookup
    from include.serving.protocol import Answer, InferRequest
    from include.serving.served_model import ServedModel
    from include.serving.versions import LoadedVersion

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

NAMED = "named"
"""Role of a version that answers because the caller named it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one version made of one request.

    Args:
        version: The version.
        role: champion, canary or shadow.
        latency_ms: Of its encoding and inference, alone; None: it was not timed.
        predictions: A number for each row, or a list of them for each; None: it failed.
        disagreement: Of a shadow, the share of the rows that the champion predicted otherwise; None: not compared.
        is_stand_in: Whether the champion answered what a canary failed to: a choice of requests, so no evidence.
    """

    version: str
    role: str
    latency_ms: float | None
    predictions: Sequence[Any] | None
    disagreement: float | None = None
    is_stand_in: bool = False


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was done for a request; no answer: no version could score it."""

    served: ServedModel
    request_id: str
    example_ids: Sequence[str] | None
    columns: Mapping[str, Sequence[Any]]
    outcomes: tuple[Outcome, ...]
    answer: Answer | None


class Asked(NamedTuple):
    """A request as it came.

    Args:
        body: Its JSON, and after it the binary tensors, if any.
        json_bytes: Length of the JSON; None: all of the body.
        named: Version that the caller named; None: the routes choose.
        trace: Is told of each stage.
    """

    body: bytes
    json_bytes: int | None = None
    named: str | None = None
    trace: Trace = NO_TRACE


Result = Scored | Exception
"""What was done for a request, or why nothing was."""


@dataclass(kw_only=True)
class _Job:
    """A request on its way through the worker."""

    request: InferRequest
    request_id: str
    version: str | None
    role: str
    columns: dict[str, Any]
    trace: Trace
    outcomes: list[Outcome] = field(default_factory=list)


def score_requests(
    served: ServedModel, lookup: FeatureLookup, batch: Sequence[Asked], *, is_timed: bool = False
) -> list[Result]:
    """Score requests to one model, each by the version that its key belongs to; none spoils the answer of another.

    The champion replaces a canary that fails or is missing. A version that the caller named answers itself or fails,
    in a role of its own: it is evidence for no rollout. In a turn that is timed, one request, drawn by lot, is scored
    alone, by whatever version, and is the only one that is timed. The errors among the results, in the order of the
    requests: BadInputError: the request is not what the model needs. NotFoundError: the named version is not loaded.
    ServiceError: no champion is loaded, or the online store does not answer.
    """
    results: list[_Job | Exception] = [_caught(_read, served, asked) for asked in batch]
    if served.spec.features.store:
        _look_up(served, lookup, results)
    _attempt_all(served, results, is_timed=is_timed)
    for job in results:
        champion = served.routes.champion
        has_failed = isinstance(job, _Job) and job.outcomes[-1].predictions is None
        if isinstance(job, _Job) and has_failed and job.role == "canary" and champion in served.versions:
            stood_in = attempt(served, champion, "champion", [job.columns])
            job.outcomes += [replace(outcome, is_stand_in=True) for outcome in stood_in]
            job.trace.mark("score", version=champion, role="champion")
    return [job if isinstance(job, Exception) else _caught(_scored, served, job) for job in results]


def attempt(
    served: ServedModel,
    version: str | None,
    role: str,
    parts: Sequence[Mapping[str, Sequence[Any]]],
    *,
    is_timed: bool = False,
) -> list[Outcome]:
    """Return what a version makes of each request's rows; failure is an outcome too.

    When requests that are scored together fail, each is scored alone. To be timed, a request must be the only one.

    Raises:
        ServiceError: No version has the role, or it is not loaded: then it has no outcome.
    """
    loaded = _loaded(served, version, role)
    started = perf_counter()
    try:
        predicted: list[Any] = [predicted_BK.tolist() for predicted_BK in loaded.score_together(parts)]
    except Exception:  # noqa: BLE001 - a graph fails in as many ways as there are graphs, and the caller must get an answer
        if len(parts) > 1:
            return [outcome for part in parts for outcome in attempt(served, version, role, [part])]
        _LOG.exception("version %s of model %r could not score as %s", loaded.version, served.spec.name, role)
        predicted = [None]
    latency_ms = (perf_counter() - started) * 1e3 if is_timed else None
    return [Outcome(version=loaded.version, role=role, latency_ms=latency_ms, predictions=found) for found in predicted]


def _caught(function: Callable[..., T], *arguments: Any) -> T | Exception:
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - it is one request's, and its caller is told
        return error


def _read(served: ServedModel, asked: Asked) -> _Job:
    """Return the checked request, and who is to score it."""
    asked.trace.mark("wait")
    if asked.named is not None:
        served.require_loaded(asked.named)
    request = served.reader.read(asked.body, json_bytes=asked.json_bytes)
    request_id = request.request_id or uuid.uuid4().hex
    version, role = asked.named, NAMED
    if asked.named is None:
        version, role = served.routes.choose(request.sticky_key or request_id, model=served.spec.name)
    if role == "canary" and version not in served.versions:
        version, role = served.routes.champion, "champion"  # the canary did nothing, so nothing is counted for it
    asked.trace.mark("decode", rows=request.num_rows, request_id=request_id)
    columns = {**request.columns}
    return _Job(request=request, request_id=request_id, version=version, role=role, columns=columns, trace=asked.trace)


def _look_up(served: ServedModel, lookup: FeatureLookup, results: list[_Job | Exception]) -> None:
    """Add the store features, of all requests by one query; replace those that cannot have them by the reason.

    A store that does not answer is asked once: nobody waits for it again for each request. What may be wrong with the
    values of one request is found by asking for each alone.
    """
    jobs = {number: job for number, job in enumerate(results) if isinstance(job, _Job)}
    found = _caught(lookup.read_all, served.spec, [job.columns for job in jobs.values()]) if jobs else []
    is_silent = isinstance(found, ServiceError) and not isinstance(found, UnreadableError)
    for number, job in jobs.items():
        of_job: list[dict[str, list[float | None]]] | Exception
        if isinstance(found, list):
            of_job = [found.pop(0)]
        else:
            of_job = found if is_silent else _caught(lookup.read_all, served.spec, [job.columns])
        if isinstance(of_job, Exception):
            results[number] = of_job
        else:
            job.columns |= of_job[0]
            job.trace.mark("features")


def _attempt_all(served: ServedModel, results: list[_Job | Exception], *, is_timed: bool) -> None:
    """Score requests by version, the one that is timed alone; replace those whose version is missing by the reason."""
    readable = [number for number, job in enumerate(results) if isinstance(job, _Job)]
    timed = random.choice(readable) if is_timed and readable else None  # noqa: S311 - nothing secret
    groups: dict[tuple[str | None, str, bool], list[int]] = defaultdict(list)
    for number, job in enumerate(results):
        if isinstance(job, _Job):
            groups[job.version, job.role, number == timed].append(number)
    for (version, role, is_alone), numbers in groups.items():
        for chunk in _chunks(results, numbers, max_rows=served.spec.serving.max_batch_rows):
            jobs = [job for job in (results[number] for number in chunk) if isinstance(job, _Job)]
            columns = [job.columns for job in jobs]
            found = _caught(partial(attempt, is_timed=is_alone), served, version, role, columns)
            if isinstance(found, Exception):
                for number in chunk:
                    results[number] = found
                continue
            for job, outcome in zip(jobs, found, strict=True):
                job.outcomes.append(outcome)
                job.trace.mark("score", version=outcome.version, role=outcome.role)


def _chunks(results: Sequence[_Job | Exception], numbers: Sequence[int], *, max_rows: int) -> Iterator[list[int]]:
    """Yield requests that are scored together; one of more rows alone."""
    chunk: list[int] = []
    num_rows = 0
    for number in numbers:
        job = results[number]
        more = job.request.num_rows if isinstance(job, _Job) else 0
        if chunk and num_rows + more > max_rows:
            yield chunk
            chunk, num_rows = [], 0
        chunk.append(number)
        num_rows += more
    if chunk:
        yield chunk


def _scored(served: ServedModel, job: _Job) -> Scored:
    last = job.outcomes[-1]
    found = None
    if last.predictions is not None:
        found = answer(
            task=served.reader.task,
            model=served.spec.name,
            version=last.version,
            request_id=job.request_id,
            predicted_BK=last.predictions,
            is_binary=job.request.wants_binary,
        )
    return Scored(
        served=served,
        request_id=job.request_id,
        example_ids=job.request.example_ids,
        columns=job.columns,
        outcomes=tuple(job.outcomes),
        answer=found,
    )


def _loaded(served: ServedModel, version: str | None, role: str) -> LoadedVersion:
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
    return loaded
