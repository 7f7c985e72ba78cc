"""A server on loopback that speaks the part of Airflow's REST API which progress and repairs need."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from include.progress.facts import DAG_STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "right"


@dataclass
class FakeAirflow:
    """Keeps Dags, runs and events as Airflow 3.3 shows them.

    Args:
        paused: Dag id -> whether it is paused.
        runs: As `GET dags/~/dagRuns` returns them, oldest first.
        events: Asset -> its events, oldest first.
        tasks: Run id -> its tasks.
    """

    paused: dict[str, bool] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tasks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    now: str = "2026-01-01T00:00:00Z"
    base_url: str = ""
    num_logins: int = 0

    def start(self) -> ThreadingHTTPServer:
        """Serve on a free loopback port from a thread."""
        airflow = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                length = int(self.headers["Content-Length"] or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                is_known = self.headers["Authorization"] == f"Bearer {airflow.num_logins}"
                if self.path == "/auth/token" or is_known:
                    status, answer = airflow.answer(self.command, self.path, body)
                else:
                    status, answer = 401, {}
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            do_GET = do_POST = do_PATCH = do_DELETE = _do

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.base_url = f"http://127.0.0.1:{server.server_port}"
        return server

    def add_run(self, dag_id: str, partition: str, state: str, *, at: str, **more: Any) -> dict[str, Any]:
        ended = at if state in ("success", "failed") else None
        made = {"dag_id": dag_id, "dag_run_id": f"r{len(self.runs)}", "partition_key": partition, "state": state}
        self.runs.append({**made, "queued_at": at, "run_after": at, "end_date": ended, **more})
        return self.runs[-1]

    def answer(self, method: str, target: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and JSON of one call."""
        parts = urlsplit(target)
        path, query = parts.path.removeprefix("/api/v2/"), parse_qs(parts.query)
        if path == "/auth/token":
            if (body["username"], body["password"]) != ("reconciler", PASSWORD):
                return 401, {}
            self.num_logins += 1
            return 201, {"access_token": str(self.num_logins)}
        if path.removeprefix("dags/") in self.paused:
            self.paused[path.removeprefix("dags/")] = body.get("is_paused", self.paused[path.removeprefix("dags/")])
            return 200, {"is_paused": self.paused[path.removeprefix("dags/")], "is_stale": False}
        if path == "dags":
            return 200, {"dags": [{"dag_id": dag, "is_paused": paused} for dag, paused in self.paused.items()]}
        if path == "importErrors":
            return 200, {"import_errors": []}
        if path == "assets":
            return 200, {"assets": [{"id": number, "name": name} for number, name in enumerate(self.events)]}
        if path == "assets/events":
            chosen = list(self.events.values())[int(query["asset_id"][0])]
            first = int(query["offset"][0])
            return 200, {"asset_events": chosen[::-1][first : first + int(query["limit"][0])]}
        return self._runs(method, path, body)

    def _runs(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "dags/~/dagRuns/list":
            states, last = body.get("states"), body.get("end_date_lte", "9")
            found = [
                run
                for run in reversed(self.runs)
                if run["dag_id"] in body["dag_ids"]
                and (states is None or run["state"] in states)
                and (last == "9" or (run["end_date"] or "9") <= last)
            ]
            first = body["page_offset"]
            return 200, {"dag_runs": found[first : first + body["page_limit"]]}
        named = re.fullmatch(r"dags/(\w+)/dagRuns(?:/([^/]+)(/taskInstances)?(?:/(\w+))?)?", path)
        if named is None:
            return 404, {"detail": path}
        dag_id, run_id, of_tasks, task_id = named.groups()
        if task_id:
            found = [each for each in self.tasks.get(run_id, []) if each["task_id"] == task_id]
            return (200, found[0]) if found else (404, {"detail": path})
        if of_tasks:
            return 200, {"task_instances": self.tasks.get(run_id, [])}
        if method == "DELETE":
            self.runs = [run for run in self.runs if run["dag_run_id"] != run_id]
            return 204, None
        if any(run["dag_run_id"] == body["dag_run_id"] for run in self.runs):
            return 409, {"detail": "it exists"}
        made = self.add_run(dag_id, body["partition_key"], "queued", at=self.now, dag_run_id=body["dag_run_id"])
        return 200, made


@contextmanager
def fake_airflow(model: str) -> Iterator[FakeAirflow]:
    """Serve an Airflow that has a model's Dags, none paused, and no run yet."""
    fake = FakeAirflow(
        paused={f"{stage}_{model}": False for stage in DAG_STAGES} | {f"score_{model}": True},
        events={f"{model}.closed": []},
    )
    server = fake.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
