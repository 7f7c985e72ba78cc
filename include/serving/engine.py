"""Holds what is served, and keeps account of what it does."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from include.errors import NotFoundError, ServiceError, TradewindError
from include.serving.accounting import works_of
from include.serving.ending import LOG_S, WORK_S, finish_within
from include.serving.microbatch import MicroBatcher
from include.serving.protocol import RequestReader
from include.serving.sandbox import SandboxLimits, try_out
from include.serving.scoring import NAMED, score_requests
from include.serving.served_model import ServedModel
from include.serving.shadow import Mirror
from include.serving.timing import TurnClock
from include.serving.version_checks import require_routable, require_unrouted
from include.serving.versions import LoadedVersion, open_package, read_registered
from include.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.serving.counters import Counted
    from include.serving.features import FeatureLookup
    from include.serving.metrics import ServerMetrics
    from include.serving.prediction_log import PredictionLog
    from include.serving.router import Router, Routes
    from include.serving.scoring import Asked, Result, Scored

_LOG = logging.getLogger(__name__)

MAX_OPENING = 2
"""Versions that are opened and warmed up at a time: each takes its memory twice meanwhile, and all processors."""
MAX_LOADING = 32
"""Threads that read, try out and open versions; a store that hangs holds those of its own versions."""


@dataclass(kw_only=True)
class Engine:
    """Holds the loaded versions. `score`, `unready` and what loads run in worker threads, all else in the event loop.

    Args:
        router: Routes.
        lookup: The online store.
        log: Where predictions go, and what they are counted by.
        metrics: What Prometheus reads.
        max_rows: Most rows of a request.
        num_threads: Threads that score; shadows have one of their own.
        limits: What a version may take while it is tried out.
    """

    router: Router
    lookup: FeatureLookup
    log: PredictionLog
    metrics: ServerMetrics
    max_rows: int
    num_threads: int
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    models: dict[str, ServedModel] = field(default_factory=dict)
    restoring: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    pool: ThreadPoolExecutor = field(init=False)
    loaders: ThreadPoolExecutor = field(init=False)
    _mirror: Mirror = field(init=False)
    _batcher: MicroBatcher = field(init=False)
    _clock: TurnClock = field(default_factory=TurnClock)
    _tried_out: set[str] = field(default_factory=set)
    _trying_out: threading.Lock = field(default_factory=threading.Lock)
    _opening: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MAX_OPENING))

    def __post_init__(self) -> None:
        """Start the worker threads."""
        self.pool = ThreadPoolExecutor(self.num_threads, "score")
        self.loaders = ThreadPoolExecutor(MAX_LOADING, "load")
        self._batcher = MicroBatcher(
            run=self.score,
            done=self._done,
            delay_ms_of=self._delay_ms,
            pool=self.pool,
            max_running=max(1, self.num_threads - 1),
        )
        self._mirror = Mirror(done=self.account, dropped=self.metrics.shadow_dropped.inc, is_busy=self._batcher.is_busy)

    def close(self) -> None:
        """Finish what the workers have begun, then write the log; what hangs is left behind."""
        self.loaders.shutdown(wait=False, cancel_futures=True)
        for finish in (self.pool.shutdown, self._mirror.close):
            finish_within(finish, timeout_s=WORK_S)
        self.log.close(timeout_s=LOG_S)

    def start_restoring(self) -> None:
        """Begin to load what the router remembers; no model waits for another one's versions."""
        loop = asyncio.get_running_loop()
        for model in self.router.states:
            self.restoring[model] = loop.run_in_executor(self.loaders, self.restore, model)

    def restore(self, model: str) -> None:
        """Load every version of a model that the router remembers; one that cannot be loaded keeps no other back.

        The model is served only when all its versions were tried: its routes name several of them.
        """
        versions: dict[str, LoadedVersion] = {}
        failures: dict[str, str] = {}
        for version, package in self.router.state(model).versions.items():
            try:
                versions[version] = self.load(
                    model=model, version=version, uri=package["uri"], digest=package["digest"]
                )
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one version, the others are served
                _LOG.exception("version %s of model %r could not be restored", version, model)
                failures[version] = str(error) if isinstance(error, TradewindError) else repr(error)
        self._publish(model, versions, failures)

    def try_out(self, *, model: str, version: str, uri: str, digest: str) -> None:
        """Let a child process load a version first, one at a time, unless its digest is known to be good."""
        if self._is_tried(digest):
            return
        package = read_registered(model=model, version=version, uri=uri, digest=digest)
        with self._trying_out:
            if self._is_tried(digest):
                return
            served = self.models.get(model)
            champion = served.champion if served else None
            champion_ms = champion.check_golden()["latency_median_ms"] if champion else None
            try_out(package, spec=load_spec(model), version=version, limits=self.limits, champion_ms=champion_ms)
            self._tried_out.add(digest)

    def load(self, *, model: str, version: str, uri: str, digest: str) -> LoadedVersion:
        """Return a verified version, ready to score; slow, so it runs in a worker."""
        package = read_registered(model=model, version=version, uri=uri, digest=digest)
        with self._opening:
            return open_package(package, load_spec(model), version)

    def add(self, loaded: LoadedVersion) -> None:
        """Make a loaded version routable; unrouted ones of other inputs are no longer, for its reader is not theirs."""
        served = self._renewed(loaded.model)
        others = {name: found for name, found in served.versions.items() if name != loaded.version}
        failures = {name: text for name, text in served.failures.items() if name != loaded.version} | {
            name: f"its inputs are not those of version {loaded.version}, which was loaded later"
            for name, found in others.items()
            if found.input_kinds != loaded.input_kinds
        }
        versions = {name: found for name, found in others.items() if name not in failures} | {loaded.version: loaded}
        self.models[loaded.model] = replace(served, versions=versions, failures=failures)

    def drop(self, model: str, version: str) -> None:
        """Forget a version that no route names.

        Raises:
            BadInputError: A route names it.
        """
        state = self.router.state(model)
        require_unrouted(version, model=model, routes=state.routes)
        if version in state.versions:
            self.router.set_version(model, version, None)
        if model in self.models:
            served = self.models[model]
            versions = {name: found for name, found in served.versions.items() if name != version}
            failures = {name: text for name, text in served.failures.items() if name != version}
            self.models[model] = replace(served, versions=versions, failures=failures)

    def route(self, model: str, routes: Routes) -> None:
        """Replace a model's routes; all versions that they name must be loaded.

        Raises:
            BadInputError: They contradict themselves, or name a version that is not loaded.
        """
        routes.require_possible()
        require_routable(routes, model=model, loaded=self.models[model].versions if model in self.models else {})
        self.router.set_routes(model, routes)
        if model in self.models:
            self._follow_router(model)

    def unready(self) -> list[str]:
        """Return why the server cannot answer everything that it should; empty: it can."""
        reasons = []
        for model, state in self.router.states.items():
            if model in self.restoring and not self.restoring[model].done():
                reasons.append(f"model {model!r} is being restored")
                continue
            served = self.models.get(model)
            loaded = served.versions if served else {}
            reasons += [
                f"version {version} of model {model!r} is routed and not loaded"
                for version in (state.routes.champion, state.routes.canary)
                if version is not None and version not in loaded
            ]
            if served is not None and served.spec.features.store and state.routes.champion is not None:
                reasons.extend(self.lookup.unready(served.spec))
        return reasons

    async def infer(self, model: str, asked: Asked) -> Scored:
        """Answer one request, together with others that wait; it is counted, logged and mirrored when this returns.

        Raises:
            NotFoundError: No such model, or no such version.
            BadInputError: The request is not what the model needs.
            ServiceError: There is no champion yet, or the online store does not answer.
        """
        return await self._batcher.score(model, asked)

    def score(self, model: str, batch: Sequence[Asked]) -> list[Result]:
        """Answer requests to one model, from one snapshot of its routes; runs in a worker.

        Raises:
            NotFoundError: No such model.
            ServiceError: It is not loaded yet.
        """
        served = self.served(model)
        is_timed = self._clock.is_due(model, num_requests=len(batch))
        results = score_requests(served, self.lookup, batch, is_timed=is_timed)
        if is_timed:
            self._clock.timed(model, results)
        return results

    def served(self, model: str) -> ServedModel:
        """Return what is served of a model.

        Raises:
            NotFoundError: Nothing of it was ever loaded.
            ServiceError: It is being restored.
        """
        if model not in self.models:
            if model in self.router.states:
                raise ServiceError(f"model {model!r} must be loaded; it is not yet, or cannot be. Retry.")
            known = ", ".join(sorted(self.models)) or "none"
            raise NotFoundError(
                f"model {model[:64]!r} must be one of those that are served ({known}). Deploy it first."
            )
        return self.models[model]

    def _done(self, batch: Sequence[Scored]) -> None:
        self.account(batch)
        self._mirror.copy([scored for scored in batch if scored.outcomes[0].role != NAMED])

    def account(self, batch: Sequence[Scored]) -> None:
        """Count and log what was done for requests; a process that is killed after this loses none of it."""
        logged_at_us = time.time_ns() // 1000
        for scored in batch:
            for work in works_of(scored, logged_at_us=logged_at_us):
                self.metrics.scored(work)
                self.log.append(work)

    def counted(self, model: str) -> Counted:
        """Return what was counted of a model since its routes changed."""
        return self.log.journal.counters.of(model, revision=self.router.state(model).revision)

    def age_s(self, model: str) -> float:
        """Return for how long a model's counters have counted: since its routes changed, while a server ran."""
        return max(0.0, self.router.age_s(model) - self.counted(model).away_s)

    def _renewed(self, model: str) -> ServedModel:
        spec = load_spec(model)
        reader = RequestReader.of(spec, max_rows=self.max_rows)
        state = self.router.state(model)
        old = self.models.get(model)
        if old is not None:
            return replace(old, spec=spec, reader=reader)
        return ServedModel(spec=spec, reader=reader, routes=state.routes, revision=state.revision)

    def _is_tried(self, digest: str) -> bool:
        known = {package["digest"] for state in self.router.states.values() for package in state.versions.values()}
        return digest in known | self._tried_out

    def _delay_ms(self, model: str) -> float:
        served = self.models.get(model)
        return 0.0 if served is None else served.spec.serving.max_batch_delay_ms

    def _follow_router(self, model: str) -> None:
        state = self.router.state(model)
        self.models[model] = replace(self.models[model], routes=state.routes, revision=state.revision)

    def _publish(self, model: str, versions: Mapping[str, LoadedVersion], failures: Mapping[str, str]) -> None:
        try:
            served = self._renewed(model)
        except Exception:  # noqa: BLE001 - its spec is gone or broken: `unready` names what is missing, others are served
            _LOG.exception("model %r could not be restored", model)
            return
        self.models[model] = replace(served, versions=versions, failures=failures)
