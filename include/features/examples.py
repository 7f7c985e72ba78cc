"""Examples of a model, and its training set: the same features as serving, as of the moment they were available.

A label may be made from rows of later partitions (`LOOKAHEAD_PARTITIONS` of features.py); until they are published, the
example is there without its label.

A store feature's age is counted from `available_at` to the moment of serving. Under `clock: wall` that moment is the
example's own time. Under `clock: replay` the server's clock stands at the newest materialization before it, so training
counts to there too: else a value could be fresh enough to serve but missing in training.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from include import partitions as keys
from include.errors import NotFoundError, SpecError
from include.features.definitions import load_definitions
from include.features.joins import connect, positions_as_of
from include.lake.tables import PARTITION_COLUMN, current_version, read_table
from include.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from include.lake.storage import Storage
    from include.spec import ModelSpec, StoreViewSpec


def feature_table(view: str) -> str:
    """Return the name of the Delta table that holds a view's features."""
    return f"features_{view}"


def current_versions(*, spec: ModelSpec, storage: Storage) -> dict[str, int]:
    """Return the newest version of each table that a training set reads; tables not written yet are absent."""
    versions: dict[str, int] = {}
    for table in (*spec.source.tables, *(feature_table(view) for view in spec.features.store)):
        try:
            uri = storage.table(spec.name, table)
            versions[table] = current_version(uri=uri, storage_options=storage.options)
        except NotFoundError:
            continue
    return versions


def load_examples(
    *,
    spec: ModelSpec,
    storage: Storage,
    partitions: tuple[str, ...],
    versions: Mapping[str, int] | None = None,
    later_labels: bool = True,
) -> pa.Table:
    """Return the examples of some partitions, one row each, ordered by time.

    Columns: example_id, event_at, known_at (null if its outcome never was), label (null likewise), partition, the
    request features, and the entities. Numbers are float64, texts string, times UTC in microseconds.

    Args:
        spec: The model.
        storage: Where its tables are.
        partitions: Their keys. One that was never published has no rows.
        versions: Table -> version to read; the newest where absent.
        later_labels: Whether labels may come from partitions after these, as far as the model looks ahead. Without it
            the result does not depend on what was published since.

    Raises:
        NotFoundError: A table was never written.
        SpecError: The model's SQL lacks a column that model.yaml declares.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    pinned = versions or {}
    ahead = load_definitions(spec).lookahead_partitions if later_labels else 0
    read = {keys.shift(key, offset) for key in partitions for offset in range(ahead + 1)}
    tables = {
        table: read_table(
            uri=storage.table(spec.name, table),
            storage_options=storage.options,
            version=pinned.get(table),
            partitions=sorted(read),
        )
        for table in spec.source.tables
    }
    examples = examples_of(spec=spec, tables=tables)
    return examples.filter(pc.is_in(examples[PARTITION_COLUMN], pa.array(partitions, pa.string())))


def examples_of(*, spec: ModelSpec, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return the examples that some rows of the model's tables hold, as `load_examples` does.

    Raises:
        SpecError: The model's SQL lacks a column that model.yaml declares.
    """
    with connect() as connection:
        for table, rows in tables.items():
            connection.register(table, rows)
        examples = connection.sql(load_definitions(spec).examples_sql).to_arrow_table()
    schema = example_schema(spec)
    missing = [name for name in schema.names if name not in examples.column_names]
    if missing:
        raise SpecError(
            f"EXAMPLES_SQL of model {spec.name!r} must return {', '.join(schema.names)}; got none of "
            f"{', '.join(missing)}. Nothing was written. Add them to the query."
        )
    label = examples.schema.field("label").type
    if not task_of(spec).accepts(label):
        raise SpecError(
            f"EXAMPLES_SQL of model {spec.name!r} must return a label that can be {schema.field('label').type}, for "
            f"its task is {spec.task}; got {label}. Nothing was written. Cast it in the query, or change `task`."
        )
    return examples.select(schema.names).cast(schema).sort_by([("event_at", "ascending"), ("example_id", "ascending")])


def training_set(
    *, spec: ModelSpec, storage: Storage, partitions: tuple[str, ...], versions: Mapping[str, int] | None = None
) -> pa.Table:
    """Return the examples that have a label, each with the store features that it would have been served.

    Labels come from these partitions alone: what a later one brings was not known when the last of them was new.

    To the columns of `load_examples` come the store's fields, float64, null where nothing was available or where it was
    older than the view's `ttl_days`.

    Args:
        spec: The model.
        storage: Where its tables are.
        partitions: Their keys.
        versions: Table -> version to read. If given, a feature table that it does not name has no rows.

    Raises:
        NotFoundError: A table, other than of features, was never written.
        SpecError: As for `load_examples`.
    """
    import pyarrow.compute as pc

    examples = load_examples(spec=spec, storage=storage, partitions=partitions, versions=versions, later_labels=False)
    examples = examples.filter(pc.is_valid(examples["label"]))
    return with_store_features(examples, spec=spec, storage=storage, versions=versions)


def with_store_features(
    examples: pa.Table, *, spec: ModelSpec, storage: Storage, versions: Mapping[str, int] | None = None
) -> pa.Table:
    """Return examples with the store's fields as `training_set` adds them; batch scoring adds them to all examples."""
    import pyarrow.compute as pc

    for view, view_spec in spec.features.store.items():
        features = read_features(spec=spec, storage=storage, view=view, versions=versions)
        found = positions_as_of(
            entity=examples[view_spec.entity],
            event_at=examples["event_at"],
            feature_entity=features[view_spec.entity],
            available_at=features["available_at"],
            ttl=timedelta(days=view_spec.ttl_days),
            is_replay=spec.source.clock == "replay",
        )
        for name in view_spec.fields:
            column = features[name].take(found)
            if name in view_spec.defaults:
                column = pc.if_else(pc.is_null(column, nan_is_null=True), view_spec.defaults[name], column)
            examples = examples.append_column(name, column)
    return examples


def read_features(
    *,
    spec: ModelSpec,
    storage: Storage,
    view: str,
    versions: Mapping[str, int] | None = None,
    partitions: tuple[str, ...] | None = None,
) -> pa.Table:
    """Return a view's feature rows: entity, fields, available_at, published_at, partition; none if never written."""
    table = feature_table(view)
    if versions is None or table in versions:
        try:
            return read_table(
                uri=storage.table(spec.name, table),
                storage_options=storage.options,
                version=None if versions is None else versions[table],
                partitions=partitions,
            ).select(feature_schema(spec.features.store[view]).names)
        except NotFoundError:
            if versions is not None:
                raise
    return feature_schema(spec.features.store[view]).empty_table()


def example_schema(spec: ModelSpec) -> pa.Schema:
    """Return the columns of a model's examples."""
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    columns = {"example_id": pa.string(), "event_at": moment, "known_at": moment}
    columns["label"] = pa.type_for_alias(task_of(spec).label_type)
    columns["partition"] = pa.string()
    columns |= {f.name: pa.string() if f.kind == "categorical" else pa.float64() for f in spec.features.request}
    for name in (*spec.features.entities, *spec.slices):
        columns.setdefault(name, pa.string())
    return pa.schema(list(columns.items()))


def feature_schema(view_spec: StoreViewSpec) -> pa.Schema:
    """Return the columns of a view's feature table."""
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            (view_spec.entity, pa.string()),
            *((name, pa.float64()) for name in view_spec.fields),
            ("available_at", moment),
            ("published_at", moment),
            ("partition", pa.string()),
        ]
    )
