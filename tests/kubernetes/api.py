"""The Kubernetes API over HTTP: paths, verbs, watches and logs of a scripted cluster."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.kubernetes.clock import seconds, timestamp
from tests.kubernetes.cluster import LogStream
from tests.kubernetes.faults import REASONS
from tests.kubernetes.store import ApiError, Key, Object, selector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.kubernetes.cluster import Cluster
    from tests.kubernetes.faults import Fault

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<kind>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?$"
)
_IDLE_S = 0.01
_MAX_WATCH_S = 300.0


class Api:
    """Answers requests; what is asked for is done under the cluster's lock."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.app = web.Application(client_max_size=2**24)
        self.app.router.add_route("*", "/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        verb, path = request.method, request.path
        body = json.loads(await request.read() or b"null")
        cluster = self.cluster
        with cluster.lock:
            cluster.advance()
            cluster.calls.append((verb, request.path_qs))
            fault = next((fault for fault in cluster.faults if fault.hits(verb, path)), None)
        if cluster.token and request.headers.get("Authorization") != f"Bearer {cluster.token}":
            says = f'User "system:anonymous" cannot {verb} {path}'
            return _error(ApiError(403, "Forbidden", f"it is forbidden: {says}"))
        if fault is None:
            return await self._do(request, body, None)
        if fault.kind == "slow":
            await asyncio.sleep(fault.delay_s)
        if fault.kind in ("error_after", "reset_after"):
            await self._do(request, body, None)
        if fault.kind in ("reset", "reset_after"):
            return _reset(request)
        if fault.kind in ("error", "error_after"):
            reason = REASONS.get(fault.code, "InternalError")
            says = fault.says or f"scripted {fault.code}"
            return _error(ApiError(fault.code, reason, says, retry_after_s=fault.retry_after_s))
        return await self._do(request, body, fault)

    async def _do(self, request: web.Request, body: Any, fault: Fault | None) -> web.StreamResponse:
        query = request.query
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
        found = _PATH.match(request.path)
        if found is None:
            return _error(ApiError(404, "NotFound", "the server could not find the requested resource"))
        key = Key(found["core"] or found["group"], found["kind"], found["namespace"] or "", found["name"] or "")
        try:
            if found["sub"] == "log":
                stream = self._printed(key, query)
                try:
                    return await self._stream(request, self._log(stream, query), fault, kind="text/plain")
                finally:
                    stream.is_done = True
            if request.method == "GET" and query.get("watch") in ("true", "1", "True"):
                return await self._stream(request, self._watch(key, query), fault, kind="application/json")
            with self.cluster.lock:
                code, answer = self._call(request.method, key, found["sub"] or "", body, query)
        except ApiError as error:
            return _error(error)
        if fault is not None:
            return await self._stream(request, _once(json.dumps(answer).encode()), fault, kind="application/json")
        return web.json_response(answer, status=code)

    def _call(self, verb: str, key: Key, sub: str, body: Any, query: Any) -> tuple[int, Object]:
        cluster = self.cluster
        if verb == "POST" and sub == "eviction":
            cluster.evict(key.name, namespace=key.namespace)
            return 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        calls: dict[str, Callable[[], Object]] = {
            "GET": lambda: cluster.store.get(key) if key.name else self._list(key, query),
            "POST": lambda: cluster.create(key, body),
            "PUT": lambda: cluster.store.replace(key, body, status=sub == "status"),
            "PATCH": lambda: cluster.patch(key, body),
            "DELETE": lambda: self._delete(key, query, body or {}),
        }
        if verb not in calls:
            raise ApiError(405, "MethodNotAllowed", f"{verb} is not supported")
        return 201 if verb == "POST" else 200, calls[verb]()

    def _delete(self, key: Key, query: Any, options: Object) -> Object:
        if key.name:
            return self.cluster.delete(key, {**query, **options})
        picked = self._list(key, query)
        for each in picked["items"]:
            at = key._replace(name=each["metadata"]["name"], namespace=each["metadata"].get("namespace", ""))
            self.cluster.delete(at, options)
        return picked

    def _list(self, key: Key, query: Any) -> Object:
        store = self.cluster.store
        items = store.select(key, labels=query.get("labelSelector", ""), fields=query.get("fieldSelector", ""))
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0)
        meta: Object = {"resourceVersion": str(store.version)}
        if limit and len(items) > start + limit:
            meta["continue"] = str(start + limit)
        kinds = {"pods": "PodList", "events": "EventList", "jobs": "JobList", "nodes": "NodeList"}
        says = {"kind": kinds.get(key.kind, "List"), "apiVersion": key.group, "metadata": meta}
        return {**says, "items": items[start : start + limit if limit else None]}

    async def _stream(
        self, request: web.Request, parts: AsyncIterator[bytes], fault: Fault | None, *, kind: str
    ) -> web.StreamResponse:
        """Answer with a body that grows, and that a fault may cut."""
        if fault is not None and fault.kind == "cut":
            parts = _cut(parts, fault.num_bytes)
        first = await anext(parts, b"")  # an error of the first part is an answer of its own
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        with suppress(ConnectionError):  # the client has gone
            try:
                await response.write(first)
                async for part in parts:
                    await response.write(part)
            except _CutError:
                return _reset(request)
            await response.write_eof()
        return response

    async def _watch(self, key: Key, query: Any) -> AsyncIterator[bytes]:
        store = self.cluster.store
        matches = selector(labels=query.get("labelSelector", ""), fields=query.get("fieldSelector", ""))
        since = query.get("resourceVersion") or "0"
        with self.cluster.lock:
            if since != "0" and int(since) < store.oldest:
                gone = ApiError(410, "Expired", f"too old resource version: {since} ({store.oldest})")
                lines, place = [{"type": "ERROR", "object": gone.body}], -1
            elif since == "0":
                lines = [{"type": "ADDED", "object": found} for found in self._list(key, query)["items"]]
                place = len(store.changes)
            else:
                older = (n for n, each in enumerate(store.changes) if each.version > int(since))
                lines, place = [], next(older, len(store.changes))
            first = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        yield first
        if place < 0:
            return
        ends_at = self.cluster.clock.now() + float(query.get("timeoutSeconds") or _MAX_WATCH_S)
        while self.cluster.clock.now() < ends_at:
            while place < len(store.changes):
                change = store.changes[place]
                place += 1
                same = (change.key.group, change.key.kind) == (key.group, key.kind)
                if same and key.namespace in ("", change.key.namespace) and matches(change.object):
                    yield json.dumps({"type": change.type, "object": change.object}).encode() + b"\n"
            await self.cluster.pause(_IDLE_S)

    def _printed(self, key: Key, query: Any) -> LogStream:
        """Return what is printed in a pod."""
        with self.cluster.lock:
            pod = self.cluster.store.get(key)
            process = self.cluster.log_of(pod, query.get("container") or pod["spec"]["containers"][0]["name"])
        node = pod["spec"]["nodeName"]
        return LogStream(process=process, is_heard=lambda: self.cluster.is_heard(node))

    async def _log(self, stream: LogStream, query: Any) -> AsyncIterator[bytes]:
        cluster, lines, since = self.cluster, stream.process, self._since(query)
        stamped, follows = query.get("timestamps") in ("true", "True"), query.get("follow") in ("true", "True")
        if query.get("tailLines"):
            stream.num_sent = max(0, len(lines.log) - int(query["tailLines"]))
        if follows:
            cluster.streams.append(stream)
        yield b""
        while True:
            ended = lines.exit_code is not None
            while stream.num_sent < len(lines.log) and stream.is_heard():
                at, line = lines.log[stream.num_sent]
                if at >= since:
                    yield (f"{timestamp(at, fine=True)} {line}\n" if stamped else f"{line}\n").encode()
                stream.num_sent += 1
            if not follows or (ended and stream.is_heard()):
                return
            await cluster.pause(_IDLE_S, blocking=True)

    def _since(self, query: Any) -> float:
        if query.get("sinceSeconds"):
            return self.cluster.clock.now() - float(query["sinceSeconds"])
        if query.get("sinceTime"):
            return seconds(query["sinceTime"])
        return 0.0


class _CutError(Exception):
    """The connection of a stream is gone."""


async def _cut(parts: AsyncIterator[bytes], left: int) -> AsyncIterator[bytes]:
    """Yield the first bytes of a body, then fail."""
    async for part in parts:
        yield part[:left]
        left -= len(part)
        if left <= 0:
            break
    yield b""
    raise _CutError


async def _once(part: bytes) -> AsyncIterator[bytes]:
    yield part


def _error(error: ApiError) -> web.Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return web.json_response(error.body, status=error.code, headers=headers)


def _reset(request: web.Request) -> web.Response:
    """End a connection in the middle."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
