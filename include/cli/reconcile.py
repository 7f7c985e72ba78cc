"""`./tradewind reconcile`: start what was lost between two stages, now."""

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from include.cli.deployment import find_deployment, sources_of
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption, ModelsArgument

UNPAUSE_TIMEOUT_S = 10.0


def reconcile(
    model: ModelsArgument = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be started.")] = False,
    unpause: Annotated[
        bool, typer.Option("--unpause", help="Unpause the models' Dags first, consumers first.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Start the runs that lost events should have started, and name what is stuck.

    The Dag `reconcile` does the same every five minutes. Twice starts nothing twice.
    """
    from include.progress.reconcile import reconcile_models
    from include.runtime.stack import STAGES
    from include.spec import load_spec, model_names

    models = [load_spec(model).name] if model else model_names()
    sources = sources_of(find_deployment(home))
    if unpause and not dry_run and sources.airflow is not None:
        sources.airflow.unpause_in_order(STAGES, timeout_s=UNPAUSE_TIMEOUT_S, models=models)
    actor = None if dry_run else f"{getpass.getuser()} by ./tradewind reconcile"
    found = reconcile_models(models, sources=sources, now=datetime.now(UTC), actor=actor)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        for line in found.lines():
            typer.echo(line)
        num_planned, num_started = (
            sum(len(getattr(item, name)) for item in found.models) for name in ("planned", "started")
        )
        typer.echo(f"{num_planned} to be started" if dry_run else f"{num_started} started")
    if found.unreadable:
        raise typer.Exit(1)
