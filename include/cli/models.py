"""The models that a command was asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from include.spec import ModelSpec


def load_specs(model: str | None) -> tuple[list[ModelSpec], list[str]]:
    """Return the spec of one model, or those of all, and what is wrong with the ones that cannot be read.

    Raises:
        NotFoundError: There is no such model.
        SpecError: The one that was named cannot be read.
    """
    from include import spec

    return spec.load_specs() if model is None else ([spec.load_spec(model)], [])


def end_with(unreadable: list[str]) -> None:
    """End with the errors of the specs that could not be read, after what could be said of the others."""
    for text in unreadable:
        typer.echo(f"error: {text}", err=True)
    if unreadable:
        raise typer.Exit(1)
