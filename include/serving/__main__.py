"""Starts the model server: `python -m include.serving --port P --state DIR --storage ROOT [--token-file F]`."""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import uvloop

from include.errors import SetupError, TradewindError
from include.lake.storage import Storage
from include.registry.signing import Trust
from include.serving.app import make_app
from include.serving.appointed import appoint
from include.serving.ending import serve
from include.serving.engine import Engine
from include.serving.features import FeatureLookup
from include.serving.journal import Journal
from include.serving.landlock import landlock_version
from include.serving.limits import Admission
from include.serving.log_files import SegmentProcess
from include.serving.metrics import ServerMetrics
from include.serving.prediction_log import PredictionLog
from include.serving.router import Router
from include.serving.sandbox import SandboxLimits
from include.serving.spans import tracing
from include.serving.token import AdminToken

if TYPE_CHECKING:
    from aiohttp import web

_LOG = logging.getLogger(__name__)

EXIT_SETUP = 78
MAX_CORES = 8
"""Python's part of the work gains nothing from more threads."""


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; then answer what is in hand, write the log, and return 0."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        app = _app(options)
    except TradewindError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_SETUP
    gc.freeze()  # what is loaded stays: looking through it for garbage would hold up requests for tens of ms
    try:
        with closing(uvloop.new_event_loop()) as loop:
            loop.run_until_complete(serve(app, host=options.host, port=options.port, say=_say))
    except OSError as error:
        sys.stderr.write(
            f"model server needs the free port {options.port} on {options.host}; got: {error}. Nothing was served. "
            "Stop what holds it, or name another port.\n"
        )
        return EXIT_SETUP
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; others than loopback need a proxy's TLS")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder of the routes, kept over restarts")
    parser.add_argument("--storage", required=True, help="root of the lake: online store and prediction log")
    parser.add_argument("--token-file", type=Path, help="file with the admin token; without it no admin call works")
    parser.add_argument(
        "--champion",
        action="append",
        default=[],
        help="JSON: model, version, uri, digest and signature of one that serves alone",
    )
    parser.add_argument(
        "--trusted-key-file", type=Path, help="PEM file of public keys; without it no package needs a signature"
    )
    cores = min(MAX_CORES, len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--threads", type=int, default=cores + 1, help="threads that score; with several, no model takes them all"
    )
    parser.add_argument("--max-rows", type=int, default=1024, help="most rows of a request")
    parser.add_argument("--max-body-bytes", type=int, default=1 << 20)
    parser.add_argument("--max-requests-per-s", type=_positive, help="most inference requests per second; none: all")
    parser.add_argument("--max-pending", type=int, default=1024, help="most requests that wait or are scored at a time")
    parser.add_argument(
        "--log-interval-s", type=float, default=2.0, help="most seconds a prediction waits for its file"
    )
    parser.add_argument(
        "--max-journal-mib",
        type=int,
        default=1024,
        help="most predictions that wait for their files; then a sample is kept",
    )
    parser.add_argument(
        "--otlp-endpoint", help="address of an OpenTelemetry collector, which gets spans by HTTP; none: OTEL_* say"
    )
    limits = SandboxLimits()
    parser.add_argument(
        "--sandbox-memory-gib", type=float, default=limits.memory_gib, help="most memory of a version that is tried out"
    )
    parser.add_argument("--sandbox-cpu-s", type=int, default=limits.cpu_s, help="most CPU time of it, in seconds")
    return parser


def _app(options: argparse.Namespace) -> web.Application:
    storage = Storage(root=options.storage)
    if not storage.is_local:
        raise SetupError(
            f"model server writes its prediction log to a local folder; got --storage {options.storage}. Nothing was "
            "served. Name a folder; shipping it to an object store is the platform's work."
        )
    if not landlock_version():
        _LOG.warning("versions are tried out within limits only: the kernel offers no Landlock to keep files from them")
    router = Router(path=options.state / "router.json")
    router.restore()
    trust = _trust(options.trusted_key_file)
    journal = _journal(options.state / "journal", router=router, champions=options.champion, trust=trust)
    log = PredictionLog(
        journal=journal,
        turner=SegmentProcess(storage_root=storage.root),
        max_journal_bytes=options.max_journal_mib << 20,
        flush_interval_s=options.log_interval_s,
    )
    metrics = ServerMetrics(router=router, log=log)
    engine = Engine(
        router=router,
        lookup=FeatureLookup(storage=storage, on_default=metrics.feature_defaulted),
        log=log,
        metrics=metrics,
        max_rows=options.max_rows,
        num_threads=options.threads,
        limits=SandboxLimits(memory_gib=options.sandbox_memory_gib, cpu_s=options.sandbox_cpu_s),
    )
    return make_app(
        engine=engine,
        admin_token=_token(options.token_file),
        max_body_bytes=options.max_body_bytes,
        trust=trust,
        admission=Admission(max_per_s=options.max_requests_per_s, max_pending=options.max_pending),
        tracing=tracing(options.otlp_endpoint),
    )


def _trust(path: Path | None) -> Trust | None:
    if path is None:
        return None
    trust = Trust(keys_file=path)
    trust.require_keys()
    return trust


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(text)
    return number


def _journal(folder: Path, *, router: Router, champions: list[str], trust: Trust | None) -> Journal:
    """Return the opened journal; what it counted under other routes, and time without a server, count for no canary."""
    journal = Journal(folder=folder)
    last_sign_s = journal.open() or 0.0
    for model, revision in journal.counters.revisions.items():
        router.outrun(model, revision=revision)
    appoint(router, champions, trust=trust)
    for model, state in router.states.items():
        away_s = time.time() - max(last_sign_s, state.changed_at_s)
        journal.counters.pause(model, revision=state.revision, seconds=max(0.0, away_s))
    return journal


def _token(path: Path | None) -> AdminToken | None:
    if path is None:
        return None
    token = AdminToken(path=path)
    token.read()  # a file that cannot be read is said at the start, not at the first admin call
    return token


def _leave(status: int) -> NoReturn:
    """End without waiting for threads that hang on a store: what must last is on the disk."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
