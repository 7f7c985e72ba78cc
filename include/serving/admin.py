"""The router's admin calls, under /v2/router: each needs the token, each is idempotent.

GET    /v2/router                                           every model's state
GET    /v2/router/{model}                                   one model's state: routes, versions, counters
PUT    /v2/router/{model}/versions/{version}                load {"uri", "digest", "signature"}
DELETE /v2/router/{model}/versions/{version}                unload
POST   /v2/router/{model}/versions/{version}/golden         score the package's golden rows
PUT    /v2/router/{model}/routes                            {"champion", "canary", "canary_share_pct", "shadow"}
PUT    /v2/router/{model}/labels/{partition}                {"version", "champion", "num", "total", "total_squares"}
POST   /v2/router/flush                                     write the prediction log
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from weakref import WeakValueDictionary

import msgspec
from aiohttp import web

from include.errors import BadInputError, NotFoundError, ServiceError, TradewindError
from include.serving.router import Routes
from include.serving.version_checks import require_champions_inputs, require_unrouted
from include.serving.versions import require_legal_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from include.registry.signing import Trust
    from include.serving.engine import Engine

PREFIX = "/v2/router"

Body = TypeVar("Body")


class _Labels(msgspec.Struct, forbid_unknown_fields=True):
    version: str
    champion: str
    num: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    total: float
    total_squares: Annotated[float, msgspec.Meta(ge=0)]


class Load(msgspec.Struct, forbid_unknown_fields=True):
    """A version's package, and who vouches for it."""

    uri: str
    digest: str
    signature: str = ""


class _SetRoutes(msgspec.Struct, forbid_unknown_fields=True):
    champion: str | None
    canary: str | None
    canary_share_pct: float
    shadow: str | None
    if_revision: int | None = None


def admin_routes(admin: Admin) -> list[web.RouteDef]:
    """Return the admin calls; the caller guards them."""
    return [
        web.get(PREFIX, admin.all_states),
        web.post(f"{PREFIX}/flush", admin.flush),
        web.get(f"{PREFIX}/{{model}}", admin.one_state),
        web.put(f"{PREFIX}/{{model}}/versions/{{version}}", admin.load),
        web.delete(f"{PREFIX}/{{model}}/versions/{{version}}", admin.unload),
        web.post(f"{PREFIX}/{{model}}/versions/{{version}}/golden", admin.golden),
        web.put(f"{PREFIX}/{{model}}/routes", admin.set_routes),
        web.put(f"{PREFIX}/{{model}}/labels/{{partition}}", admin.set_labels),
    ]


