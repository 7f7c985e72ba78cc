"""Store features of the rows that a request brings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from include.errors import CorruptArtifactError, NotFoundError, ServiceError, TradewindError
from include.features.store import OnlineStore, online_features, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.lake.storage import Storage
    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class FeatureLookup:
    """Reads the online store of one lake, from any number of threads."""

    storage: Storage
    _stores: dict[str, OnlineStore] = field(default_factory=dict)

    def read(self, spec: ModelSpec, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[float | None]]:
        """Return store feature -> values; an entity that was never seen, or is null, has none.

        Raises:
            ServiceError: There is no store yet, or it does not answer. Scoring without it would look like a quiet
                change of every input.
        """
        if not spec.features.store:
            return {}
        store = self._stores.get(spec.name)
        if store is None:
            store = self._stores.setdefault(spec.name, open_store(spec=spec, storage=self.storage))
        try:
            return online_features(store, spec, columns)
        except (NotFoundError, CorruptArtifactError) as error:  # no mistake of the caller's
            raise ServiceError(str(error)) from error

    def unready(self, spec: ModelSpec) -> list[str]:
        """Return why the store features of a model cannot be read; empty: they can."""
        try:
            self.read(spec, {entity: [None] for entity in spec.features.entities})
        except TradewindError as error:
            return [str(error)]
        return []
