"""Store features of the rows that a request brings."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any

from include.errors import CorruptArtifactError, NotFoundError, ServiceError, TradewindError
from include.features.store import OnlineStore, online_features, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from include.lake.storage import Storage
    from include.spec import ModelSpec


class UnreadableError(ServiceError):
    """A value of the store, or its file, cannot be read; rows that do not need that value may be scored."""


@dataclass(frozen=True, kw_only=True)
class FeatureLookup:
    """Reads the online store of one lake, from any number of threads.

    Args:
        storage: The lake.
        on_default: Is told model, feature and how many values were missing and got the declared default.
    """

    storage: Storage
    on_default: Callable[[str, str, int], None] = lambda _model, _feature, _num: None
    _stores: dict[str, OnlineStore] = field(default_factory=dict)

    def read(self, spec: ModelSpec, columns: Mapping[str, Sequence[Any]]) -> dict[str, list[float | None]]:
        """Return store feature -> values; an entity that was never seen, or is null, has the declared default, or none.

        Raises:
            ServiceError: There is no store yet, or it does not answer. Scoring without it would look like a quiet
                change of every input.
            UnreadableError: What it answers cannot be read.
        """
        if not spec.features.store:
            return {}
        store = self._stores.get(spec.name)
        if store is None:
            store = self._stores.setdefault(spec.name, open_store(spec=spec, storage=self.storage))
        try:
            found = online_features(store, spec, columns)
        except NotFoundError as error:  # no mistake of the caller's
            raise ServiceError(str(error)) from error
        except CorruptArtifactError as error:
            raise UnreadableError(str(error)) from error
        for view in spec.features.store.values():
            for name, default in view.defaults.items():
                if num_missing := found[name].count(None):
                    found[name] = [default if value is None else value for value in found[name]]
                    self.on_default(spec.name, name, num_missing)
        return found

    def read_all(
        self, spec: ModelSpec, parts: Sequence[Mapping[str, Sequence[Any]]]
    ) -> list[dict[str, list[float | None]]]:
        """Return for each of several requests what `read` does, by one query for all of them.

        Raises:
            ServiceError: As `read`.
        """
        if len(parts) == 1:
            return [self.read(spec, parts[0])]
        entities = spec.features.entities
        found = self.read(
            spec, {entity: list(chain.from_iterable([part[entity] for part in parts])) for entity in entities}
        )
        ends = [0, *accumulate(len(part[entities[0]]) for part in parts)]
        spans = [slice(start, end) for start, end in pairwise(ends)]
        return [{name: values[span] for name, values in found.items()} for span in spans]

    def unready(self, spec: ModelSpec) -> list[str]:
        """Return why the store features of a model cannot be read; empty: they can."""
        try:
            self.read(spec, {entity: [] for entity in spec.features.entities})
        except TradewindError as error:
            return [str(error)]
        return []
