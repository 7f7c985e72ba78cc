"""A model's own feature SQL, from `include/models/<name>/features.py`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include import partitions
from include.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class FeatureDefinitions:
    """What a model's features.py declares.

    Args:
        examples_sql: DuckDB SQL over the model's tables, one row an example.
        views_sql: View -> DuckDB SQL over `history`, one row an entity; none without store features.
        history_days: Days of events before the end of a partition that `history` holds.
        lookahead_partitions: How many following partitions hold what an example's label is made from.
    """

    examples_sql: str
    views_sql: Mapping[str, str]
    history_days: int
    lookahead_partitions: int


def load_definitions(spec: ModelSpec) -> FeatureDefinitions:
    """Return the feature SQL of a model.

    Raises:
        SpecError: There is no features.py, a constant is missing or impossible, or its views are not those of
            model.yaml.
    """
    name = f"include.models.{spec.name}.features"
    remedy = "Nothing was read. Mend the file."
    try:
        module = importlib.import_module(name)
        definitions = FeatureDefinitions(
            examples_sql=module.EXAMPLES_SQL,
            views_sql=module.VIEWS if spec.features.store else getattr(module, "VIEWS", {}),
            history_days=module.HISTORY_DAYS if spec.features.store else 0,
            lookahead_partitions=getattr(module, "LOOKAHEAD_PARTITIONS", 0),
        )
    except (ModuleNotFoundError, AttributeError) as error:
        wanted = "EXAMPLES_SQL, VIEWS and HISTORY_DAYS" if spec.features.store else "EXAMPLES_SQL"
        raise SpecError(f"model {spec.name!r} must declare {wanted} in {name}; got: {error}. {remedy}") from error
    if set(definitions.views_sql) != set(spec.features.store):
        raise SpecError(
            f"{name}.VIEWS must be those of features.store in model.yaml, {sorted(spec.features.store)}; got "
            f"{sorted(definitions.views_sql)}. {remedy}"
        )
    if not 0 <= definitions.lookahead_partitions < spec.training.window_partitions:
        raise SpecError(
            f"{name}.LOOKAHEAD_PARTITIONS must be 0 or more and below training.window_partitions, "
            f"{spec.training.window_partitions}, else no example of a window has its label; got "
            f"{definitions.lookahead_partitions}. {remedy}"
        )
    return definitions


def measured_window(spec: ModelSpec, partition: str) -> tuple[str, ...]:
    """Return the partitions that a monitor run of one measures, oldest first.

    They are the newest whose labels are all due once it is published, `drift.window_partitions` of them; none is before
    the source's first.
    """
    last = partitions.shift(partition, -load_definitions(spec).lookahead_partitions)
    keys = partitions.window(last, spec.drift.window_partitions)
    return tuple(key for key in keys if key >= spec.source.first_partition)
