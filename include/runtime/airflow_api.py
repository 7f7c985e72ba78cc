"""The few calls of Airflow's REST API that starting a deployment and watching it need."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from include.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Container

_PAGE = 100
_MAX_REPEATS = 20
_REPEAT_AFTER_S = 0.25


@dataclass(kw_only=True)
class AirflowApi:
    """A client of one Airflow API server, logged in as `admin`.

    Source: the server's own OpenAPI document, `/openapi.json`.
    """

    base_url: str
    password: str = field(repr=False)
    _token: str = field(default="", init=False, repr=False)

    def get(self, path: str, **query: str | int | list[str]) -> Any:
        """Return the JSON answer of a GET below `/api/v2`."""
        text = urllib.parse.urlencode(query, doseq=True)
        return self._call("GET", f"/api/v2/{path}{'?' + text if text else ''}")

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON answer of a POST below `/api/v2`."""
        return self._call("POST", f"/api/v2/{path}", body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON answer of a PATCH below `/api/v2`."""
        return self._call("PATCH", f"/api/v2/{path}", body)

    def dag_ids(self) -> dict[str, bool]:
        """Return Dag id -> whether it is paused."""
        found: dict[str, bool] = {}
        while True:
            page = self.get("dags", limit=_PAGE, offset=len(found), order_by="dag_id")["dags"]
            found |= {dag["dag_id"]: dag["is_paused"] for dag in page}
            if len(page) < _PAGE:
                return found

    def unpause_in_order(self, stages: tuple[str, ...], *, timeout_s: float, known: Container[str] = ()) -> list[str]:
        """Wait until every stage has a Dag, then unpause those that are not `known`, stage by stage; return all Dags.

        A Dag that is known was unpaused before: if it is paused now, a person wants it so.

        Raises:
            ServiceError: A stage has no Dag in time; the message holds the import errors.
        """
        deadline = time.monotonic() + timeout_s
        while missing := [s for s in stages if not any(d.startswith(f"{s}_") for d in self.dag_ids())]:
            if time.monotonic() > deadline:
                errors = [item["stack_trace"][-500:] for item in self.get("importErrors")["import_errors"]]
                raise ServiceError(
                    f"Dags of the stages {missing} must appear within {timeout_s:.0f} s; got import errors {errors}. "
                    "Nothing is scheduled. Mend the Dag files."
                )
            time.sleep(0.25)
        found = self.dag_ids()
        for stage in stages:
            for dag_id, is_paused in found.items():
                if is_paused and dag_id.startswith(f"{stage}_") and dag_id not in known:
                    self.patch(f"dags/{dag_id}", {"is_paused": False})
        return sorted(found)

    def asset_events(self, name: str) -> list[dict[str, Any]]:
        """Return an asset's events, oldest first; empty when nothing has emitted one."""
        assets = self.get("assets", name_pattern=name)["assets"]
        found = [asset["id"] for asset in assets if asset["name"] == name]
        if not found:
            return []
        return list(self.get("assets/events", asset_id=found[0], limit=_PAGE, order_by="timestamp")["asset_events"])

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        attempt = 0
        while True:
            attempt += 1
            try:
                self._token = self._token or self._login()
                return self._send(method, path, body, token=self._token)
            except urllib.error.HTTPError as error:
                if not self._may_repeat(method, error.code, attempt):
                    detail = error.read().decode(errors="replace")[:500]
                    raise ServiceError(f"{method} {path} must succeed; got HTTP {error.code}: {detail}.") from error
            except OSError as error:
                raise ServiceError(f"Airflow must answer at {self.base_url}; got {error}. Is it up?") from error

    def _may_repeat(self, method: str, status: int, attempt: int) -> bool:
        if status == HTTPStatus.UNAUTHORIZED and attempt == 1:
            self._token = ""  # it has expired
            return True
        # Airflow 3.3.2 answers 500 about an event's Dag runs as long as one of them is queued and has no start yet.
        if method == "GET" and status == HTTPStatus.INTERNAL_SERVER_ERROR and attempt <= _MAX_REPEATS:
            time.sleep(_REPEAT_AFTER_S)
            return True
        return False

    def _login(self) -> str:
        body = {"username": "admin", "password": self.password}
        return str(self._send("POST", "/auth/token", body)["access_token"])

    def _send(self, method: str, path: str, body: dict[str, Any] | None, *, token: str = "") -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(  # noqa: S310 - the deployment's own URL
            f"{self.base_url}{path}", data=json.dumps(body).encode() if body else None, headers=headers, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - same
            return json.loads(response.read() or b"null")
