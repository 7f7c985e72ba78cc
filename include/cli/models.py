"""The models that a command was asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from include.errors import SpecError

if TYPE_CHECKING:
    from include.spec import ModelSpec


def load_specs(model: str | None) -> tuple[list[ModelSpec], list[str]]:
    """Return the spec of one model, or those of all, and what is wrong with the ones that cannot be read.

    Raises:
        NotFoundError: There is no such model.
        SpecError: The one that was named cannot be read.
    """
    from include.spec import load_spec, model_names

    if model is not None:
        return [load_spec(model)], []
    specs, wrong = [], []
    for name in model_names():
        try:
            specs.append(load_spec(name))
        except SpecError as error:
            wrong.append(str(error))
    return specs, wrong


def end_with(unreadable: list[str]) -> None:
    """End with the errors of the specs that could not be read, after what could be said of the others."""
    for text in unreadable:
        typer.echo(f"error: {text}", err=True)
    if unreadable:
        raise typer.Exit(1)
