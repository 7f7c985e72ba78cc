"""What a running task talks to, in memory: the supervisor's side of Airflow's own protocol, without its processes.

In Airflow a task process sends typed messages to its supervisor, which asks the API server. Here the same messages are
answered from dictionaries, so the code between an operator and those messages is Airflow's own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import singledispatchmethod
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import ErrorType
from airflow.sdk.execution_time import comms

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

XComKey = tuple[str, str, str, str, int]
"""dag_id, run_id, task_id, key, map_index (-1: not mapped)."""

_GROUP = "asset"


@dataclass(frozen=True, kw_only=True)
class AssetEvent:
    """An event that a task has emitted.

    Attributes:
        name: Name of the asset.
        uri: Its URI.
        extra: What the task put into the event; empty if it emitted the asset as it is.
        partition_key: Key of the Dag run, or the one that the task named.
        source: (dag_id, task_id, run_id) of the task.
        at: When.
    """

    name: str
    uri: str
    extra: Mapping[str, Any]
    partition_key: str | None
    source: tuple[str, str, str]
    at: datetime


@dataclass(kw_only=True)
class FakeSupervisor:
    """Answers a task's requests from memory, and keeps what it reports; one may serve many tasks, as one Airflow does.

    Connections and variables of the environment (`AIRFLOW_CONN_...`, `AIRFLOW_VAR_...`) win, as they do in Airflow.

    Attributes:
        connections: Connection id -> its fields: `conn_type`, `host`, `port`, `login`, `password`, `schema`, `extra`
            (JSON text).
        variables: Key -> value.
        xcoms: What tasks have pushed, serialized.
        asset_events: What tasks have emitted, oldest first; a task with inlets reads them.
        task_state: Task instance id -> key -> value.
        asset_state: Name or URI of an asset -> key -> value.
        sent: Every message of every task, in order.
    """

    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, str | None] = field(default_factory=dict)
    xcoms: dict[XComKey, Any] = field(default_factory=dict)
    asset_events: list[AssetEvent] = field(default_factory=list)
    task_state: dict[UUID, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    asset_state: dict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    sent: list[Any] = field(default_factory=list)

    def send(self, msg: Any) -> Any:
        """Take a message and return the answer, as Airflow's supervisor does over its socket.

        Raises:
            NotImplementedError: The message asks for something that only a real Airflow knows.
        """
        # What the socket could not carry must fail here too.
        comms._RequestFrame(id=len(self.sent), body=msg.model_dump()).as_bytes()  # noqa: SLF001 - its only encoder
        self.sent.append(msg)
        return self.answer(msg)

    async def asend(self, msg: Any) -> Any:
        """Take a message from within an event loop, as a trigger sends it."""
        return self.send(msg)

    @singledispatchmethod
    def answer(self, msg: Any) -> Any:
        """Return the answer to one message; reports of a task's own state and fields need none."""
        if type(msg).__name__ in _REPORTS:
            return comms.OKResponse(ok=True)
        raise NotImplementedError(
            f"{type(msg).__name__} must be a message that the fake supervisor can answer; got {msg!r}. The task stops "
            "here. Test what needs it in a real Airflow, with `dag.test()`."
        )

    @answer.register
    def _(self, msg: comms.GetConnection) -> Any:
        if msg.conn_id not in self.connections:
            return _missing(ErrorType.CONNECTION_NOT_FOUND, conn_id=msg.conn_id)
        empty = dict.fromkeys(("host", "schema", "login", "password", "port", "extra"))
        return comms.ConnectionResult(**{**empty, "conn_id": msg.conn_id, **self.connections[msg.conn_id]})

    @answer.register
    def _(self, msg: comms.GetVariable) -> Any:
        if msg.key not in self.variables:
            return _missing(ErrorType.VARIABLE_NOT_FOUND, key=msg.key)
        return comms.VariableResult(key=msg.key, value=self.variables[msg.key])

    @answer.register
    def _(self, msg: comms.GetVariableKeys) -> Any:
        keys = sorted(key for key in self.variables if key.startswith(msg.prefix or ""))
        return comms.VariableKeysResult(keys=keys[msg.offset : msg.offset + msg.limit], total_entries=len(keys))

    @answer.register
    def _(self, msg: comms.PutVariable) -> Any:
        self.variables[msg.key] = msg.value
        return comms.OKResponse(ok=True)

    @answer.register
    def _(self, msg: comms.DeleteVariable) -> Any:
        self.variables.pop(msg.key, None)
        return comms.OKResponse(ok=True)

    @answer.register
    def _(self, msg: comms.SetXCom) -> Any:
        self.xcoms[msg.dag_id, msg.run_id, msg.task_id, msg.key, _index(msg.map_index)] = msg.value
        return comms.OKResponse(ok=True)

    @answer.register
    def _(self, msg: comms.GetXCom) -> Any:
        key = (msg.dag_id, msg.run_id, msg.task_id, msg.key, _index(msg.map_index))
        return comms.XComResult(key=msg.key, value=self.xcoms.get(key))

    @answer.register
    def _(self, msg: comms.DeleteXCom) -> Any:
        self.xcoms.pop((msg.dag_id, msg.run_id, msg.task_id, msg.key, _index(msg.map_index)), None)
        return comms.OKResponse(ok=True)

    @answer.register
    def _(self, msg: comms.GetXComSequenceSlice) -> Any:
        found = self._sequence(msg)[slice(msg.start, msg.stop, msg.step)]
        return comms.XComSequenceSliceResult(root=found)

    @answer.register
    def _(self, msg: comms.GetXComSequenceItem) -> Any:
        found = self._sequence(msg)
        if msg.offset >= len(found):
            return _missing(ErrorType.XCOM_NOT_FOUND, offset=msg.offset)
        return comms.XComSequenceIndexResult(root=found[msg.offset])

    @answer.register
    def _(self, msg: comms.GetXComCount) -> Any:
        return comms.XComCountResponse(len=len(self._sequence(msg)))

    @answer.register
    def _(self, msg: comms.GetTaskStateStore) -> Any:
        if msg.key not in self.task_state[msg.ti_id]:
            return _missing(ErrorType.TASK_STORE_NOT_FOUND, key=msg.key)
        return comms.TaskStateStoreResult(value=self.task_state[msg.ti_id][msg.key])

    @answer.register
    def _(self, msg: comms.SetTaskStateStore) -> Any:
        self.task_state[msg.ti_id][msg.key] = msg.value
        return comms.OKResponse(ok=True)

    @answer.register
    def _(self, msg: comms.DeleteTaskStateStore) -> Any:
        self.task_state[msg.ti_id].pop(msg.key, None)
        return comms.OKResponse(ok=True)

    @answer.register
    def _(self, msg: comms.ClearTaskStateStore) -> Any:
        self.task_state[msg.ti_id].clear()
        return comms.OKResponse(ok=True)

    @answer.register(comms.GetAssetStateStoreByName)
    @answer.register(comms.GetAssetStateStoreByUri)
    def _(self, msg: Any) -> Any:
        held = self.asset_state[_asset_of(msg)]
        if msg.key not in held:
            return _missing(ErrorType.ASSET_STORE_NOT_FOUND, key=msg.key)
        return comms.AssetStateStoreResult(value=held[msg.key])

    @answer.register(comms.SetAssetStateStoreByName)
    @answer.register(comms.SetAssetStateStoreByUri)
    def _(self, msg: Any) -> Any:
        self.asset_state[_asset_of(msg)][msg.key] = msg.value
        return comms.OKResponse(ok=True)

    @answer.register
    def _(self, msg: comms.ValidateInletsAndOutlets) -> Any:  # noqa: ARG002 - the message says only who asks
        return comms.InactiveAssetsResult(inactive_assets=[])

    @answer.register
    def _(self, msg: comms.GetAssetEventByAsset) -> Any:
        found = [event for event in self.asset_events if msg.name == event.name or msg.uri == event.uri]
        found = found if msg.ascending else found[::-1]
        events: list[dict[str, Any]] = [
            {
                "id": number,
                "timestamp": event.at,
                "extra": dict(event.extra),
                "asset": {"name": event.name, "uri": event.uri, "group": _GROUP},
                "created_dagruns": [],
                **dict(zip(("source_dag_id", "source_task_id", "source_run_id"), event.source, strict=True)),
                "partition_key": event.partition_key,
            }
            for number, event in enumerate(found[: msg.limit])
            if (msg.after is None or event.at >= msg.after) and (msg.before is None or event.at <= msg.before)
        ]
        return comms.AssetEventsResult(asset_events=events)

    def emit(self, name: str, uri: str | None = None, **extra: Any) -> None:
        """Keep an event as if a task of another Dag had emitted it."""
        source = ("another_dag", "another_task", "another_run")
        event = AssetEvent(
            name=name, uri=uri or name, extra=extra, partition_key=None, source=source, at=datetime.now(UTC)
        )
        self.asset_events.append(event)

    def _sequence(self, msg: Any) -> list[Any]:
        """Return what the task instances of one task have pushed under one key, in the order of their map index."""
        wanted = (msg.dag_id, msg.run_id, msg.task_id, msg.key)
        return [value for key, value in sorted(self.xcoms.items(), key=lambda item: item[0]) if key[:4] == wanted]


_REPORTS = frozenset(
    {
        *("SetRenderedFields", "SetRenderedMapIndex", "SkipDownstreamTasks", "SucceedTask", "TaskState", "DeferTask"),
        *("RetryTask", "RescheduleTask", "AwaitInputTask", "MaskSecret", "CreateHITLDetailPayload", "TriggerDagRun"),
    }
)


def _missing(error: ErrorType, **detail: Any) -> comms.ErrorResponse:
    return comms.ErrorResponse(error=error, detail=detail)


def _index(map_index: int | None) -> int:
    return -1 if map_index is None else map_index


def _asset_of(msg: Any) -> str:
    return str(getattr(msg, "name", None) or msg.uri)
