"""Whether the online store serves what the feature tables hold, on a sample of entities."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import GateError, InconclusiveError
from include.features.examples import read_features
from include.features.store import open_store, read_view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from include.features.store import StoredValue
    from include.lake.storage import Storage
    from include.spec import ModelSpec, StoreViewSpec

_NUM_SHOWN = 5
_STATE = "The online store keeps what it has, and no training or monitoring was started."


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was compared and found equal.

    Args:
        partition: Its key.
        num_sampled: View -> entities compared.
        num_values: Values compared, each with its time.
        num_entities: View -> entities of the partition.
        available_at: When the partition's features could first be served; of the latest view. None without views.
    """

    partition: str
    num_sampled: Mapping[str, int]
    num_values: int
    num_entities: Mapping[str, int]
    available_at: datetime | None


def check_parity(*, spec: ModelSpec, storage: Storage, partition: str) -> Parity:
    """Compare sampled entities of a partition between the feature tables and the online store, value and time.

    Of each view up to `features.parity_samples` entities are drawn, the same ones each time. What is expected online is
    the newest row that the tables hold of an entity, which a later partition may have brought. A model without store
    features has nothing to compare, and is equal.

    Raises:
        GateError: A value or its time differs.
        InconclusiveError: A view has no entity to compare.
        NotFoundError: Nothing was materialized yet.
    """
    if not spec.features.store:
        return Parity(partition=partition, num_sampled={}, num_values=0, num_entities={}, available_at=None)
    num_sampled: dict[str, int] = {}
    num_entities: dict[str, int] = {}
    moments: list[datetime] = []
    differences: list[str] = []
    num_values = 0
    with open_store(spec=spec, storage=storage).snapshot() as connection:
        for view, view_spec in spec.features.store.items():
            rows = read_features(spec=spec, storage=storage, view=view).to_pylist()
            own = [row for row in rows if row["partition"] == partition]
            sample = _sample(own, spec=spec, view=view, partition=partition)
            expected = _newest(rows, entity=view_spec.entity, among=set(sample))
            found = read_view(connection, spec=spec, view=view, entities=sample)
            differences += _differences(expected, found, view_spec=view_spec)
            num_entities[view], num_sampled[view] = len(own), len(sample)
            num_values += len(sample) * len(view_spec.fields)
            moments.append(own[0]["available_at"])
    if differences:
        raise GateError(
            f"features of {spec.name!r} for {partition} must be the same offline and online, 0 differences allowed; "
            f"got {len(differences)} in {num_values} sampled values: {'; '.join(differences[:_NUM_SHOWN])}. {_STATE} "
            "Run the materialize task again."
        )
    return Parity(
        partition=partition,
        num_sampled=num_sampled,
        num_values=num_values,
        num_entities=num_entities,
        available_at=max(moments),
    )


def _sample(own: list[dict[str, Any]], *, spec: ModelSpec, view: str, partition: str) -> list[str]:
    if not own:
        raise InconclusiveError(
            f"parity of view {view!r} of {spec.name!r} for {partition} needs at least 1 entity; got 0. {_STATE} "
            "Look at the partition's published rows: none has a known outcome."
        )
    entities = sorted(row[spec.features.store[view].entity] for row in own)
    drawn = random.Random(f"{spec.name}/{view}/{partition}")  # noqa: S311 - a sample that repeats, not a secret
    return drawn.sample(entities, k=min(len(entities), spec.features.parity_samples))


def _newest(rows: list[dict[str, Any]], *, entity: str, among: set[str]) -> dict[str, dict[str, Any]]:
    ordered = sorted((row for row in rows if row[entity] in among), key=lambda row: row["available_at"])
    return {row[entity]: row for row in ordered}


def _differences(
    expected: Mapping[str, dict[str, Any]],
    found: Mapping[str, Mapping[str, StoredValue]],
    *,
    view_spec: StoreViewSpec,
) -> Iterator[str]:
    for entity, row in expected.items():
        for name in view_spec.fields:
            offline = (row[name], row["available_at"])
            online = found.get(entity, {}).get(name)
            if online != offline:
                yield f"{name} of {view_spec.entity} {entity!r} is {_words(offline)} offline, {_words(online)} online"


def _words(stored: StoredValue | None) -> str:
    return "absent" if stored is None else f"{stored[0]} since {stored[1].isoformat()}"
