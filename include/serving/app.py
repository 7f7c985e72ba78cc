"""The model server over HTTP: the Open Inference Protocol v2, health, metrics, and the errors of all of them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from include import __version__, errors
from include.errors import (
    BadInputError,
    CorruptArtifactError,
    GateError,
    NotFoundError,
    OverloadError,
    ServiceError,
    SetupError,
    TradewindError,
)
from include.serving.admin import Admin, admin_routes
from include.serving.bodies import ENCODING, decompress
from include.serving.ending import CLOSE_S, IN_HAND, InHand
from include.serving.engine import Engine
from include.serving.guard import guarded
from include.serving.limits import Admission, RateError
from include.serving.metrics import CONTENT_TYPE
from include.serving.protocol import RequestError, metadata
from include.serving.repository import repository_routes
from include.serving.scoring import Asked
from include.serving.spans import NO_TRACE, Trace, Tracing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.typedefs import Handler

    from include.registry.signing import Trust
    from include.serving.token import AdminToken

_LOG = logging.getLogger(__name__)

Answer = TypeVar("Answer", bound=web.StreamResponse)

ENGINE = web.AppKey("engine", Engine)
ADMISSION = web.AppKey("admission", Admission)
TRACING: web.AppKey[Tracing | None] = web.AppKey("tracing")
TRACE = web.RequestKey("trace", Trace)
JSON_BYTES = "Inference-Header-Content-Length"
"""Header that says how long the JSON of a body is; binary tensors follow it."""
MAX_DIGITS = 20
"""More than any length has; Python refuses to make a number of thousands."""
EXTENSIONS = ("binary_tensor_data", "model_repository", "router", "metrics")
STATUS_OF = {
    BadInputError: 400,
    NotFoundError: 404,
    CorruptArtifactError: 422,
    GateError: 422,
    RateError: 429,
    ServiceError: 503,
    SetupError: 500,
    TradewindError: 500,
}
HTTP_NOT_FOUND = 404
HTTP_UNAVAILABLE = 503
RETRY_AFTER_S = 1.0
"""Seconds after which a server that could not do something may be asked again."""


def make_app(
    *,
    engine: Engine,
    admin_token: AdminToken | None,
    max_body_bytes: int,
    admission: Admission,
    trust: Trust | None = None,
    tracing: Tracing | None = None,
) -> web.Application:
    """Return the application; without a token every admin call is refused, without trust no signature is asked for."""
    admin = Admin(engine, trust)
    as_sent = {"auto_decompress": False}
    app = web.Application(
        client_max_size=max_body_bytes, middlewares=[inference_told, json_errors], handler_args=as_sent
    )
    app[ENGINE], app[ADMISSION], app[TRACING], app[IN_HAND] = engine, admission, tracing, InHand()
    app.add_routes(
        [
            web.get("/v2", _server),
            web.get("/v2/health/live", _live),
            web.get("/v2/health/ready", _ready),
            web.get("/v2/models/{model}", _model),
            web.get("/v2/models/{model}/ready", _model_ready),
            web.post("/v2/models/{model}/infer", _infer),
            web.get("/v2/models/{model}/versions/{version}", _model),
            web.get("/v2/models/{model}/versions/{version}/ready", _model_ready),
            web.post("/v2/models/{model}/versions/{version}/infer", _infer),
            web.get("/metrics", _metrics),
            *guarded([*admin_routes(admin), *repository_routes(admin)], token=admin_token),
        ]
    )
    app.on_startup.append(_start)
    app.on_cleanup.append(_stop)
    return app


@web.middleware
async def json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as JSON: `error` for people, `kind` for the client, which raises the class of that name."""
    try:
        return await handler(request)
    except TradewindError as error:
        status = next(found for kind, found in STATUS_OF.items() if isinstance(error, kind))
        fields = error.fields if isinstance(error, RequestError) else None
        response = _error(status, str(error), kind=_public_kind(error), fields=fields)
        if isinstance(error, ServiceError):
            response.headers["Retry-After"] = _retry_after(error)
        return response
    except web.HTTPRequestEntityTooLarge as error:
        limit = f"a request must have at most {request.client_max_size} bytes; got more"
        return _last(
            _error(error.status, f"{limit}. Nothing was scored. Send fewer rows at once.", kind="BadInputError")
        )
    except web.HTTPException as error:
        what = f"{request.method} {request.path[:100]}: {error.reason}. Nothing was done. GET /v2 names what is served."
        kind = "NotFoundError" if error.status == HTTP_NOT_FOUND else "BadInputError"
        response = _error(error.status, what, kind=kind)
        response.headers.update({name: error.headers[name] for name in ("Allow",) if name in error.headers})
        return response
    except web.RequestPayloadError:
        what = f"the body of {request.method} {request.path[:100]} must be as its headers say; got another"
        return _last(_error(400, f"{what}. Nothing was done. Send its length, or whole chunks.", kind="BadInputError"))
    except ConnectionResetError:
        raise  # the caller hung up: there is nobody to answer
    except Exception:  # noqa: BLE001 - never a stopped server: whatever it is, it is logged and answered
        _LOG.exception("%s %s failed", request.method, request.path)
        message = "The server could not do this and wrote why to its log. It goes on serving. Tell its owner the time."
        return _error(500, message, kind="ServiceError")


