"""Feast's own view of a model's features: entities, views and sources made from the spec; one registry for all.

The sources are the Delta tables themselves, read by `include.features.offline_store`: no second copy of any row.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import shutil
import sqlite3
from contextlib import closing, contextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from include.features.examples import feature_table
from include.features.feast_layout import KEY_VERSION, table_name
from include.features.store import online_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import feast

    from include.lake.storage import Storage
    from include.spec import ModelSpec

_BUSY_TIMEOUT_S = 60.0


def feast_store(*, spec: ModelSpec, storage: Storage) -> feast.FeatureStore:
    """Return Feast's API on a model's features: historical and online retrieval, its registry and its user interface.

    Importing Feast costs 7 to 12 s; serving and materialization do without (`include.features.store`).

    Raises:
        SetupError: The lake is in an object store.
    """
    return _open(spec=spec, storage=storage, registry=_registry(storage))


def ensure_applied(*, spec: ModelSpec, storage: Storage) -> bool:
    """Register a model's entities and views with Feast, and let it make their online tables; return whether it had to.

    Feast is only loaded when the definitions or its version changed. Killed anywhere, the next call finishes the work:
    the registry is replaced in one step, and what was applied is noted last.

    Raises:
        SetupError: The lake is in an object store.
    """
    path = online_path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = _fingerprint(spec=spec, storage=storage)
    with _locked(path.parent / "apply.lock"):
        if _registry(storage).exists() and _applied(path, project=spec.name) == wanted:
            return False
        _apply(spec=spec, storage=storage)
        _note_applied(path, spec=spec, fingerprint=wanted)
    return True


def load_feast() -> None:
    """Import Feast without its side effect on every other user of prometheus_client.

    On import, Feast sends this process's metrics, and by two environment variables those of all its children, to files
    in a temporary folder. What was imported before keeps its metrics in memory; the variables are taken back.
    """
    names = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
    before = {name: os.environ.get(name) for name in names}
    importlib.import_module("prometheus_client")
    importlib.import_module("feast")
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """Return a connection to the online store in which the caller starts and ends transactions."""
    return sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)


def _registry(storage: Storage) -> Path:
    return online_path(storage).parent / "registry.db"


def _open(*, spec: ModelSpec, storage: Storage, registry: Path) -> feast.FeatureStore:
    load_feast()
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    path = online_path(storage)
    config = RepoConfig(
        project=spec.name,
        provider="local",
        registry=str(registry),
        repo_path=path.parent,
        online_store={"type": "sqlite", "path": str(path)},
        offline_store={"type": "include.features.offline_store.LakeOfflineStore"},
        entity_key_serialization_version=KEY_VERSION,
    )
    return FeatureStore(config=config)


def _apply(*, spec: ModelSpec, storage: Storage) -> None:
    registry = _registry(storage)
    aside = registry.with_suffix(".new")
    aside.unlink(missing_ok=True)
    if registry.exists():
        shutil.copyfile(registry, aside)
    store = _open(spec=spec, storage=storage, registry=aside)
    kept = set(spec.features.store)
    outdated = [view for view in store.list_feature_views() if view.name not in kept] if registry.exists() else []
    store.apply(_definitions(spec=spec, storage=storage), objects_to_delete=outdated, partial=False)
    aside.replace(registry)


def _definitions(*, spec: ModelSpec, storage: Storage) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.data_format import DeltaFormat
    from feast.types import Float64, String

    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in spec.features.entities
    }
    views = [
        FeatureView(
            name=view,
            entities=[entities[view_spec.entity]],
            ttl=timedelta(days=view_spec.ttl_days),
            schema=[
                Field(name=view_spec.entity, dtype=String),
                *(Field(name=name, dtype=Float64) for name in view_spec.fields),
            ],
            source=FileSource(
                name=feature_table(view),
                path=storage.table(spec.name, feature_table(view)),
                file_format=DeltaFormat(),
                timestamp_field="available_at",
                created_timestamp_column="published_at",
            ),
            owner=spec.owner,
        )
        for view, view_spec in spec.features.store.items()
    ]
    return [*entities.values(), *views]


def _fingerprint(*, spec: ModelSpec, storage: Storage) -> str:
    views = [f"{view} {view_spec.model_dump_json()}" for view, view_spec in spec.features.store.items()]
    return hashlib.sha256("\n".join([version("feast"), spec.owner, storage.root, *views]).encode()).hexdigest()


def _applied(path: Path, *, project: str) -> str | None:
    if not path.exists():
        return None
    with closing(connect_for_writing(path)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tradewind_applied'").fetchone():
            return None
        found = connection.execute("SELECT fingerprint FROM tradewind_applied WHERE project = ?", [project]).fetchone()
    return found[0] if found else None


def _note_applied(path: Path, *, spec: ModelSpec, fingerprint: str) -> None:
    with closing(connect_for_writing(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # kept in the file: readers never wait for a writer
        connection.execute("BEGIN IMMEDIATE")
        for view in spec.features.store:
            table = table_name(project=spec.name, view=view)
            # the server asks for the newest moment on each request of a replay
            connection.execute(f'CREATE INDEX IF NOT EXISTS {table[:-1]}_newest" ON {table} (event_ts)')
        connection.execute("CREATE TABLE IF NOT EXISTS tradewind_applied (project TEXT PRIMARY KEY, fingerprint TEXT)")
        connection.execute(
            "INSERT INTO tradewind_applied VALUES (?, ?) ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint",
            [spec.name, fingerprint],
        )
        connection.execute("COMMIT")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change the registry; the lock ends with its process, killed or not."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.fsync(file.fileno())
