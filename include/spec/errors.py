"""What is wrong with a spec, in words that a data engineer can act on."""

from __future__ import annotations

import difflib
import re
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import ValidationError

_SHOWN_CHARACTERS = 120


def explain(error: ValidationError, *, model: type[BaseModel]) -> list[str]:
    """Return a line for each field that is wrong: where it is, what is allowed, what it got, and the nearest match."""
    return [_line(item, model=model) for item in error.errors()]


def nearest(word: str, allowed: Sequence[str]) -> str:
    """Return what is allowed, and which of it is meant.

    >>> nearest("max_epoch", ["max_epochs", "seed"])
    "allowed: max_epochs, seed. Did you mean 'max_epochs'?"
    """
    close = difflib.get_close_matches(word, allowed, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"allowed: {', '.join(allowed)}.{hint}"


def _line(item: Any, *, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(file)"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; {nearest(str(item['loc'][-1]), _fields_at(item['loc'][:-1], model=model))}"
    message = re.sub(r"^Value error, ", "", item["msg"])
    return f"{where}: {message}; got {str(item['input'])[:_SHOWN_CHARACTERS]!r}"


def _fields_at(location: tuple[str | int, ...], *, model: type[BaseModel]) -> list[str]:
    """Return the keys that are allowed at a place of the spec, by walking the classes along it."""
    found: Any = model
    for part in location:
        if _is_model(found):
            if part not in found.model_fields:
                return []
            found = _without_none(found.model_fields[str(part)].annotation)
        else:  # a key or an index of dict[str, X] or tuple[X, ...]
            found = next((arg for arg in get_args(found) if _is_model(arg)), None)
    return list(found.model_fields) if _is_model(found) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _without_none(annotation: Any) -> Any:
    choices = get_args(annotation)
    return next((arg for arg in choices if _is_model(arg) and NoneType in choices), annotation)
