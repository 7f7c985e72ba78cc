"""The training set of one job, pinned: table versions, rows, and the digest that names them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from include import partitions
from include.errors import CorruptArtifactError, NotFoundError, PartitionError
from include.features.definitions import load_definitions
from include.features.examples import current_versions, training_set
from include.lake.content import content_hash
from include.lake.files import read_bytes, write_bytes
from include.lake.tables import published_partitions
from include.training.job import SnapshotRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from include.lake.storage import Storage
    from include.spec import ModelSpec

DATA = "data.parquet"
MANIFEST = "manifest.json"
_NAME_CHARS = 16


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot and what it was made from.

    Args:
        ref: What a job needs to know of it.
        versions: Table -> version that was read.
    """

    ref: SnapshotRef
    versions: Mapping[str, int]


def training_window(*, spec: ModelSpec, partition: str, num_partitions: int | None = None) -> tuple[str, ...]:
    """Return the partitions of the training set that ends with one, oldest first; none is before the source's first."""
    keys = partitions.window(partition, num_partitions or spec.training.window_partitions)
    return tuple(key for key in keys if key >= spec.source.first_partition)


def require_trainable(
    *, spec: ModelSpec, partition: str, published: tuple[str, ...], champion_window_end: str | None, force: bool
) -> None:
    """Refuse to train on a partition that is not the newest, or is older than what the champion has seen.

    Args:
        spec: The model.
        partition: Last partition of the window.
        published: Partitions that hold rows.
        champion_window_end: Last partition of the champion's window; None without a champion.
        force: A person insists; only the existence of the rows is checked.

    Raises:
        PartitionError: It may not train.
    """
    if partition not in published:
        raise PartitionError(
            f"partition {partition!r} of {spec.name!r} must be published before a training; got "
            f"{', '.join(published) or 'none'}. Nothing was written. Ingest it first."
        )
    if force:
        return
    if partition != max(published):
        raise PartitionError(
            f"only the newest partition of {spec.name!r}, {max(published)}, may train; got {partition!r}. Nothing was "
            "written. Trigger the newest one, or set `force`."
        )
    if champion_window_end and partition < champion_window_end:
        raise PartitionError(
            f"a challenger of {spec.name!r} must not be older than the champion, whose window ends "
            f"{champion_window_end}; got {partition!r}. Nothing was written. Train a newer partition, or set `force`."
        )


def build_snapshot(*, spec: ModelSpec, storage: Storage, window: tuple[str, ...]) -> Snapshot:
    """Write the point-in-time training set of a window; equal rows from equal versions are written once.

    Raises:
        PartitionError: A partition of the window, whose labels are due by its end, has no labelled rows.
        NotFoundError: A table was never written.
    """
    versions = current_versions(spec=spec, storage=storage)
    table = training_set(spec=spec, storage=storage, partitions=window, versions=versions)
    _require_rows(table, spec=spec, window=window)
    content = content_hash(table)
    made_from = json.dumps({"content": content, "versions": versions}, sort_keys=True)
    name = f"{window[0]}_{window[-1]}-{hashlib.sha256(made_from.encode()).hexdigest()[:_NAME_CHARS]}"
    folder = storage.snapshot(spec.name, name)
    try:
        return read_snapshot(folder, storage=storage)
    except (NotFoundError, CorruptArtifactError):
        pass  # never finished, or damaged: write it again
    raw = _to_parquet(table)
    write_bytes(f"{folder}/{DATA}", raw, storage=storage)
    manifest = {
        "model": spec.name,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "content_hash": content,
        "num_rows": table.num_rows,
        "partitions": list(window),
        "versions": versions,
    }
    write_bytes(f"{folder}/{MANIFEST}", json.dumps(manifest, indent=1).encode(), storage=storage)
    return read_snapshot(folder, storage=storage)


def read_snapshot(uri: str, *, storage: Storage) -> Snapshot:
    """Return a snapshot whose rows match its manifest.

    Raises:
        NotFoundError: There is none.
        CorruptArtifactError: Its rows or its manifest are damaged.
    """
    raw = read_bytes(f"{uri}/{MANIFEST}", storage=storage)
    try:
        manifest = json.loads(raw)
        ref = SnapshotRef(
            uri=uri,
            sha256=manifest["sha256"],
            partitions=manifest["partitions"],
            num_rows=manifest["num_rows"],
        )
        versions = {str(table): int(version) for table, version in manifest["versions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(
            f"snapshot {uri} must have a readable {MANIFEST}; got {error!r}. Nothing was trained. Build it again."
        ) from error
    read_rows_of(ref, storage=storage)
    return Snapshot(ref=ref, versions=versions)


def read_rows_of(ref: SnapshotRef, *, storage: Storage) -> bytes:
    """Return the bytes of a snapshot's Parquet file, verified.

    Raises:
        NotFoundError: There is no such file.
        CorruptArtifactError: It differs from the digest.
    """
    raw = read_bytes(f"{ref.uri}/{DATA}", storage=storage)
    found = hashlib.sha256(raw).hexdigest()
    if found != ref.sha256:
        raise CorruptArtifactError(
            f"snapshot {ref.uri}: {DATA} must have the SHA-256 {ref.sha256[:16]}; got {found[:16]}. Nothing was "
            "trained. Build the snapshot again."
        )
    return raw


def source_partitions(*, spec: ModelSpec, storage: Storage) -> tuple[str, ...]:
    """Return the partitions that every table of the source holds, oldest first."""
    found = [
        published_partitions(uri=storage.table(spec.name, table), storage_options=storage.options)
        for table in spec.source.tables
    ]
    return tuple(sorted(frozenset.intersection(*found)))


def _require_rows(table: pa.Table, *, spec: ModelSpec, window: tuple[str, ...]) -> None:
    import pyarrow.compute as pc

    due = window[: max(1, len(window) - load_definitions(spec).lookahead_partitions)]
    empty = sorted(set(due) - set(pc.unique(table["partition"]).to_pylist()))
    if empty:
        raise PartitionError(
            f"every partition of the window {window[0]} to {window[-1]} of {spec.name!r} must have labelled rows; got "
            f"none in {', '.join(empty)}. Nothing was written. Ingest them, or set a shorter window."
        )


def _to_parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
