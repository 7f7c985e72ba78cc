"""Gather what is known about a model's partitions from lake, ledger, registry, router and Airflow, and judge it.

Whatever does not answer is named in the result, and the rest is judged without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from include import partitions
from include.errors import TradewindError
from include.features.examples import feature_table
from include.lake.history import partition_times
from include.lake.listing import list_files
from include.progress.airflow_runs import AirflowFacts, read_airflow
from include.progress.facts import ModelFacts, PartitionFacts, RolloutFacts, VersionFact
from include.progress.judge import judge, limits_of
from include.progress.ledger_facts import LedgerFacts
from include.registry.models import CHALLENGER, CHAMPION, get_alias, list_versions
from include.rollout.planning import plan_rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from include.lake.storage import Storage
    from include.progress.facts import Run
    from include.progress.state import ModelProgress
    from include.registry.models import ModelVersion
    from include.rollout.ledger import Ledger
    from include.runtime.airflow_api import AirflowApi
    from include.serving.client import ModelServerClient
    from include.spec import ModelSpec

_Source = TypeVar("_Source")
_Answer = TypeVar("_Answer")

MAX_PARTITIONS = {"month": 48, "week": 104, "day": 120, "hour": 336}
"""Grain -> how many of a model's newest partitions are looked at."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a model's state lives.

    Args:
        storage: The lake.
        ledger: The ledger.
        tracking_uri: MLflow's address.
        server: The model server.
        airflow: Airflow's REST API.
        dags: Dag id -> whether it is paused, read once for many models; None: asked for each model.
    """

    storage: Storage
    ledger: Ledger
    tracking_uri: str | None = None
    server: ModelServerClient | None = None
    airflow: AirflowApi | None = None
    dags: Mapping[str, bool] | None = None


@dataclass(frozen=True, kw_only=True)
class _Registry:
    versions: tuple[ModelVersion, ...] = ()
    champion: ModelVersion | None = None
    challenger: ModelVersion | None = None


def read_progress(*, spec: ModelSpec, sources: Sources, now: datetime) -> ModelProgress:
    """Return how far each of a model's newest partitions has come, and what keeps those that do not go on."""
    return judge(read_facts(spec=spec, sources=sources, now=now), now=now, limits=limits_of(spec))


def read_facts(*, spec: ModelSpec, sources: Sources, now: datetime) -> ModelFacts:
    """Return what is known about a model; what does not answer is named in `silent`."""
    silent: list[str] = []
    most = MAX_PARTITIONS[partitions.grain_of(spec.source.first_partition)]
    airflow = _ask(
        "Airflow",
        silent,
        sources.airflow,
        lambda api: read_airflow(api, model=spec.name, max_partitions=most, dags=sources.dags),
    )
    registry = _ask("MLflow", silent, sources.tracking_uri, lambda uri: _read_registry(uri, model=spec.name))
    routes = None
    if spec.rollout.target == "local":  # what is served elsewhere is seen by its rollout's tasks
        routes = _ask("model server", silent, sources.server, lambda server: server.get_routes(model=spec.name))
    registry = registry or _Registry()
    window_end = registry.champion.tags.get("window_end") if registry.champion else None
    recorded = LedgerFacts.read(sources.ledger, model=spec.name, champion_window_end=window_end)
    lake = _read_lake(spec=spec, storage=sources.storage)
    airflow = recorded.explain(airflow) if airflow else None
    parts = [
        _partition(key, spec=spec, storage=sources.storage, lake=lake, airflow=airflow)
        for key in _keys(spec, known=[*lake.published, *(airflow.runs if airflow else ())], now=now, most=most)
    ]
    versions = _version_facts(registry, recorded)
    parts = [replace(part, decision=recorded.decisions.get(part.key), version=versions.get(part.key)) for part in parts]
    return ModelFacts(
        model=spec.name,
        partitions=tuple(part for part in parts if part.due_at or part.landed_at or part.published_at),
        newest_published=max(lake.published, default=None),
        champion=recorded.champion or (registry.champion.version if registry.champion else None),
        champion_window_end=window_end,
        rollout=_rollout(routes, spec=spec),
        paused=airflow.paused if airflow else None,
        landing=sources.storage.landing(spec.name),
        airflow_url=sources.airflow.base_url if sources.airflow else "",
        silent=tuple(silent),
    )


def _ask(
    name: str, silent: list[str], source: _Source | None, question: Callable[[_Source], _Answer]
) -> _Answer | None:
    """Return the answer of a part of the deployment; None, and its name among the silent, if it has none."""
    if source is None:
        silent.append(f"{name} was not asked")
        return None
    try:
        return question(source)
    except TradewindError as error:
        silent.append(f"{name}: {error}")
        return None


