from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from include.cli.deployment import find_deployment
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption, ModelOption
from include.cli.tables import print_json

if TYPE_CHECKING:
    from include.rollout.history import Served

_ORIGIN = ("window_start", "window_end", "data_versions", "commit", "parameters", "run_id", "dag_run_id", "digest")

ledger = typer.Typer(no_args_is_help=True)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"must be a moment such as 2026-11-21T12:00 or 2026-11-21T12:00:30.5+01:00, or a day; got {text!r}."
        ) from error


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
    from include.rollout.ledger import Ledger

    found = Ledger(path=find_deployment(home).home.ledger).verified(expected_head=expected_head)
    typer.echo(f"{found.num_entries} entries, every link holds; head {found.head}")


@ledger.command()
def serving(
    *,
    model: ModelOption,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=_moment,
            metavar="MOMENT",
            help="2026-11-21T12:00, with seconds or an offset too, or a day; UTC without an offset. Default: now.",
        ),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Say who served a model at a moment: version, share, since when, by whose decision, and where it comes from."""
    from include.errors import NotFoundError
    from include.rollout.history import serving_at
    from include.rollout.ledger import Ledger

    when, ledger_of_home = at or datetime.now(UTC), Ledger(path=find_deployment(home).home.ledger)
    served = serving_at(ledger_of_home, model, when)
    if not served:
        ever = ledger_of_home.takeover(model)
        raise NotFoundError(
            f"ledger must name a champion of {model!r} at {when.isoformat()}; got none before it. Nothing served then. "
            + (
                f"Name a later moment: the newest one began at {ever.at.isoformat()}."
                if ever
                else "None ever did: is that its name? `./tradewind status` lists the models."
            )
        )
    if as_json:
        print_json([asdict(one) for one in served])
        return
    for one in served:
        _print_served(one)


def _print_served(one: "Served") -> None:
    entry = one.decided
    since = f"since {entry.at:%Y-%m-%d %H:%M:%S} UTC, by {entry.kind} of {entry.actor}"
    typer.echo(f"v{one.version} {one.role} {one.share_pct:g} % {since}")
    for name in ("approved_by", *_ORIGIN):
        value = (entry.evidence if name == "approved_by" else one.origin).get(name)
        if value:
            shown = ", ".join(f"{key}={found}" for key, found in value.items()) if isinstance(value, dict) else value
            typer.echo(f"  {name.replace('_', ' '):13} {shown}")
    for reason in entry.evidence.get("reasons", ()):
        typer.echo(f"  {'reason':13} {reason}")
