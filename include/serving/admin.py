"""The router's admin calls, under /v2/router: each needs the token, each is idempotent.

GET    /v2/router                                           every model's state
GET    /v2/router/{model}                                   one model's state: routes, versions, counters
PUT    /v2/router/{model}/versions/{version}                load {"uri", "digest"}
DELETE /v2/router/{model}/versions/{version}                unload
POST   /v2/router/{model}/versions/{version}/golden         score the package's golden rows
PUT    /v2/router/{model}/routes                            {"champion", "canary", "canary_share_pct", "shadow"}
POST   /v2/router/flush                                     write the prediction log
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web

from include.errors import BadInputError, NotFoundError, ServiceError
from include.serving.router import Routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.typedefs import Handler

    from include.serving.engine import Engine
    from include.serving.token import AdminToken

PREFIX = "/v2/router"


Body = TypeVar("Body")


class _Load(msgspec.Struct, forbid_unknown_fields=True):
    uri: str
    digest: str


class _SetRoutes(msgspec.Struct, forbid_unknown_fields=True):
    champion: str | None
    canary: str | None
    canary_share_pct: float
    shadow: str | None
    if_revision: int | None = None


def admin_routes(engine: Engine, *, token: AdminToken | None) -> list[web.RouteDef]:
    """Return the admin calls of an engine, each for holders of the token only; without a token, for nobody."""
    admin = _Admin(engine)
    calls = [
        web.get(PREFIX, admin.all_states),
        web.post(f"{PREFIX}/flush", admin.flush),
        web.get(f"{PREFIX}/{{model}}", admin.one_state),
        web.put(f"{PREFIX}/{{model}}/versions/{{version}}", admin.load),
        web.delete(f"{PREFIX}/{{model}}/versions/{{version}}", admin.unload),
        web.post(f"{PREFIX}/{{model}}/versions/{{version}}/golden", admin.golden),
        web.put(f"{PREFIX}/{{model}}/routes", admin.set_routes),
    ]
    return [web.route(call.method, call.path, _guarded(call.handler, token)) for call in calls]


def _guarded(handler: Any, token: AdminToken | None) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        if token is None:
            text = "admin calls need a server that was started with --token-file; it was not. Nothing was done."
            return web.json_response({"error": text, "kind": "SetupError"}, status=403)
        if not token.admits(request.headers.get("Authorization", "")):
            text = "admin calls need the header 'Authorization: Bearer <admin token>'; got another, or none."
            return web.json_response({"error": text, "kind": "SetupError"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    return guarded


class _Admin:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changing = asyncio.Lock()
        self._trying_out = asyncio.Lock()

    async def all_states(self, _request: web.Request) -> web.Response:
        models = {model: self._state(model) for model in self._engine.router.states}
        return web.json_response({"models": models, "log": self._engine.log.counters()})

    async def one_state(self, request: web.Request) -> web.Response:
        return web.json_response(self._state(request.match_info["model"]))

    async def flush(self, _request: web.Request) -> web.Response:
        if not await self._run(self._engine.log.flush):
            num_rows = self._engine.log.counters()["pending_rows"]
            raise ServiceError(
                f"the prediction log must be in files within 60 s; got {num_rows} rows that wait in the journal. None "
                "is lost; the server's log says why. Retry."
            )
        return web.json_response(self._engine.log.counters())

    async def load(self, request: web.Request) -> web.Response:
        model, version = request.match_info["model"], request.match_info["version"]
        body = await _read(request, _Load)
        package = {"uri": body.uri, "digest": body.digest}
        # Changes do not wait for this: a version that hangs must not keep another one from going back.
        async with self._trying_out:
            await self._run(self._engine.try_out, model=model, version=version, **package)
        async with self._change():
            known = self._engine.router.state(model).versions.get(version)
            is_loaded = model in self._engine.models and version in self._engine.models[model].versions
            if known != package or not is_loaded:
                self._require_unrouted(model, version, is_same=known == package)
                loaded = await self._run(self._engine.load, model=model, version=version, **package)
                self._engine.require_champions_inputs(loaded)
                self._engine.router.set_version(model, version, package)
                self._engine.add(loaded)
        return web.json_response(self._state(model))

    async def unload(self, request: web.Request) -> web.Response:
        model, version = request.match_info["model"], request.match_info["version"]
        async with self._change():
            self._engine.drop(model, version)
        return web.json_response(self._state(model))

    async def golden(self, request: web.Request) -> web.Response:
        model, version = request.match_info["model"], request.match_info["version"]
        loaded = self._engine.served(model).versions.get(version)
        if loaded is None:
            raise NotFoundError(f"version {version} of model {model!r} must be loaded; it is not. Load it first.")
        return web.json_response(await self._run(loaded.check_golden))

    async def set_routes(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        body = await _read(request, _SetRoutes)
        async with self._change():
            revision = self._engine.router.state(model).revision
            if body.if_revision is not None and body.if_revision != revision:
                raise ServiceError(
                    f"routes of model {model!r} must still be revision {body.if_revision}; got {revision}: somebody "
                    "changed them. They stay as they are. Read them again and retry."
                )
            wanted = Routes(
                champion=body.champion,
                canary=body.canary,
                canary_share_pct=body.canary_share_pct,
                shadow=body.shadow,
            )
            self._engine.route(model, wanted)
        return web.json_response(self._state(model))

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """Run changes one after the other, and after what is restored."""
        async with self._changing:
            if self._engine.restoring is not None:
                await asyncio.shield(self._engine.restoring)
            yield

    def _require_unrouted(self, model: str, version: str, *, is_same: bool) -> None:
        role = self._engine.router.state(model).routes.role_of(version)
        if role and not is_same:
            raise BadInputError(
                f"version {version} of model {model!r} must keep its package while it takes traffic; got another one "
                f"for the {role}. The routes stay as they were. Register the package as a version of its own."
            )

    def _state(self, model: str) -> dict[str, Any]:
        state = self._engine.router.state(model)
        served = self._engine.models.get(model)
        failures = served.failures if served else {}
        loaded = served.versions if served else {}
        windows = self._engine.counted(model).windows
        return {
            "model": model,
            "routes": asdict(state.routes),
            "revision": state.revision,
            "age_s": self._engine.age_s(model),
            "versions": {
                version: {**package, "error": failures.get(version, None if version in loaded else "not loaded yet")}
                for version, package in state.versions.items()
            },
            "counters": [w.to_json(version=version, role=role) for (version, role), w in windows.items()],
        }

    async def _run(self, function: Callable[..., Any], **arguments: Any) -> Any:
        # Not the scoring pool: loading a package or writing the log must not take a thread from requests.
        return await asyncio.to_thread(function, **arguments)


async def _read(request: web.Request, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"the body of {request.method} {request.path} must be JSON as its page says; got: {error}. Nothing "
            "was done."
        ) from error