class Admin:
    """The calls, and what they share with those of the model repository.

    A change checks and is made without an `await` between, so the event loop runs one after the other and none waits.
    What takes time comes before that, and what was true when it began may not be any more.
    """

    def __init__(self, engine: Engine, trust: Trust | None) -> None:
        self.engine = engine
        self._trust = trust
        self._loading: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def all_states(self, _request: web.Request) -> web.Response:
        """Answer what is known of every model."""
        models = {model: self.state(model) for model in self.engine.router.states}
        return web.json_response({"models": models, "log": self.engine.log.counters()})

    async def one_state(self, request: web.Request) -> web.Response:
        """Answer what is known of one model."""
        return web.json_response(self.state(request.match_info["model"]))

    async def flush(self, _request: web.Request) -> web.Response:
        """Write the prediction log."""
        if not await asyncio.to_thread(self.engine.log.flush):
            num_rows = self.engine.log.counters()["pending_rows"]
            raise ServiceError(
                f"the prediction log must be in files within 60 s; got {num_rows} rows that wait in the journal. None "
                "is lost; the server's log says why. Retry."
            )
        return web.json_response(self.engine.log.counters())

    async def load(self, request: web.Request) -> web.Response:
        """Load a version."""
        model, version = request.match_info["model"], request.match_info["version"]
        await self.load_version(model, version, await read(request, Load))
        return web.json_response(self.state(model))

    async def set_labels(self, request: web.Request) -> web.Response:
        """Keep what a partition's late labels say of a challenger."""
        model, evidence = request.match_info["model"], await read(request, _Labels)
        known = self.engine.router.state(model).versions
        for version in (evidence.version, evidence.champion):
            if version not in known:
                raise NotFoundError(
                    f"labels of model {model[:64]!r} must be of versions that it has ({', '.join(known) or 'none'}); "
                    f"got {version[:64]!r}. They were not kept. Read its routes again."
                )
        self.engine.router.set_labels(model, request.match_info["partition"], msgspec.structs.asdict(evidence))
        return web.json_response(self.state(model))

    async def load_version(self, model: str, version: str, wanted: Load) -> None:
        """Load a version that somebody vouches for, unless it is loaded already; it takes no traffic yet.

        Raises:
            UnsignedError: Nobody does who is trusted.
            BadInputError: Packages cannot be where it is, it is routed with another one, or its inputs are not the
                champion's.
            CorruptArtifactError: Its package does not match the digest, or cannot be loaded.
        """
        require_legal_place(wanted.uri, model=model, version=version)
        if self._trust is not None:
            self._trust.require(model=model, digest=wanted.digest, signature=wanted.signature)
        await self._load(model, version, {"uri": wanted.uri, "digest": wanted.digest})

    async def load_known(self, model: str) -> None:
        """Load what is known of a model and could not be loaded; somebody vouched for it when it was loaded first.

        Raises:
            NotFoundError: Nothing is known of it.
            TradewindError: The first reason why one of its versions cannot be loaded; the others are.
        """
        known = self.engine.router.state(model).versions
        if not known:
            raise NotFoundError(
                f"model {model[:64]!r} must have versions that the server knows to be loaded by its name alone; got "
                "none. Nothing was loaded. Send uri, digest, version and signature, with tritonclient as its `config`."
            )
        failed: list[TradewindError] = []
        for version, package in known.items():
            try:
                await self._load(model, version, package)
            except TradewindError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    async def _load(self, model: str, version: str, package: Mapping[str, str]) -> None:
        await self._restored(model)
        async with self._loading.setdefault((model, version), asyncio.Lock()):  # for callers that ask again
            if not self._is_needed(model, version, package):
                return
            await self._run(self.engine.try_out, model=model, version=version, **package)
            loaded = await self._run(self.engine.load, model=model, version=version, **package)
            if self._is_needed(model, version, package):
                served = self.engine.models.get(model)
                require_champions_inputs(loaded, served=served, max_rows=self.engine.max_rows)
                self.engine.router.set_version(model, version, package)
                self.engine.add(loaded)

    async def unload(self, request: web.Request) -> web.Response:
        """Unload a version."""
        model, version = request.match_info["model"], request.match_info["version"]
        await self.unload_versions(model, [version])
        return web.json_response(self.state(model))

    async def unload_versions(self, model: str, versions: Sequence[str]) -> None:
        """Unload some versions, or none of them.

        Raises:
            BadInputError: One is routed.
        """
        await self._restored(model)
        for version in versions:
            require_unrouted(version, model=model, routes=self.engine.router.state(model).routes)
        for version in versions:
            self.engine.drop(model, version)

    async def golden(self, request: web.Request) -> web.Response:
        """Score a version's golden rows."""
        model, version = request.match_info["model"], request.match_info["version"]
        loaded = self.engine.served(model).versions.get(version)
        if loaded is None:
            raise NotFoundError(f"version {version} of model {model!r} must be loaded; it is not. Load it first.")
        return web.json_response(await asyncio.to_thread(loaded.check_golden))

    async def set_routes(self, request: web.Request) -> web.Response:
        """Replace a model's routes."""
        model = request.match_info["model"]
        body = await read(request, _SetRoutes)
        await self._restored(model)
        revision = self.engine.router.state(model).revision
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
        self.engine.route(model, wanted)
        return web.json_response(self.state(model))

    async def _restored(self, model: str) -> None:
        if model in self.engine.restoring:
            await asyncio.shield(self.engine.restoring[model])

    def _is_needed(self, model: str, version: str, package: Mapping[str, str]) -> bool:
        """Return whether a version must still be loaded.

        Raises:
            BadInputError: It is routed with another package.
        """
        state, served = self.engine.router.state(model), self.engine.models.get(model)
        is_same = state.versions.get(version) == package
        role = state.routes.role_of(version)
        if role and not is_same:
            raise BadInputError(
                f"version {version} of model {model!r} must keep its package while it takes traffic; got another one "
                f"for the {role}. The routes stay as they were. Register the package as a version of its own."
            )
        return not is_same or served is None or version not in served.versions

    def state(self, model: str) -> dict[str, Any]:
        """Return what the router and the engine know of a model."""
        state = self.engine.router.state(model)
        served = self.engine.models.get(model)
        failures = served.failures if served else {}
        loaded = served.versions if served else {}
        windows = self.engine.counted(model).windows
        return {
            "model": model,
            "routes": asdict(state.routes),
            "revision": state.revision,
            "age_s": self.engine.age_s(model),
            "versions": {
                version: {
                    **package,
                    "error": failures.get(version, None if version in loaded else "not loaded yet"),
                    "provider": loaded[version].provider if version in loaded else None,
                }
                for version, package in state.versions.items()
            },
            "counters": [w.to_json(version=version, role=role) for (version, role), w in windows.items()],
            "labels": state.labels,
        }

    async def _run(self, function: Callable[..., Any], **arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.engine.loaders, partial(function, **arguments))


async def read(request: web.Request, kind: type[Body]) -> Body:
    """Return what an admin call brings.

    Raises:
        BadInputError: It is not JSON of that kind.
    """
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"the body of {request.method} {request.path} must be JSON as its page says; got: {error}. Nothing "
            "was done."
        ) from error
