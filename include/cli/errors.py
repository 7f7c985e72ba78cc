"""What the command line says about an error, and the exit code that goes with it."""

import os
import sys
import tempfile
import traceback

import typer

from include.errors import TradewindError

EX_SOFTWARE = 70
"""A defect of the program itself (sysexits.h)."""


def report(error: Exception, *, debug: bool) -> int:
    """Print what an error means to the user, and return the exit code.

    Args:
        error: What a command raised. A `TradewindError` says itself what to do; anything else is a defect, whose
            traceback goes into a private file.
        debug: Whether to print the traceback.
    """
    label = typer.style("error:", fg="red")
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, TradewindError):
        typer.echo(f"{label} {error}", err=True)
        return 1
    said = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    where = "The traceback is above." if debug else f"The traceback is in {_keep(error)}; `--debug` prints it."
    typer.echo(f"{label} this is a defect of Tradewind, not of your input; got {what}. {where}", err=True)
    return EX_SOFTWARE


def _keep(error: Exception) -> str:
    descriptor, path = tempfile.mkstemp(prefix="tradewind-", suffix=".log")
    with os.fdopen(descriptor, "w") as file:
        traceback.print_exception(error, file=file)
    return path
