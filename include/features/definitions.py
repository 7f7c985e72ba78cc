"""A model's own feature SQL, from `include/models/<name>/features.py`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class FeatureDefinitions:
    """What a model's features.py declares.

    Args:
        examples_sql: DuckDB SQL over the model's tables, one row an example.
        views_sql: View -> DuckDB SQL over `history`, one row an entity.
        history_days: Days of events before the end of a partition that `history` holds.
    """

    examples_sql: str
    views_sql: Mapping[str, str]
    history_days: int


def load_definitions(spec: ModelSpec) -> FeatureDefinitions:
    """Return the feature SQL of a model.

    Raises:
        SpecError: There is no features.py, a constant is missing, or its views are not those of model.yaml.
    """
    name = f"include.models.{spec.name}.features"
    remedy = "Nothing was read. Mend the file."
    try:
        module = importlib.import_module(name)
        definitions = FeatureDefinitions(
            examples_sql=module.EXAMPLES_SQL, views_sql=module.VIEWS, history_days=module.HISTORY_DAYS
        )
    except (ModuleNotFoundError, AttributeError) as error:
        raise SpecError(
            f"model {spec.name!r} must declare EXAMPLES_SQL, VIEWS and HISTORY_DAYS in {name}; got: {error}. {remedy}"
        ) from error
    if set(definitions.views_sql) != set(spec.features.store):
        raise SpecError(
            f"{name}.VIEWS must be those of features.store in model.yaml, {sorted(spec.features.store)}; got "
            f"{sorted(definitions.views_sql)}. {remedy}"
        )
    return definitions
