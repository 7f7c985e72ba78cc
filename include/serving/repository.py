"""The inference protocol's model repository calls; each needs the admin token.

POST /v2/repository/index                  every version that the server knows, and whether it can score
POST /v2/repository/models/{model}/load    load one version: `parameters` are uri, digest, version, signature; without
                                           any, what the server knows of the model and could not load
POST /v2/repository/models/{model}/unload  unload one version, or all that the server knows

tritonclient sends parameters of its own only; with it, `config` is a JSON text of these four. Source: Triton Inference
Server, protocol extension "model repository".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from include.errors import BadInputError
from include.serving.admin import Load, read

if TYPE_CHECKING:
    from include.serving.admin import Admin


class _Index(msgspec.Struct):
    ready: bool = False


class _LoadParameters(Load, kw_only=True):
    version: str


class _LoadBody(msgspec.Struct):
    parameters: dict[str, str] = {}


class _UnloadParameters(msgspec.Struct):
    version: str | None = None


class _UnloadBody(msgspec.Struct):
    parameters: _UnloadParameters | None = None


def repository_routes(admin: Admin) -> list[web.RouteDef]:
    """Return the calls of an engine's repository; the caller guards them."""
    calls = _Repository(admin)
    return [
        web.post("/v2/repository/index", calls.index),
        web.post("/v2/repository/models/{model}/load", calls.load),
        web.post("/v2/repository/models/{model}/unload", calls.unload),
    ]


class _Repository:
    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    async def index(self, request: web.Request) -> web.Response:
        wanted = await read(request, _Index) if await request.read() else _Index()
        found = []
        for model in sorted(self._admin.engine.router.states):
            for version, package in self._admin.state(model)["versions"].items():
                reason = package["error"]
                entry = {"name": model, "version": version, "state": "UNAVAILABLE" if reason else "READY"}
                found.append({**entry, "reason": reason or ""})
        return web.json_response([entry for entry in found if entry["state"] == "READY" or not wanted.ready])

    async def load(self, request: web.Request) -> web.Response:
        sent = (await read(request, _LoadBody)).parameters if await request.read() else {}
        if not sent:
            await self._admin.load_known(request.match_info["model"])
            return web.json_response({})
        try:
            raw = msgspec.json.decode(sent["config"]) if sent.keys() == {"config"} else sent
            wanted = msgspec.convert(raw, _LoadParameters)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadInputError(
                f"loading a version needs the parameters uri, digest, version and signature; got: {error}. Nothing was "
                "loaded. Send them, with tritonclient as its `config`, in JSON."
            ) from error
        await self._admin.load_version(request.match_info["model"], wanted.version, wanted)
        return web.json_response({})

    async def unload(self, request: web.Request) -> web.Response:
        body = await read(request, _UnloadBody) if await request.read() else _UnloadBody()
        named = body.parameters.version if body.parameters else None
        model = request.match_info["model"]
        known = list(self._admin.engine.router.state(model).versions)
        await self._admin.unload_versions(model, known if named is None else [named])
        return web.json_response({})
