"""The few calls of Airflow's REST API that starting a deployment, watching it and repairing it need."""

from __future__ import annotations

import http.client
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
    from collections.abc import Collection, Sequence
    from datetime import datetime

_PAGE = 100
_MAX_REPEATS = 20
_REPEAT_AFTER_S = 0.25


@dataclass(kw_only=True)
class AirflowApi:
    """A client of one Airflow API server.

    Source: the server's own OpenAPI document, `/openapi.json`.

    Args:
        base_url: Where it is.
        password: Of the user.
        username: Who it acts as.
        outage_s: For how long a question waits for a server that is away; what changes something is never repeated.
    """

    base_url: str
    password: str = field(repr=False)
    username: str = "admin"
    outage_s: float = 0.0
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

    def is_paused(self, dag_id: str) -> bool | None:
        """Return whether a Dag is paused; None if there is none, or none any more."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}", accepted={HTTPStatus.NOT_FOUND})
        return None if found is None or found["is_stale"] else bool(found["is_paused"])

    def unpause_in_order(
        self,
        stages: tuple[str, ...],
        *,
        timeout_s: float,
        known: Collection[str] = (),
        models: Collection[str] | None = None,
        expected: Collection[str] = (),
    ) -> list[str]:
        """Wait until every stage has a Dag, then unpause those that are not `known`, stage by stage; return all known.

        A Dag that is known was unpaused before: if it is paused now, a person wants it so.

        Args:
            stages: First parts of the Dags' ids, consumers before producers. A Dag of all models has no second part.
            timeout_s: Seconds to wait for the Dags.
            known: Dags to leave alone.
            models: Only these models' Dags are waited for and unpaused; None: every Dag of the stages.
            expected: Dags to wait for as well; one that does not appear in time is given up.

        Raises:
            ServiceError: A stage has no Dag in time; the message holds the import errors.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.dag_ids()
            missing = [stage for stage in stages if not any(_is_of(dag_id, stage, models) for dag_id in found)]
            is_late = time.monotonic() > deadline
            if not missing and (is_late or set(expected) <= found.keys()):
                break
            if is_late:
                errors = [item["stack_trace"][-500:] for item in self.get("importErrors")["import_errors"]]
                raise ServiceError(
                    f"Dags of the stages {missing} must appear within {timeout_s:.0f} s; got import errors {errors}. "
                    "Nothing is scheduled. Mend the Dag files."
                )
            time.sleep(0.25)
        chosen = [dag_id for stage in stages for dag_id in found if _is_of(dag_id, stage, models)]
        for dag_id in chosen:
            if found[dag_id] and dag_id not in known:
                self.patch(f"dags/{dag_id}", {"is_paused": False})
        return sorted({*known, *chosen})

    def asset_events(self, name: str, *, max_events: int = _PAGE) -> list[dict[str, Any]]:
        """Return an asset's newest events, oldest first; empty when nothing has emitted one."""
        assets = self.get("assets", name_pattern=name)["assets"]
        ids = [asset["id"] for asset in assets if asset["name"] == name]
        newest: list[dict[str, Any]] = []
        while ids and len(newest) < max_events:
            asked = min(_PAGE, max_events - len(newest))
            page = self.get("assets/events", asset_id=ids[0], limit=asked, offset=len(newest), order_by="-timestamp")
            newest += page["asset_events"]
            if len(page["asset_events"]) < asked:
                break
        return newest[::-1]

    def dag_runs(
        self,
        dag_ids: Sequence[str],
        *,
        max_runs: int,
        states: Sequence[str] = (),
        ended_before: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """Return the newest runs of some Dags, newest first; only of some states, or that had ended by a moment."""
        chosen: dict[str, Any] = {"dag_ids": list(dag_ids), "order_by": "-run_after"}
        chosen |= {"states": list(states)} if states else {}
        chosen |= {"end_date_lte": ended_before.isoformat()} if ended_before else {}
        found: list[dict[str, Any]] = []
        while len(found) < max_runs:
            asked = min(_PAGE, max_runs - len(found))
            page = self.post("dags/~/dagRuns/list", {**chosen, "page_limit": asked, "page_offset": len(found)})
            found += page["dag_runs"]
            if len(page["dag_runs"]) < asked:
                break
        return found

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the tasks of a run."""
        path = f"dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}/taskInstances"
        return list(self.get(path, limit=_PAGE)["task_instances"])

    def task_state(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str | None:
        """Return the state of a task instance: `none` before it has one; None if there is no such instance any more."""
        run, task = (urllib.parse.quote(part, safe="") for part in (run_id, task_id))
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run}/taskInstances/{task}"
        found = self._call("GET", path if map_index < 0 else f"{path}/{map_index}", accepted={HTTPStatus.NOT_FOUND})
        return None if found is None else str(found["state"] or "none")

    def trigger(
        self, dag_id: str, *, run_id: str, partition: str, run_after: datetime, conf: dict[str, Any] | None = None
    ) -> bool:
        """Start a run of a partition under a name of one's own; return False if a run has that name already.

        Airflow's database holds the name once, so that two callers at the same moment start one run.
        """
        body = {
            "dag_run_id": run_id,
            "logical_date": None,
            "partition_key": partition,
            "run_after": run_after.isoformat(),
            "conf": conf or {},
        }
        return self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body, accepted={HTTPStatus.CONFLICT}) is not None

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Remove a run that has ended, with its tasks; one that is gone already counts as removed."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}"
        self._call("DELETE", path, accepted={HTTPStatus.NOT_FOUND})

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        accepted: Collection[int] = (),
    ) -> Any:
        """Return the JSON answer; None for a status that the caller accepts."""
        attempt, until_s = 0, time.monotonic() + (self.outage_s if method == "GET" else 0.0)
        while True:
            attempt += 1
            try:
                self._token = self._token or self._login()
                return self._send(method, path, body, token=self._token)
            except urllib.error.HTTPError as error:
                if error.code in accepted:
                    return None
                is_away = error.code >= HTTPStatus.INTERNAL_SERVER_ERROR and time.monotonic() < until_s
                if not is_away and not self._may_repeat(method, error.code, attempt):
                    detail = error.read().decode(errors="replace")[:500]
                    raise ServiceError(f"{method} {path} must succeed; got HTTP {error.code}: {detail}.") from error
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() >= until_s:
                    raise ServiceError(f"Airflow must answer at {self.base_url}; got {error}. Is it up?") from error
            time.sleep(_REPEAT_AFTER_S)

    def _may_repeat(self, method: str, status: int, attempt: int) -> bool:
        if status == HTTPStatus.UNAUTHORIZED and attempt == 1:
            self._token = ""  # it has expired
            return True
        # Airflow 3.3.2 answers 500 about an event's Dag runs as long as one of them is queued and has no start yet.
        return method == "GET" and status == HTTPStatus.INTERNAL_SERVER_ERROR and attempt <= _MAX_REPEATS

    def _login(self) -> str:
        body = {"username": self.username, "password": self.password}
        return str(self._send("POST", "/auth/token", body)["access_token"])

    def _send(self, method: str, path: str, body: dict[str, Any] | None, *, token: str = "") -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(  # noqa: S310 - the deployment's own URL
            f"{self.base_url}{path}", data=json.dumps(body).encode() if body else None, headers=headers, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - same
            return json.loads(response.read() or b"null")


def _is_of(dag_id: str, stage: str, models: Collection[str] | None) -> bool:
    """Return whether a Dag is one of a stage.

    >>> _is_of("train_flight_delays", "train", None), _is_of("reconcile", "reconcile", None)
    (True, True)
    >>> _is_of("train_flight_delays", "train", ["airport_weather"])
    False
    """
    if models is None:
        return dag_id == stage or dag_id.startswith(f"{stage}_")
    return any(dag_id == f"{stage}_{model}" for model in models)
