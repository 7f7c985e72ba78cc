"""A model.yaml of an older version as one of the current version: its text is edited, so comments and order stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from include.errors import SpecError
from include.spec.model import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_VERSION = ("schema_version",)

_RENAMED: Mapping[int, Mapping[tuple[str, ...], str]] = {
    1: {
        ("gates", "min_log_loss_gain_vs_base_rate"): "min_loss_gain_vs_baseline",
        ("gates", "max_log_loss_increase_vs_champion"): "max_loss_increase_vs_champion",
        ("compression", "max_log_loss_increase"): "max_loss_increase",
        ("retraining", "min_log_loss_increase"): "min_loss_increase",
        ("rollout", "max_mean_score_shift"): "max_mean_prediction_shift",
    },
    2: {("rollout", "max_mean_prediction_shift"): "agreement_tolerance"},
}
"""Version -> what the next one calls a key."""

_REMOVED: Mapping[int, Mapping[tuple[str, ...], Mapping[str, str]]] = {
    2: {("rollout", "shadow_requests"): {"0": "strategy: canary"}, ("rollout", "min_requests_per_step"): {}},
}
"""Version -> a key that the next one does not have, and what says the same as some of its values."""


def migrate(text: str, *, path: Path) -> str:
    """Return the text of a model.yaml in the current version; the same text if it is current.

    Args:
        text: The file.
        path: Names it in errors.

    Raises:
        SpecError: It is no YAML, names no version or an unknown one, or has a key under its old and its new name.
    """
    version = _version(text, path=path)
    while version < SCHEMA_VERSION:
        text = _step(text, version=version, path=path)
        version += 1
    return text


def _version(text: str, *, path: Path) -> int:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{path} must be YAML; got: {error}. Nothing was changed. Mend the syntax.") from error
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= SCHEMA_VERSION:
        raise SpecError(
            f"{path}: schema_version must be 1 to {SCHEMA_VERSION}; got {found!r}. Nothing was changed. Write the "
            "version that the file was made for, or upgrade Tradewind."
        )
    return found


def _step(text: str, *, version: int, path: Path) -> str:
    """Return the text in the next version."""
    renamed = _RENAMED.get(version, {})
    edits: list[tuple[int, int, str]] = []
    places = dict(_places(yaml.compose(text, Loader=yaml.SafeLoader)))
    for place, name in renamed.items():
        if place not in places:
            continue
        if (*place[:-1], name) in places:
            raise SpecError(
                f"{path}: {'.'.join(place)} is {name} in version {version + 1}; got both. Nothing was changed. Remove "
                "one."
            )
        key, _ = places[place]
        edits.append((key.start_mark.index, key.end_mark.index, name))
    for place, same in _REMOVED.get(version, {}).items():
        if place in places:
            key, value = places[place]
            start, end = key.start_mark.index, value.end_mark.index
            said = same.get(text[value.start_mark.index : end], "")
            edits.append((start, end, said) if said else (*_whole(text, start, end), ""))
    _, value = places[_VERSION]
    edits.append((value.start_mark.index, value.end_mark.index, str(version + 1)))
    for start, end, new in sorted(edits, reverse=True):
        text = f"{text[:start]}{new}{text[end:]}"
    return text


def _whole(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span of a pair with all that would be left over: its line and comment, or its comma."""
    line_start, line_end = text.rfind("\n", 0, start) + 1, text.find("\n", end) + 1 or len(text)
    after = text[end:line_end].strip()
    if not text[line_start:start].strip() and (not after or after.startswith("#")):
        return line_start, line_end
    if after.startswith(","):
        behind = text.index(",", end) + 1
        return start, behind + len(text[behind:]) - len(text[behind:].lstrip(" "))
    before = text[:start].rstrip(" ")
    return (len(before) - 1, end) if before.endswith(",") else (start, end)


def _places(node: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], tuple[Any, Any]]]:
    """Yield each key of the mappings with its own and its value's node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*above, key.value)
            yield place, (key, value)
            yield from _places(value, place)
