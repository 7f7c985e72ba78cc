"""Kubernetes objects of any kind as plain data, read and written by path: from a worker, and from a trigger's loop.

Nothing is imported from Kubernetes' clients before the first call: Dag files and the triggerer load this module.
"""

from __future__ import annotations

import asyncio
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from include.errors import ServiceError, SetupError
from operators.hooks.kubernetes_calls import (
    APPLY,
    CONFLICT,
    REQUEST_TIMEOUT_S,
    StatusError,
    deletion,
    pause_s,
    raise_unless_gone,
    unreachable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

DEFAULT_CONN = "kubernetes_default"
FIELD_MANAGER = "tradewind"
_NUM_TRIES = 4
_SILENT_S = 240.0
"""Without a line a stream is opened anew: proxies forget connections that are idle for longer, and tell nobody."""
_NO_LOG = (400, 404)
"""The container has not started, or the pod is not there."""
_AS_DATA = dict.fromkeys((200, 201, 202), "object")
_JSON = {"Accept": "application/json", "Content-Type": "application/json"}


class KubernetesObjects:
    """Reads and writes objects from a worker; a call that meets trouble is made again for some seconds.

    Args:
        conn_id: Connection of Kubernetes.
    """

    def __init__(self, conn_id: str = DEFAULT_CONN) -> None:
        self.conn_id = conn_id

    @cached_property
    def _client(self) -> Any:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
        from kubernetes.config import ConfigException

        try:
            return KubernetesHook(conn_id=self.conn_id).get_conn()
        except ConfigException as error:
            raise SetupError(
                f"connection {self.conn_id!r} must open a cluster; got {error}. It isn't defined, or names no "
                "kubeconfig. Nothing was asked of a cluster. Define it, as docs/pages/to-a-cluster.md shows."
            ) from error

    def connect(self) -> None:
        """Make sure that the connection leads to a cluster, whether that answers or not.

        Raises:
            SetupError: It does not.
        """
        self._client  # noqa: B018 - made once

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """Return an object, or a list of them; None if there is none."""
        return self._call("GET", path, query=query)

    def log(self, path: str, **query: str) -> str:
        """Return a pod's log; nothing if it cannot be read."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            self._client.call_api(
                f"{path}/log",
                "GET",
                query_params=list(query.items()),
                response_types_map={200: "str"},  # makes "b'...'" of it; the bytes themselves are in the response
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=REQUEST_TIMEOUT_S,
            )
        except (ApiException, HTTPError, OSError, ValueError):
            return ""
        read: bytes = self._client.last_response.data
        return read.decode("utf-8", errors="replace")

    def create(self, path: str, manifest: Mapping[str, Any]) -> bool:
        """Create an object; False if its name is taken, by an earlier call whose answer was lost too.

        Raises:
            RefusedError: The server refuses it.
            ServiceError: The server does not answer.
        """
        return self._call("POST", path, query={"fieldManager": FIELD_MANAGER}, body=manifest) is not None

    def apply(self, path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object what the manifest says, by server-side apply: created or changed, and left alone if equal.

        With a `resourceVersion` in it, a StatusError says at once that the object has changed meanwhile.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        found = self._call("PATCH", path, query=query, body=manifest, kind=APPLY)
        return found or {}

    def patch(self, path: str, change: Mapping[str, Any]) -> None:
        """Merge a change into an object that may be gone."""
        self._call("PATCH", path, body=change, kind="application/merge-patch+json")

    def delete(self, path: str, *, grace_s: int | None = None, uid: str | None = None) -> None:
        """Delete an object with what belongs to it; nothing happens if it is gone, or if another one has its name."""
        self._call("DELETE", path, body=deletion(path, grace_s=grace_s, uid=uid))

    def _call(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        kind: str = "application/json",
    ) -> dict[str, Any] | None:
        """Call, and again for some seconds if need be; return None where there is nothing, or another one."""
        for number in range(_NUM_TRIES):
            try:
                return self._once(verb, path, query=query or {}, body=body, kind=kind)
            except ServiceError as error:
                told = error if isinstance(error, StatusError) else None
                if told and (told.is_taken if verb == "POST" else told.status == CONFLICT and verb == "DELETE"):
                    return None  # the name is taken already, or has gone to another object
                is_stale = told and told.status == CONFLICT and _names_its_version(body)
                if is_stale or number + 1 == _NUM_TRIES:  # what follows from an older object is for the caller to redo
                    raise
                if told and told.wants_a_token:
                    self.__dict__.pop("_client", None)  # a client asks its plugin for one only when it is made
                time.sleep(pause_s(error, number))
        return None

    def _once(
        self, verb: str, path: str, *, query: Mapping[str, str], body: Any = None, kind: str = "application/json"
    ) -> dict[str, Any] | None:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            answer = self._client.call_api(path, verb, **_call(query, body=body, kind=kind))
        except ApiException as error:
            raise_unless_gone(error, verb=verb, path=path, kind=kind)
            return None
        except (HTTPError, OSError, ValueError) as error:
            raise unreachable(verb, path, error) from error
        return dict(answer or {})


class AsyncKubernetesObjects:
    """The same from a trigger: each call once, since a trigger goes on polling anyway.

    Args:
        conn_id: Connection of Kubernetes.
    """

    def __init__(self, conn_id: str = DEFAULT_CONN) -> None:
        self.conn_id = conn_id
        self._hook: Any = None

    async def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """Return an object, or a list of them; None if there is none."""
        return await self._once("GET", path, query=query)

    async def patch(self, path: str, change: Mapping[str, Any]) -> None:
        """Merge a change into an object that may be gone."""
        await self._once("PATCH", path, body=change, kind="application/merge-patch+json")

    async def delete(self, path: str, *, grace_s: int | None = None) -> None:
        """Delete an object with what belongs to it; nothing happens if it is gone. It is tried again for seconds."""
        for number in range(_NUM_TRIES):
            try:
                await self._once("DELETE", path, body=deletion(path, grace_s=grace_s, uid=None))
            except ServiceError as error:
                if number + 1 == _NUM_TRIES:
                    raise
                await asyncio.sleep(pause_s(error, number))
            else:
                return

    async def follow(self, path: str, **query: str) -> AsyncGenerator[str]:
        """Yield the lines of a pod's log as they are printed, until its container ends; none if there is no log yet.

        Raises:
            ServiceError: The log cannot be read now, or no further.
        """
        try:
            async with (await self._loaded()).get_conn() as connection:
                answer = await connection.call_api(
                    f"{path}/log",
                    "GET",
                    query_params=[*query.items(), ("follow", "true")],
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _return_http_data_only=True,
                    _request_timeout=(REQUEST_TIMEOUT_S, _SILENT_S),
                )
                async with answer:
                    if answer.status not in _NO_LOG:
                        answer.raise_for_status()
                        async for line in _whole_lines(answer):
                            yield line
        except _no_answer() as error:
            raise unreachable("GET", f"{path}/log", error) from error

    async def _once(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        kind: str = "application/json",
    ) -> dict[str, Any] | None:
        hook = await self._loaded()  # with it, the client's own classes
        from kubernetes_asyncio.client.exceptions import ApiException

        try:
            async with hook.get_conn() as connection:
                answer = await connection.call_api(path, verb, **_call(query or {}, body=body, kind=kind))
        except ApiException as error:
            raise_unless_gone(error, verb=verb, path=path, kind=kind)
            return None
        except _no_answer() as error:
            raise unreachable(verb, path, error) from error
        return dict(answer or {})

    async def _loaded(self) -> Any:
        if self._hook is None:
            self._hook = await asyncio.to_thread(_load_hook, self.conn_id)
        return self._hook


def _names_its_version(body: Any) -> bool:
    """Return whether a manifest may only be applied to the object that it was made from."""
    return isinstance(body, dict) and "resourceVersion" in body.get("metadata", {})


def _no_answer() -> tuple[type[Exception], ...]:
    """Return what a call without an answer raises; that of a connection too, whose plugin may give no token now."""
    import aiohttp
    from airflow.sdk.exceptions import AirflowException
    from kubernetes_asyncio.config import ConfigException

    return aiohttp.ClientError, AirflowException, ConfigException, OSError, TimeoutError, ValueError


def _load_hook(conn_id: str) -> Any:
    """Import the client, which takes a second, off the event loop."""
    import kubernetes_asyncio.client  # noqa: F401
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

    return AsyncKubernetesHook(conn_id=conn_id)


async def _whole_lines(answer: Any) -> AsyncGenerator[str]:
    """Yield a body's whole lines, however long: one that breaks off in the midst is read again."""
    rest = b""
    async for part in answer.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", errors="replace")


def _call(query: Mapping[str, str], *, body: Any, kind: str) -> dict[str, Any]:
    """Return what both clients' `call_api` takes beside path and verb."""
    return {
        "query_params": list(query.items()),
        "header_params": {**_JSON, "Content-Type": kind},
        "body": body,
        "response_types_map": _AS_DATA,
        "auth_settings": ["BearerToken"],
        "_return_http_data_only": True,
        "_request_timeout": REQUEST_TIMEOUT_S,
    }
