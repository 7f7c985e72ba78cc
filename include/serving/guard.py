"""Calls that only holders of the admin token may make."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from include.errors import ServiceError, SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.typedefs import Handler

    from include.serving.token import AdminToken

_LOG = logging.getLogger(__name__)


def guarded(calls: Sequence[web.RouteDef], *, token: AdminToken | None) -> list[web.RouteDef]:
    """Return calls for holders of the token only; without a token, for nobody."""
    return [web.route(call.method, call.path, _guarded(call.handler, token)) for call in calls]


def _guarded(handler: Any, token: AdminToken | None) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        if token is None:
            text = "admin calls need a server that was started with --token-file; it was not. Nothing was done."
            return web.json_response({"error": text, "kind": "SetupError"}, status=403)
        try:
            is_admitted = token.admits(request.headers.get("Authorization", ""))
        except SetupError as error:  # it names a path, which is nothing for those who have no token
            _LOG.error("%s", error)
            raise ServiceError(
                "the server's admin token cannot be read at this moment. Nothing was done. Its log says why; retry."
            ) from None
        if not is_admitted:
            text = "admin calls need the header 'Authorization: Bearer <admin token>'; got another, or none."
            return web.json_response({"error": text, "kind": "SetupError"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    return guarded
