"""Fakes of services that cannot run here: real servers on loopback that speak the part of a protocol that we use."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


@dataclass
class FakeSlack:
    """Slack's chat.postMessage: checks the bearer token and keeps the messages.

    Args:
        token: The only token that it takes.
        status: HTTP status of every answer.
        delay_s: Seconds before it answers.
    """

    token: str = "xoxb-right"
    status: int = 200
    delay_s: float = 0
    messages: list[dict[str, Any]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    base_url: str = ""

    def start(self) -> ThreadingHTTPServer:
        """Serve on a free loopback port from a thread."""
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                is_json = self.headers["Content-Type"].startswith("application/json")
                sent = json.loads(body) if is_json else {key: value[0] for key, value in parse_qs(body).items()}
                slack.stopped.wait(slack.delay_s)
                answer = slack.answer(self.path, self.headers["Authorization"], sent)
                self.send_response(slack.status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.base_url = f"http://127.0.0.1:{server.server_port}/api/"
        return server

    def answer(self, path: str, authorization: str, sent: dict[str, Any]) -> dict[str, Any]:
        """Return what Slack answers."""
        if path != "/api/chat.postMessage":
            return {"ok": False, "error": "unknown_method"}
        if authorization != f"Bearer {self.token}":
            return {"ok": False, "error": "invalid_auth"}
        if self.status != 200:
            return {"ok": False}
        self.messages.append(sent)
        return {"ok": True, "channel": sent["channel"], "ts": f"1700000000.{len(self.messages):06d}"}