def _error(status: int, message: str, *, kind: str, fields: Mapping[str, str] | None = None) -> web.Response:
    by_field = {} if fields is None else {"fields": fields}
    return web.json_response({"error": message, "kind": kind, **by_field}, status=status)


def _retry_after(error: ServiceError) -> str:
    return str(math.ceil(error.retry_after_s if isinstance(error, OverloadError) else RETRY_AFTER_S))


def _unready(reasons: list[str]) -> web.Response:
    """Return what a probe gets of a server, or of a model, that cannot score."""
    error = ServiceError("; ".join(reasons))
    body = {"ready": False, "reasons": reasons, "error": str(error), "kind": "ServiceError"}
    return web.json_response(body, status=HTTP_UNAVAILABLE, headers={"Retry-After": _retry_after(error)})


def _last(response: Answer) -> Answer:
    """Return the last answer of a connection: its caller may still be sending what was not read, or the server ends."""
    response.force_close()
    return response


def _public_kind(error: TradewindError) -> str:
    return next(kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)


async def _start(app: web.Application) -> None:
    engine = app[ENGINE]
    engine.log.start()
    engine.start_restoring()  # health answers meanwhile


async def _stop(app: web.Application) -> None:
    own = ThreadPoolExecutor(1, "close")  # threads of the loop's pool may hang on a store that answers no probe
    ended = asyncio.get_running_loop().run_in_executor(own, _close, app)
    done, _ = await asyncio.wait([ended], timeout=CLOSE_S)
    if done:
        await ended
    else:
        _LOG.error(
            "workers, log and spans must end within %g s; they did not. The journal holds what is missing", CLOSE_S
        )


def _close(app: web.Application) -> None:
    app[ENGINE].close()
    if tracing := app[TRACING]:
        tracing.close()


async def _server(_request: web.Request) -> web.Response:
    return web.json_response({"name": "tradewind", "version": __version__, "extensions": EXTENSIONS})


async def _live(_request: web.Request) -> web.Response:
    return web.json_response({"live": True})


async def _ready(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    reasons = await asyncio.to_thread(engine.unready)  # not the scoring pool: probes wait for no request
    return _unready(reasons) if reasons else web.json_response({"ready": True, "reasons": []})


async def _model(request: web.Request) -> web.Response:
    served = request.app[ENGINE].served(request.match_info["model"])
    named = request.match_info.get("version")
    if named is not None:
        served.require_loaded(named)
    return web.json_response(metadata(served.reader, versions=sorted(served.versions) if named is None else [named]))


async def _model_ready(request: web.Request) -> web.Response:
    served = request.app[ENGINE].served(request.match_info["model"])
    version = request.match_info.get("version", served.routes.champion)
    if version in served.versions:
        return web.json_response({"ready": True})
    what = "no version" if version is None else f"version {version[:64]}"
    return _unready([f"model {served.spec.name!r} needs a loaded version to be ready; got {what}. Load and route one."])


@web.middleware
async def inference_told(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count and trace inference requests and their answers, errors too."""
    if request.match_info.handler is not _infer:
        return await handler(request)
    app = request.app
    engine, in_hand, tracing = app[ENGINE], app[IN_HAND], app[TRACING]
    model = request.match_info["model"]
    started = time.perf_counter()
    response: web.StreamResponse | None = None
    trace = request[TRACE] = tracing.begin(request.headers, model=model) if tracing else NO_TRACE
    in_hand.num_begun += 1
    try:
        response = await handler(request)
        return _last(response) if in_hand.is_ending else response
    finally:
        in_hand.num_ended += 1
        trace.end(status=response.status if response else 0)
        seconds = time.perf_counter() - started
        known = model if model in engine.models else None
        engine.metrics.answered(model=known, status=response.status if response else 0, seconds=seconds)


async def _infer(request: web.Request) -> web.Response:
    engine, admission = request.app[ENGINE], request.app[ADMISSION]
    admission.take()
    body, model, named = await request.read(), request.match_info["model"], request.match_info.get("version")
    if ENCODING in request.headers:
        body = decompress(body, encoding=request.headers[ENCODING], max_bytes=request.client_max_size)
    json_bytes = _json_bytes(request, body) if JSON_BYTES in request.headers else None
    admission.enter()
    try:
        scored = await engine.infer(model, Asked(body, json_bytes, named, request[TRACE]))
    finally:
        admission.leave()
    request[TRACE].mark("log")
    if scored.answer is None:
        raise ServiceError("The model could not score this request; nothing was answered. A retry may be.")
    if scored.answer.json_bytes is None:
        return web.Response(body=scored.answer.body, content_type="application/json")
    headers = {JSON_BYTES: str(scored.answer.json_bytes)}
    return web.Response(body=scored.answer.body, content_type="application/octet-stream", headers=headers)


def _json_bytes(request: web.Request, body: bytes) -> int:
    sent = request.headers[JSON_BYTES]
    num_bytes = int(sent) if sent.isascii() and sent.isdigit() and len(sent) <= MAX_DIGITS else 0
    if not 0 < num_bytes <= len(body):
        what = f"header {JSON_BYTES} must be a number from 1 to the body's {len(body)} bytes; got {sent[:32]!r}"
        raise RequestError(f"{what}. Nothing was scored. Send the length of the JSON.", {JSON_BYTES: what})
    return num_bytes


async def _metrics(request: web.Request) -> web.Response:
    text = request.app[ENGINE].metrics.text()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})