@dataclass(frozen=True, kw_only=True)
class _Lake:
    """Since when the tables hold each partition."""

    published: Mapping[str, datetime]
    features: Mapping[str, datetime]


def _read_lake(*, spec: ModelSpec, storage: Storage) -> _Lake:
    views = [feature_table(view) for view in spec.features.store]
    return _Lake(
        published=_held_by_all(spec.source.tables, spec=spec, storage=storage),
        features=_held_by_all(views, spec=spec, storage=storage),
    )


def _held_by_all(tables: Iterable[str], *, spec: ModelSpec, storage: Storage) -> dict[str, datetime]:
    """Return partition -> since when the last of the tables holds it; only what all of them hold."""
    found = [partition_times(uri=storage.table(spec.name, table), storage_options=storage.options) for table in tables]
    shared = set.intersection(*(set(times) for times in found)) if found else set[str]()
    return {key: max(times[key] for times in found) for key in shared}


def _read_registry(tracking_uri: str, *, model: str) -> _Registry:
    return _Registry(
        versions=tuple(list_versions(tracking_uri, model=model)),
        champion=get_alias(tracking_uri, model=model, alias=CHAMPION),
        challenger=get_alias(tracking_uri, model=model, alias=CHALLENGER),
    )


def _keys(spec: ModelSpec, *, known: Iterable[str], now: datetime, most: int) -> list[str]:
    """Return the newest partitions that are due, published or run, oldest first.

    History that is run again is not due by the calendar: there it is what comes next after what is known.
    """
    source = spec.source
    grain = partitions.grain_of(source.first_partition)
    found = {key for key in known if partitions.is_key(key, grain=grain)}
    if source.clock == "replay":
        last = partitions.shift(max(found, default=source.first_partition), 1)
    else:
        last = partitions.shift(partitions.key_at(now, grain=grain, timezone=source.timezone), -1)
    last = min(last, source.last_partition) if source.last_partition else last
    due = {key for key in partitions.window(last, most) if key >= source.first_partition}
    return sorted(due | found)[-most:]


def _partition(
    key: str, *, spec: ModelSpec, storage: Storage, lake: _Lake, airflow: AirflowFacts | None
) -> PartitionFacts:
    runs = airflow.runs.get(key, {}) if airflow else {}
    published = lake.published.get(key)
    return PartitionFacts(
        key=key,
        due_at=_due_at(key, spec=spec, ingest=runs.get("ingest")),
        landed_at=published or _landed_at(key, spec=spec, storage=storage),
        published_at=published,
        features_at=lake.features.get(key),
        closed_at=airflow.closed.get(key) if airflow else None,
        runs=runs,
    )


def _due_at(key: str, *, spec: ModelSpec, ingest: Run | None) -> datetime | None:
    """Return from when on a partition is late; history that is run again is due when Airflow begins to wait for it."""
    waited_from = ingest.queued_at if ingest else None
    if spec.source.clock == "replay":
        return waited_from
    end = partitions.end_of(key, timezone=spec.source.timezone)
    return max(end, waited_from) if waited_from else end


def _landed_at(key: str, *, spec: ModelSpec, storage: Storage) -> datetime | None:
    folder = storage.landing(spec.name, key)
    marker = f"{folder}/{spec.source.marker}"
    return next((file.modified_at for file in list_files(folder, storage=storage) if file.uri == marker), None)


def _version_facts(registry: _Registry, recorded: LedgerFacts) -> dict[str, VersionFact]:
    """Return partition -> the newest version whose window ends with it."""
    challenger = registry.challenger.version if registry.challenger else None
    return {
        version.tags["window_end"]: VersionFact(
            version=version.version,
            created_at=datetime.fromtimestamp(version.created_at_ms / 1000, UTC),
            is_challenger=version.version == challenger,
            took_over_at=recorded.took_over.get(version.version),
            ended_at=recorded.ended.get(version.version),
        )
        for version in registry.versions  # oldest first
        if "window_end" in version.tags
    }


def _rollout(answer: Mapping[str, Any] | None, *, spec: ModelSpec) -> RolloutFacts | None:
    routes = answer["routes"] if answer else {}
    role = next((role for role in ("canary", "shadow") if routes.get(role)), None)
    if answer is None or role is None:
        return None
    num_requests = dict.fromkeys((routes[role], routes["champion"]), 0)
    for item in answer["counters"]:
        if item["version"] in num_requests:
            num_requests[item["version"]] += item["requests"]
    share_pct = routes["canary_share_pct"] if role == "canary" else 0.0
    plans = plan_rollout(spec.rollout, requests_per_s=None)
    needed = next((plan.num_own for plan in plans if plan.share_pct == share_pct), 0)
    return RolloutFacts(version=routes[role], role=role, num_requests=min(num_requests.values()), num_needed=needed)
