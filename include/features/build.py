"""Store features of one partition: what was known of each entity when the partition ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from include import partitions
from include.errors import NotFoundError, SpecError
from include.features.definitions import load_definitions
from include.features.examples import current_versions, feature_schema, feature_table, load_examples, read_features
from include.features.joins import connect
from include.lake.tables import write_partition

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from include.lake.storage import Storage
    from include.spec import ModelSpec

_HISTORY_SQL = """
SELECT * FROM examples
WHERE label IS NOT NULL AND known_at <= $as_of AND event_at > $start
"""


@dataclass(frozen=True, kw_only=True)
class BuiltFeatures:
    """The features of one partition, as they lie in the Delta tables.

    Args:
        partition: Its key.
        available_at: View -> when its features could first be served.
        versions: Feature table -> its version that holds them.
        num_entities: View -> number of rows.
    """

    partition: str
    available_at: Mapping[str, datetime]
    versions: Mapping[str, int]
    num_entities: Mapping[str, int]


def build_features(*, spec: ModelSpec, storage: Storage, partition: str, published_at: datetime) -> BuiltFeatures:
    """Compute a partition's store features as of its end and write them into the tables `features_<view>`.

    Only examples whose outcome was known by then, and not older than the model's HISTORY_DAYS, count. Equal features
    make no new version. Each view is replaced in one step; killed between two, the next run writes the rest.

    Args:
        spec: The model.
        storage: Where its tables are.
        partition: Key of the partition.
        published_at: Now, aware; under `clock: replay` the end of the partition takes its place.

    A model without store features has nothing to build; that its rows are there is checked all the same.

    Raises:
        NotFoundError: The partition was never published.
        SpecError: The SQL of a view does not return its entity and fields.
    """
    versions = {t: v for t, v in current_versions(spec=spec, storage=storage).items() if t in spec.source.tables}
    history = _history(spec=spec, storage=storage, partition=partition, versions=versions)
    written: dict[str, int] = {}
    available: dict[str, datetime] = {}
    num_entities: dict[str, int] = {}
    for view, rows in _compute(spec=spec, history=history).items():
        available[view] = _available_at(
            spec=spec, storage=storage, view=view, partition=partition, published_at=published_at
        )
        commit = write_partition(
            uri=storage.table(spec.name, feature_table(view)),
            table=_stamped(rows, schema=feature_schema(spec.features.store[view]), at=available[view], key=partition),
            partition=partition,
            storage_options=storage.options,
            metadata={"source": json.dumps(versions, sort_keys=True)},
        )
        written[feature_table(view)] = commit.version
        num_entities[view] = commit.num_rows
    return BuiltFeatures(partition=partition, available_at=available, versions=written, num_entities=num_entities)


def _history(*, spec: ModelSpec, storage: Storage, partition: str, versions: Mapping[str, int]) -> pa.Table:
    import pyarrow.compute as pc

    zone = spec.source.timezone
    as_of = partitions.end_of(partition, timezone=zone)
    start = as_of - timedelta(days=load_definitions(spec).history_days)
    keys = [partition]
    while keys[0] > spec.source.first_partition and partitions.start_of(keys[0], timezone=zone) > start:
        keys.insert(0, partitions.shift(keys[0], -1))
    examples = load_examples(spec=spec, storage=storage, partitions=tuple(keys), versions=versions, later_labels=False)
    if not pc.any(pc.equal(examples["partition"], partition)).as_py():
        raise NotFoundError(
            f"features of {spec.name!r} for {partition} need its published rows; got none. The feature tables are "
            "unchanged. Run the model's ingest Dag for this partition first."
        )
    with connect() as connection:
        connection.register("examples", examples)
        return connection.sql(_HISTORY_SQL, params={"as_of": as_of, "start": start}).to_arrow_table()


def _compute(*, spec: ModelSpec, history: pa.Table) -> dict[str, pa.Table]:
    computed: dict[str, pa.Table] = {}
    with connect() as connection:
        connection.register("history", history)
        for view, sql in load_definitions(spec).views_sql.items():
            view_spec = spec.features.store[view]
            rows = connection.sql(sql).to_arrow_table()
            if set(rows.column_names) != {view_spec.entity, *view_spec.fields}:
                raise SpecError(
                    f"VIEWS[{view!r}] of model {spec.name!r} must return {view_spec.entity}, "
                    f"{', '.join(view_spec.fields)}; got {', '.join(rows.column_names)}. The feature tables are "
                    "unchanged. Mend the query or model.yaml."
                )
            computed[view] = rows.sort_by(view_spec.entity)
    return computed


def _stamped(rows: pa.Table, *, schema: pa.Schema, at: datetime, key: str) -> pa.Table:
    import pyarrow as pa

    moment = pa.array([at] * rows.num_rows, schema.field("available_at").type)
    stamped = rows.append_column("available_at", moment).append_column("published_at", moment)
    stamped = stamped.append_column("partition", pa.array([key] * rows.num_rows, pa.string()))
    return stamped.select(schema.names).cast(schema)


def _available_at(*, spec: ModelSpec, storage: Storage, view: str, partition: str, published_at: datetime) -> datetime:
    """Return when a partition's features could first be served, in whole seconds as the online store keeps it.

    Under `clock: wall` a partition keeps the moment of its first publication, whatever corrects it later; and one that
    comes late is put before the newer ones that are there already, since it will never be served in their place.
    """
    if spec.source.clock == "replay":
        return partitions.available_at(partition, source=spec.source, published_at=published_at)
    rows = read_features(spec=spec, storage=storage, view=view).select(["partition", "available_at"])
    moments: dict[str, datetime] = dict(
        zip(rows["partition"].to_pylist(), rows["available_at"].to_pylist(), strict=True)
    )
    if partition in moments:
        return moments[partition]
    now = partitions.available_at(partition, source=spec.source, published_at=published_at)
    now = now.replace(microsecond=0) + timedelta(seconds=1 if now.microsecond else 0)
    return _in_order(now, partition=partition, moments=moments)


def _in_order(now: datetime, *, partition: str, moments: Mapping[str, datetime]) -> datetime:
    """Return the moment nearest to now that leaves a second for each partition between this one and the others.

    The online store knows a value's partition by its moment alone, so no two partitions may share one, and each that is
    still to come must find its second free.

    >>> march = datetime(2024, 5, 1, 12, 0, 9)
    >>> _in_order(datetime(2024, 5, 2), partition="2013-01", moments={"2013-03": march}).time().isoformat()
    '12:00:07'
    """
    after = [moment + _seconds_between(key, partition) for key, moment in moments.items() if key < partition]
    before = [moment - _seconds_between(partition, key) for key, moment in moments.items() if key > partition]
    return min([max([now, *after]), *before])


def _seconds_between(first: str, last: str) -> timedelta:
    return timedelta(seconds=len(partitions.between(first, last)) - 1)
