"""Feast's offline store over Tradewind's Delta tables; Feast names it by `offline_store.type` and loads it itself.

Feast 0.67 has no file store that is right here: its Dask store cannot read Delta, and silently drops entity rows that
share a key and a time, or that lie before an entity's first value (feast-dev/feast#6787, open; a test shows both). Its
DuckDB store needs ibis. So the join is the one of `training_set`, which keeps every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from include.errors import BadInputError
from include.features.feast_repository import load_feast
from include.features.joins import positions_as_of
from include.lake.tables import read_table

# Feast loads this module by name, and what it subclasses must exist then: only a process that runs Feast gets here.
load_feast()

import pyarrow as pa  # noqa: E402, TID253 - see above
from feast.infra.offline_stores.offline_store import (  # noqa: E402, TID253 - see above
    OfflineStore,
    RetrievalJob,
    RetrievalMetadata,
)
from feast.repo_config import FeastConfigBaseModel  # noqa: E402, TID253 - see above

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureView, RepoConfig
    from feast.infra.registry.base_registry import BaseRegistry

EVENT_TIMESTAMP = "event_timestamp"


class LakeOfflineStoreConfig(FeastConfigBaseModel):
    """Configuration that Feast looks up beside the store; nothing but the type."""

    type: Literal["include.features.offline_store.LakeOfflineStore"] = "include.features.offline_store.LakeOfflineStore"


@dataclass(frozen=True, kw_only=True)
class _View:
    feature_view: FeatureView
    fields: tuple[str, ...]


class LakeRetrievalJob(RetrievalJob):
    """Joins entity rows with the features that were available at each row's time, when its result is asked for."""

    def __init__(self, *, entity_df: pd.DataFrame, views: list[_View], full_feature_names: bool) -> None:
        self._entities = pa.Table.from_pandas(entity_df, preserve_index=False)
        self._views = views
        self._full_feature_names = full_feature_names

    @property
    def full_feature_names(self) -> bool:
        """Whether feature columns are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """Always none: Tradewind's features are materialized."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked for."""
        features = [f"{view.feature_view.name}:{name}" for view in self._views for name in view.fields]
        keys = [name for name in self._entities.column_names if name != EVENT_TIMESTAMP]
        return RetrievalMetadata(features=features, keys=keys)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout=timeout).to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 - Feast's interface
        joined = self._entities
        event_at = _in_utc(joined[EVENT_TIMESTAMP])
        for view in self._views:
            feature_view = view.feature_view
            source = feature_view.batch_source
            (key,) = feature_view.join_keys
            rows = read_table(uri=source.path, storage_options={})
            found = positions_as_of(
                entity=joined[feature_view.projection.join_key_map.get(key, key)],
                event_at=event_at,
                feature_entity=rows[key],
                available_at=rows[source.timestamp_field],
                ttl=feature_view.ttl or None,
            )
            prefix = f"{feature_view.projection.name_to_use()}__" if self._full_feature_names else ""
            for name in view.fields:
                joined = joined.append_column(f"{prefix}{name}", rows[name].take(found))
        return joined


class LakeOfflineStore(OfflineStore):
    """Historical retrieval only; what is written goes through Tradewind's stages."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,  # noqa: ARG004 - Feast's interface
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,  # noqa: ARG004 - Feast's interface
        project: str,  # noqa: ARG004 - Feast's interface
        full_feature_names: bool = False,
        **_options: object,
    ) -> LakeRetrievalJob:
        """Return the job that joins features to entity rows: one row out for each row in, in order.

        Args:
            config: Not used.
            feature_views: The views that `feature_refs` names.
            feature_refs: `view:feature`.
            entity_df: A row for each example: its join keys and `event_timestamp` (without a zone: UTC).
            registry: Not used.
            project: Not used.
            full_feature_names: Whether to name columns `view__feature`.

        Raises:
            BadInputError: The rows are no pandas frame, or lack a column.
        """
        views = [
            _View(feature_view=view, fields=_fields(view.projection.name_to_use(), feature_refs))
            for view in feature_views
        ]
        wanted = {view.projection.join_key_map.get(key, key) for view in feature_views for key in view.join_keys}
        columns = set(getattr(entity_df, "columns", ()))
        if missing := sorted({EVENT_TIMESTAMP, *wanted} - columns):
            raise BadInputError(
                f"entity_df must be a pandas frame with {EVENT_TIMESTAMP} and {', '.join(sorted(wanted))}; got "
                f"{type(entity_df).__name__} without {', '.join(missing)}. Nothing was read. Add the columns."
            )
        return LakeRetrievalJob(entity_df=entity_df, views=views, full_feature_names=full_feature_names)

    @staticmethod
    def pull_latest_from_table_or_query(*_args: object, **_kwargs: object) -> RetrievalJob:
        """Refuse: Feast's own materialization would replace newer values with older ones.

        Raises:
            BadInputError: Always.
        """
        raise _refused("feast materialize")

    @staticmethod
    def pull_all_from_table_or_query(*_args: object, **_kwargs: object) -> RetrievalJob:
        """Refuse, as `pull_latest_from_table_or_query` does.

        Raises:
            BadInputError: Always.
        """
        raise _refused("Feast's pull of a whole source")


def _fields(view: str, feature_refs: list[str]) -> tuple[str, ...]:
    parted = [ref.split(":", 1) for ref in feature_refs]
    return tuple(name for owner, name in parted if owner == view)


def _in_utc(moments: pa.ChunkedArray) -> pa.ChunkedArray:
    return moments.cast(pa.timestamp("us", tz="UTC"), safe=False)


def _refused(what: str) -> BadInputError:
    return BadInputError(
        f"{what} is not used with Tradewind's tables: it has no guard against replacing newer values with older ones. "
        "Nothing was written. Trigger the model's materialize Dag with a partition key."
    )
