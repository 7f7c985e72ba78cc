"""The committed schema is that of the code, and every model.yaml follows it."""

import json
from typing import Any

import jsonschema
import pytest
import yaml

from include.spec import MODELS_DIR, model_names
from include.spec.schema import PAGE_FILE, SCHEMA_FILE, page, schema

REMEDY = "run: python -m include.spec.schema"


def raw(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((MODELS_DIR / name / "model.yaml").read_text()))


def test_the_committed_schema_and_page_are_up_to_date() -> None:
    assert json.loads(SCHEMA_FILE.read_text()) == schema(), REMEDY
    assert PAGE_FILE.read_text() == page(schema()), REMEDY


def test_the_schema_is_one_and_every_model_follows_it() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    for name in model_names():
        jsonschema.validate(raw(name), schema())


def test_editors_find_the_schema_by_the_first_line_of_each_model() -> None:
    for name in model_names():
        first = (MODELS_DIR / name / "model.yaml").read_text().partition("\n")[0]
        assert first == "# yaml-language-server: $schema=../model.schema.json"
        assert (MODELS_DIR / name / first.rpartition("=")[2]).resolve() == SCHEMA_FILE


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("training", "max_epoch", 3), ("training", "max_epochs", 0), ("rollout", "on_inconclusive", "wait")],
)
def test_the_schema_refuses_what_the_spec_refuses(section: str, field: str, value: object) -> None:
    wrong = raw("flight_delays")
    wrong[section][field] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema())


def test_every_field_is_described() -> None:
    bare = [
        f"{name}.{field}"
        for name, section in schema()["$defs"].items()
        for field, found in section.get("properties", {}).items()
        if not found.get("description") and "$ref" not in found
    ]
    assert bare == []
