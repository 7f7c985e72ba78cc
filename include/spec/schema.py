"""The JSON Schema of model.yaml, for editors: `python -m include.spec.schema` writes it, and the docs' page of fields.

Rules across fields (a regression must give its tolerances, keys fit the grain) are not in it: `./tradewind check`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from include.spec.model import ModelSpec

SCHEMA_FILE = Path(__file__).parents[1] / "models" / "model.schema.json"
PAGE_FILE = Path(__file__).parents[2] / "docs" / "pages" / "model-yaml.md"

_HEAD = """# Fields of model.yaml

One file declares everything that Tradewind may assume about a model. `./tradewind new` writes it, `./tradewind check`
says by line what is wrong with it, and editors that speak YAML complete it from `include/models/model.schema.json`,
which its first line names. This page is made from that schema by `python -m include.spec.schema`.
"""


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of model.yaml."""
    found = ModelSpec.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "model.yaml of Tradewind",
    }


def page(found: dict[str, Any]) -> str:
    """Return the docs' page of a schema: a table for each section, in the order of model.yaml."""
    parts = [_HEAD, *_tables(found, name="", definitions=found["$defs"])]
    return "\n".join(parts).rstrip() + "\n"


def _tables(section: dict[str, Any], *, name: str, definitions: dict[str, Any]) -> list[str]:
    """Return a section's table and those of the sections in it."""
    lines = [f"## `{name}`\n" if name else "## Top level\n"]
    if section.get("description") and name:
        lines.append(f"{section['description']}\n")
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    required = section.get("required", [])
    inner: list[str] = []
    for field, found in section["properties"].items():
        default = "required" if field in required else _code(found["default"]) if "default" in found else ""
        below = _section_of(found, definitions)
        if below is not None:
            default = default if field in required else "see below"
            inner += _tables(below, name=f"{name}.{field}" if name else field, definitions=definitions)
        lines.append(f"| `{field}` | {_type(found, definitions)} | {default} | {_meaning(found, below)} |")
    return ["\n".join(lines) + "\n", *inner]


def _section_of(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """Return the section that a field holds: itself, as an item of a list, or as a value of a mapping."""
    for found in (field, field.get("items", {}), _values(field), *field.get("anyOf", [])):
        if "$ref" in found:
            section = definitions[found["$ref"].rpartition("/")[2]]
            return section if "properties" in section else None
    return None


def _values(field: dict[str, Any]) -> dict[str, Any]:
    """Return what the values of a mapping are; nothing if it is none."""
    patterned: dict[str, Any] = field.get("patternProperties", {})
    found: Any = field.get("additionalProperties") or next(iter(patterned.values()), {})
    return found if isinstance(found, dict) else {}


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in field:
        return "section"
    if "enum" in field:
        return " or ".join(_code(value) for value in field["enum"])
    if "const" in field:
        return _code(field["const"])
    if "anyOf" in field:
        return " or ".join(_type(choice, definitions) for choice in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'], definitions)}" if "items" in field else "list"
    if field.get("type") == "object":
        return f"name: {_type(_values(field), definitions)}"
    return str(field.get("type", "")) + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[key]:g}" for key, sign in words.items() if key in field]
    return f", {', '.join(found)}" if found else ""


def _meaning(field: dict[str, Any], below: dict[str, Any] | None) -> str:
    text = field.get("description") or (below or {}).get("description", "")
    examples = ", ".join(_code(value) for value in field.get("examples", []))
    return f"{text} For example {examples}.".strip() if examples else str(text)


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def main() -> None:
    """Write the schema and the page."""
    found = schema()
    SCHEMA_FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE_FILE.parent.mkdir(parents=True, exist_ok=True)
    PAGE_FILE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
