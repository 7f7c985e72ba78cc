"""model.yaml as its author sees it: every mistake with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from include.authoring.problems import EXPECTATIONS, FEATURES, NETWORK, SPEC, Problem, line_of
from include.errors import SpecError
from include.spec import ModelSpec, parse_spec
from include.spec.errors import explain

if TYPE_CHECKING:
    from pathlib import Path


def check_spec(folder: Path) -> tuple[ModelSpec | None, list[Problem]]:
    """Return a model's spec, None if it has none that can be used, and what is wrong with the folder."""
    path = folder / SPEC
    missing = [
        Problem(file=str(folder / name), line=None, text="is missing; `./tradewind new` shows what belongs in it")
        for name in (SPEC, FEATURES, EXPECTATIONS, NETWORK)
        if not (folder / name).is_file()
    ]
    if not path.is_file():
        return None, missing
    text = path.read_text(encoding="utf-8")
    problems = _problems(text, path=path)
    if problems:
        return None, [*problems, *missing]
    return parse_spec(text, path=path), missing


def _problems(text: str, *, path: Path) -> list[Problem]:
    try:
        raw = yaml.safe_load(text)
        parse_spec(text, path=path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.problem, error.context) if part)
        return [Problem(file=str(path), line=mark.line + 1 if mark else None, text=f"no YAML: {said}")]
    except yaml.YAMLError as error:
        return [Problem(file=str(path), line=None, text=f"no YAML: {error}")]
    except SpecError as error:
        if isinstance(error.__cause__, ValidationError):
            return _of_fields(error.__cause__, text=text, path=path)
        return [_of_file(error, raw=raw, text=text, path=path)]
    return []


def _of_fields(error: ValidationError, *, text: str, path: Path) -> list[Problem]:
    found = zip(error.errors(), explain(error, model=ModelSpec), strict=True)
    return [Problem(file=str(path), line=line_of(text, item["loc"]), text=line) for item, line in found]


def _of_file(error: SpecError, *, raw: Any, text: str, path: Path) -> Problem:
    """Return an error of the whole file at the key that it is about: the version, or else the name."""
    said = str(error).removeprefix(f"{path}: ")
    key = said.partition(" ")[0]
    return Problem(file=str(path), line=line_of(text, (key,)) if isinstance(raw, dict) else 1, text=said)
