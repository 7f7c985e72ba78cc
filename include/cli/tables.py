"""How the commands print: a table for people, JSON for machines."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def print_json(value: Any) -> None:
    """Print dataclasses, mappings and lists of them as JSON; times as ISO 8601 in UTC."""
    typer.echo(json.dumps(asdict(value) if _is_instance(value) else value, indent=2, default=_plain))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without frames, which folds what is too wide."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table: Table = Table(
        title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(highlight=False).print(table)


def print_silent(silent: Iterable[str]) -> None:
    """Say on stderr what did not answer: the first sentence of each."""
    for text in silent:
        typer.echo(f"not seen: {text.partition('. ')[0]}", err=True)


def age(since: datetime | None, *, now: datetime) -> str:
    """Return how long ago something was, in its largest unit.

    >>> age(datetime(2013, 1, 1, tzinfo=UTC), now=datetime(2013, 1, 3, 1, tzinfo=UTC))
    '2 days'
    """
    if since is None:
        return "-"
    seconds = max(0, int((now - since).total_seconds()))
    for unit_s, unit in ((_DAY_S, "day"), (_HOUR_S, "hour"), (_MINUTE_S, "minute"), (1, "second")):
        if seconds >= unit_s:
            number = seconds // unit_s
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return "now"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return asdict(value) if _is_instance(value) else str(value)


def _is_instance(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)
