"""A draft as the files of a model's folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.authoring.entities import HISTORY_DAYS
from include.authoring.explain import explained
from include.authoring.limits import limits_of
from include.authoring.moments import moment_sql
from include.authoring.numbers import numbers_of
from include.authoring.typed import alias, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from include.authoring.draft import Draft

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_SLICES = 3
_MAX_SLICE_VALUES = 20
_TASK_WORDS = {
    "binary_classification": "binary classification",
    "multiclass_classification": "multi-class classification",
    "regression": "regression",
}


def render(draft: Draft, *, sample_rows: int) -> dict[str, str]:
    """Return the text of each file of a new model, by its name.

    Args:
        draft: The model.
        sample_rows: How many rows of the sample lie beside it for its tests.
    """
    environment = Environment(  # noqa: S701 - YAML, Python and Markdown, no HTML
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {
        "alias": alias,
        "cell": lambda text: str(text).replace("|", "\\|"),
        "comment": _comment,
        "list_literal": lambda values: f"[{', '.join(map(_literal, values))}]",
        "py": lambda text: str(text).replace("\\", "\\\\").replace('"""', '\\"\\"\\"'),
        "sql": quoted,
        "string_literal": _literal,
        "tuple_literal": _tuple_literal,
        "yaml": _yaml,
    }
    values = _values(draft, sample_rows=sample_rows)
    names = {
        "model.yaml": "model.yaml",
        "features.py": "features.py",
        "expectations.py": "expectations.py",
        "network.py": "network.py",
        "README.md": "README.md",
        "test_model.py": f"test_{draft.name}.py",
    }
    rendered = {name: environment.get_template(f"{at}.j2").render(values) for at, name in names.items()}
    return {**{name: f"{text.rstrip()}\n" for name, text in rendered.items()}, "__init__.py": ""}


def _values(draft: Draft, *, sample_rows: int) -> dict[str, Any]:
    as_input = {feature.name for feature in draft.inputs.features}
    categorical = [f for f in draft.inputs.features if f.kind == "categorical" and f.column]
    few = [f.name for f in categorical if draft.rows.column(f.column or "").num_distinct <= _MAX_SLICE_VALUES]
    is_hour = draft.partitions.grain == "hour"
    return {
        "draft": draft,
        "origin": draft.sample.source.origin,
        "event_sql": moment_sql(draft.event, timezone=draft.timezone),
        "known_sql": _known_sql(draft),
        "id_sql": _id_sql(draft),
        "source_timezone": "UTC" if is_hour else draft.timezone,
        "other_entities": [view for view in draft.views if view.entity not in as_input],
        "slices": tuple(few[:_MAX_SLICES]),
        "key_why": _key_why(draft),
        "label_description": f"{draft.label.name}: {draft.label.why}.",
        "task_words": _TASK_WORDS[draft.label.task],
        "numbers": numbers_of(draft),
        "limits": limits_of(draft),
        "explained": explained(draft),
        "history_days": HISTORY_DAYS,
        "sample_rows": sample_rows,
    }


def _known_sql(draft: Draft) -> str:
    if draft.known_at is None:
        return "_event_at"
    return f"greatest(_event_at, {moment_sql(draft.known_at, timezone=draft.timezone)})"


def _id_sql(draft: Draft) -> str:
    names = [quoted(name) for name in draft.key.columns]
    return f"CAST({names[0]} AS VARCHAR)" if len(names) == 1 else f"concat_ws('|', {', '.join(names)})"


def _key_why(draft: Draft) -> str:
    seen = f"in the {draft.rows.rows.num_rows:,} rows looked at"
    if draft.key.num_duplicates:
        return f"{draft.key.num_duplicates:,} rows {seen} share theirs with another: they go to quarantine"
    return f"unique {seen}"


def _yaml(value: str) -> str:
    """Return a text as a YAML scalar inside a list or a mapping in flow style."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_. -]*", value) and value == value.strip() and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    return " ".join(text.split())


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _tuple_literal(values: Iterable[str]) -> str:
    return "".join(["(\n", *(f"    {_literal(value)},\n" for value in values), ")"])
