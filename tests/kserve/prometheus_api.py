"""A Prometheus of the tests: scrapes when it is told to, and answers the few forms of query that Tradewind asks.

`tests/kserve/test_prometheus.py` asks the same of the real one.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUERY = re.compile(
    r"^(?:(?P<function>resets|last_over_time)\()?\{(?P<matchers>[^}]*)\}\[(?P<range>\d+)ms\]"
    r"\)?(?P<positive> > 0)?$"
)
_MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
Series = tuple[tuple[str, str], ...]


@dataclass(kw_only=True)
class ScriptedPrometheus:
    """An HTTP API of Prometheus on a loopback port; use it as a context manager."""

    samples: dict[Series, list[tuple[float, float]]] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    status: int = 200
    is_cut_off: bool = False
    url: str = ""

    def __enter__(self) -> Self:
        """Start it."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                body = json.dumps(outer.answer(asked["query"][0], float(asked["time"][0]))).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body) + (100 if outer.is_cut_off else 0)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()

    def scrape(self, url: str, *, at_s: float, instance: str = "pod-1") -> None:
        """Keep what a server's /metrics says now."""
        with urlopen(f"{url}/metrics") as response:
            text = response.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.add(at_s, sample.value, __name__=sample.name, instance=instance, **sample.labels)

    def add(self, at_s: float, value: float, **labels: str) -> None:
        """Keep a sample."""
        self.samples.setdefault(tuple(sorted(labels.items())), []).append((at_s, value))

    def answer(self, query: str, now_s: float) -> dict[str, Any]:
        """Return what the API answers."""
        self.queries.append(query)
        asked = _QUERY.match(query)
        if asked is None:
            return {"status": "error", "errorType": "bad_data", "error": f"parse error: {query}"}
        begin = now_s - float(asked["range"]) / 1e3
        within = self._within(_MATCHER.findall(asked["matchers"]), begin, now_s)
        if asked["function"] is None:
            found: list[dict[str, Any]] = [
                {"metric": dict(series), "values": [[at, str(value)] for at, value in values]}
                for series, values in within
            ]
            return {"status": "success", "data": {"resultType": "matrix", "result": found}}
        found = []
        for series, values in within:
            labels = dict(series)
            value = values[-1][1]
            if asked["function"] == "resets":
                value = sum(after < before for (_, before), (_, after) in pairwise(values))
                labels.pop("__name__")
            if value > 0 or not asked["positive"]:
                found.append({"metric": labels, "value": [now_s, str(value)]})
        return {"status": "success", "data": {"resultType": "vector", "result": found}}

    def _within(
        self, matchers: list[tuple[str, str, str]], begin: float, end: float
    ) -> Iterable[tuple[Series, list[tuple[float, float]]]]:
        for series, samples in self.samples.items():
            labels = dict(series)
            chosen = all(
                bool(re.fullmatch(value if sign == "=~" else re.escape(value), labels.get(name, ""))) is (sign != "!=")
                for name, sign, value in matchers
            )
            values = [(at, value) for at, value in samples if begin <= at <= end]
            if chosen and values:
                yield series, values
