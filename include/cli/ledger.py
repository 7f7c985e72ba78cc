from datetime import UTC, datetime
from typing import Annotated

import typer

from include.cli.deployment import find_deployment
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption, ModelArgument
from include.cli.tables import print_json

ledger = typer.Typer(no_args_is_help=True)
_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


@ledger.callback()
def about() -> None:
    """Ask the ledger: whether it is whole, and what served when."""


@ledger.command()
def verify(
    *,
    expected_head: Annotated[
        str | None, typer.Option("--head", help="Hash of an entry, kept elsewhere, that must still be in the chain.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Check every link of the chain, and print the hash of the newest entry.

    Keep that hash elsewhere: with --head it finds a file that somebody wrote anew from the first entry on.
    """
    from include.rollout.ledger import GENESIS, Ledger

    found = Ledger(path=find_deployment(home).home.ledger)
    num_entries = found.verify(expected_head=expected_head)
    entries = found.entries()
    typer.echo(f"{num_entries} entries, every link holds; head {entries[-1].hash if entries else GENESIS}")


@ledger.command()
def serving(
    model: ModelArgument,
    *,
    at: Annotated[
        datetime | None, typer.Option(formats=_FORMATS, help="Moment, UTC unless it has an offset; now without it.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Say which version of a model served at a moment, since when, by whose decision, and on what evidence."""
    from include.errors import NotFoundError
    from include.rollout.ledger import Ledger

    when = datetime.now(UTC) if at is None else at if at.tzinfo else at.replace(tzinfo=UTC)
    entry = Ledger(path=find_deployment(home).home.ledger).serving_at(model, when)
    if entry is None:
        raise NotFoundError(
            f"ledger must name a champion of {model!r} at {when.isoformat()}; got none before it. Nothing served then. "
            "Name a later moment."
        )
    if as_json:
        print_json(entry)
        return
    typer.echo(
        f"v{entry.evidence['champion']} since {entry.at:%Y-%m-%d %H:%M:%S} UTC, by {entry.kind} of {entry.actor}"
    )
    for reason in entry.evidence.get("reasons", ()):
        typer.echo(f"  {reason}")
